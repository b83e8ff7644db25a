"""Signatures of HTTP requests, as Standard Webhooks 1.0 defines them: the headers go out with a request, or come in.

    webhook-id: 0197a1b2-…
    webhook-timestamp: 1674087231
    webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=

`http/` signs what HTTP tasks and callbacks send. Receivers written in Python call `verify`, from `celeriac.webhooks`.
"""

from __future__ import annotations

import hmac
import re
import secrets as random_bytes
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import quote

from celeriac.errors import BadSignature

__all__ = ["header_id", "new_secret", "parse_secret", "sign", "signed_headers", "verify"]

PREFIX: Final = "whsec_"
VERSION: Final = "v1"
SHORTEST, LONGEST, USUAL = 24, 64, 32  # bytes of a secret
TOLERANCE: Final = 300.0  # seconds that a timestamp may differ from the receiver's clock
MOST: Final = 50  # signatures that a receiver looks at
UNSAFE: Final = re.compile(r"[^\w/:@+=,~-]", re.ASCII)


def new_secret() -> str:
    """Return a new random secret, as text."""
    return PREFIX + b64encode(random_bytes.token_bytes(USUAL)).decode()


def parse_secret(text: str) -> bytes:
    """Return the bytes of a secret. Raises `ValueError` for text that is none.

    >>> parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").hex(" ", 8)
    '31f290f6bf06298a ab4f08d43c3f082c f648a362da2da4b0'
    """
    try:
        secret = b64decode(text.removeprefix(PREFIX), validate=True) if text.startswith(PREFIX) else b""
    except ValueError:
        secret = b""
    if not SHORTEST <= len(secret) <= LONGEST:
        raise ValueError(
            f"a secret of Standard Webhooks: whsec_ and then {SHORTEST} to {LONGEST} bytes in Base64. "
            "`celeriac keys --webhook` makes one."
        )
    return secret


def sign(id: str, timestamp: int, body: bytes, secret: bytes) -> str:
    """Return a signature, as the header has it.

    >>> secret = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    >>> sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', secret)
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    content = b"%b.%d.%b" % (id.encode(), timestamp, body)
    return f"{VERSION},{b64encode(hmac.digest(secret, content, 'sha256')).decode()}"


def signed_headers(id: str, now: float, body: bytes, secrets: Iterable[bytes]) -> dict[str, str]:
    """Return the headers of a request. With several secrets it has several signatures, while they are replaced."""
    id, timestamp = header_id(id), int(now)
    signatures = " ".join(sign(id, timestamp, body, secret) for secret in secrets)
    return {"webhook-id": id, "webhook-timestamp": str(timestamp), "webhook-signature": signatures}


def header_id(id: str) -> str:
    """Return an id as a header can have it. Callers may choose ids with any characters.

    A full stop would let an id and a timestamp be divided in another way, so it is escaped too.

    >>> header_id("order.17\\r\\nHost: evil")
    'order%2E17%0D%0AHost:%20evil'
    """
    return UNSAFE.sub(lambda found: "%2E" if found[0] == "." else quote(found[0], safe=""), id)


def verify(headers: Mapping[str, str], body: bytes, secrets: str | Sequence[str], *,
           tolerance: float = TOLERANCE, now: float | None = None) -> str:  # fmt: skip
    """Check that a request was signed with one of the secrets, and not long ago; return its id.

    `body` is the body as it came, not decoded and encoded again. A request may come several times, always with the same
    id: a receiver that must not do its work twice remembers the ids. Raises `BadSignature`.
    """
    given = {name.lower(): value for name, value in headers.items()}
    id, timestamp = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    signatures = given.get("webhook-signature", "")
    if not (id and timestamp and signatures):
        raise BadSignature("The request is not signed: it lacks webhook-id, webhook-timestamp or webhook-signature.")
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 15):
        raise BadSignature("The webhook-timestamp is not a whole number of seconds.")
    age = (time.time() if now is None else now) - int(timestamp)
    if abs(age) > tolerance:
        raise BadSignature(f"The request was signed {abs(age):.0f} s {'ago' if age > 0 else 'ahead of this clock'}: "
                           f"{tolerance:g} s are accepted.")  # fmt: skip
    allowed = [secrets] if isinstance(secrets, str) else secrets
    wanted = [sign(id, int(timestamp), body, parse_secret(secret)).encode() for secret in allowed]
    given_ones = [signature.encode(errors="replace") for signature in signatures.split(" ")[:MOST]]
    if any(hmac.compare_digest(one, other) for one in given_ones for other in wanted):
        return id
    raise BadSignature("The request is not signed with one of the secrets, or its body was changed on the way.")
