"""The hub of a `zmq://` URL, and the keys with which a client reaches it.

    zmq://host:5557                                  plain: for this machine, or a network of one's own
    zmq://host:5557?server_key=…&key_file=worker.key_secret
    zmq+ipc:///run/celeriac/hub.sock

The key of the hub is public: 64 hexadecimal digits (`celeriac hub keys` prints the URL), or Z85, percent-encoded.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import zmq.utils.z85 as z85

from celeriac.drivers.sockets import port_number
from celeriac.errors import ImproperlyConfigured

__all__ = ["DEFAULT_PORT", "Address", "hex_of", "read_key", "read_key_file", "write_key_file"]

DEFAULT_PORT: Final = 5557
OPTIONS: Final = frozenset({"server_key", "key_file"})
FIELD: Final = re.compile(r'^\s*(public-key|secret-key)\s*=\s*"([^"]{40})"\s*$', re.MULTILINE)


class Address(msgspec.Struct, frozen=True):
    """Where a hub is, and the keys (Z85) for CURVE; empty without it."""

    endpoint: str
    server_key: bytes = b""
    public_key: bytes = b""
    secret_key: bytes = b""

    @classmethod
    def of(cls, url: str, server_key: str | None = None, key_file: str | None = None) -> Address:
        """Return what a URL says; the keys that it does not name are these. Raises `ImproperlyConfigured`."""
        try:
            parts = urlsplit(url)
            if parts.username is not None or parts.password is not None:
                raise ValueError("a hub knows keys, and no users: leave user and password out")
            options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
            unknown = sorted(options.keys() - OPTIONS)
            if unknown:
                raise ValueError(f"there is no option {unknown[0]!r}; there are server_key and key_file")
            endpoint = _endpoint(parts.scheme, parts.netloc, unquote(parts.path))
            key = options.get("server_key", server_key)
            file = options.get("key_file", key_file)
            if bool(key) != bool(file):
                raise ValueError("CURVE needs both: the key of the hub (server_key) and the client's own (key_file)")
            if not key or not file:
                return cls(endpoint)
            public, secret = read_key_file(file)
            if not secret:
                raise ValueError(f"{file} has only a public key: name the file that ends in .key_secret")
            return cls(endpoint, read_key(key), public, secret)
        except (ValueError, OSError) as error:
            raise ImproperlyConfigured(f"The URL of the hub {url!r} cannot be used: {error}. Write "
                                       "zmq://host:5557 or zmq+ipc:///path/to/socket.") from error  # fmt: skip

    def __str__(self) -> str:
        return self.endpoint


def _endpoint(scheme: str, netloc: str, path: str) -> str:
    if scheme == "zmq+ipc":
        if netloc or not path.strip("/"):
            raise ValueError("it names no path")
        return f"ipc://{path}"
    if path.strip("/"):
        raise ValueError("a hub has no databases: leave the path out")
    host, _, port = netloc.rpartition(":") if re.search(r":[^\]]*$", netloc) else (netloc, "", "")
    if not host:
        raise ValueError("it names no host")
    return f"tcp://{host}:{port_number(port) if port else DEFAULT_PORT}"


# --- Keys ---------------------------------------------------------------------------------------------


def read_key(text: str) -> bytes:
    """Return a public key as ZeroMQ takes it, from hexadecimal digits or Z85. Raises `ValueError`."""
    try:
        if len(text) == 64:
            return bytes(z85.encode(bytes.fromhex(text)))
        if len(text) == 40:
            z85.decode(text.encode())
            return text.encode()
    except (ValueError, KeyError) as error:
        raise ValueError(f"{text!r} is no key: {error}") from None
    raise ValueError(f"{text!r} is no key: it needs 64 hexadecimal digits")


def hex_of(key: bytes) -> str:
    """Return a key, given in Z85, as hexadecimal digits."""
    return bytes(z85.decode(key)).hex()


def read_key_file(path: str | Path) -> tuple[bytes, bytes]:
    """Return the public and the secret key (empty if it has none) of a file. Raises `OSError`, `ValueError`."""
    found = dict(FIELD.findall(Path(path).read_text()))
    if "public-key" not in found:
        raise ValueError(f"{path} is no key file: `celeriac hub keys` makes them")
    public, secret = read_key(found["public-key"]), found.get("secret-key", "")
    return public, read_key(secret) if secret else b""


def write_key_file(path: Path, name: str, public: bytes, secret: bytes = b"") -> None:
    """Write keys to a new file, in ZeroMQ's format; a secret for its owner alone. Raises `FileExistsError`."""
    kind = "the secret key: only its owner may read this file" if secret else "the public key"
    lines = [f"#   Celeriac: {name}, {kind}", "metadata", "curve", f'    public-key = "{public.decode()}"']
    lines += [f'    secret-key = "{secret.decode()}"'] if secret else []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if secret else 0o644)
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(lines) + "\n")
