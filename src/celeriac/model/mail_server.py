"""The mail server that `mail_url` names, and the addresses of mails: parsed and checked, without any I/O.

    smtp://[user:password@]host[:port][?tls=starttls|ssl|none]      smtps://… is the same with tls=ssl

`config/definitions.py` checks settings by it; `mail/smtp.py` connects. Whatever enters a header of a mail goes through
`one_line` first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

__all__ = ["MailServer", "address_of", "addresses", "check_address", "one_line"]

TLS: Final = {"starttls": 587, "ssl": 465, "none": 25}
"""How the connection is encrypted, and the port on which servers expect that."""

LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
OPTIONS: Final = ("tls", "ssl_ca_certs", "ssl_cert_reqs")
ADDRESS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
                            r"@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")  # fmt: skip
NAMED: Final = re.compile(r'\s*(?:"([^"\\\r\n]*)"|([^<>"\r\n]*?))\s*<([^<>\s]+)>\s*')
LONGEST: Final = 254  # characters of an address


class MailServer(msgspec.Struct, frozen=True, kw_only=True):
    """A mail server, how to reach it, and the credentials for it."""

    host: str = "localhost"
    port: int = 25
    tls: str = "none"  # one of `TLS`
    username: str = ""
    password: str = ""
    ca_certs: str = ""  # the file with the authority that has signed its certificate, if the system knows none
    verifies: bool = True

    @classmethod
    def of(cls, url: str) -> MailServer:
        """Parse a URL. Raises `ValueError`, which does not show the password.

        >>> MailServer.of("smtp://user:secret@mail.example").port
        587
        """
        if any(ord(char) <= 32 or ord(char) == 127 for char in url):
            raise ValueError(f"a URL without spaces and control characters: write them as %20. {FORM}")
        beginning, end, rest = re.split(r"([/?#]|$)", url.partition("://")[2], maxsplit=1)
        if end and "@" in rest.partition("ssl_ca_certs=")[0] and "@" not in beginning:
            raise ValueError("/, ? and # in the user or the password must be written as %2F %3F %23.")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError:
            raise ValueError(f"a URL that can be read. {FORM}") from None
        if parts.scheme not in ("smtp", "smtps"):
            raise ValueError(f"a URL that begins with smtp:// or smtps://. {FORM}")
        if not host or parts.path.strip("/") or parts.fragment:
            raise ValueError(f"a URL with a host and without a path. {FORM}")
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise ValueError(f"no option {unknown[0]!r}. Its options are {', '.join(OPTIONS)}.")
        tls = options.get("tls") or ("ssl" if parts.scheme == "smtps" else "none" if host in LOCAL else "starttls")
        if tls not in TLS or (parts.scheme == "smtps" and tls != "ssl"):
            raise ValueError(f"tls=starttls, tls=ssl or tls=none, not tls={tls}; smtps:// is tls=ssl.")
        if (required := options.get("ssl_cert_reqs", "required")) not in ("required", "none"):
            raise ValueError(f"ssl_cert_reqs=required or ssl_cert_reqs=none, not {required!r}.")
        username, password = unquote(parts.username or ""), unquote(parts.password or "")
        if bool(username) is not bool(password):
            raise ValueError("a user and a password, or neither: smtp://user:password@host.")
        return cls(host=host, port=port or TLS[tls], tls=tls, username=username, password=password,
                   ca_certs=options.get("ssl_ca_certs", ""), verifies=required == "required")  # fmt: skip

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"<MailServer {self} tls={self.tls}>"  # without the password


FORM: Final = "Write smtp://user:password@host:587?tls=starttls."


def addresses(value: Any) -> list[str]:
    """Return addresses as a list of texts, `Ann <ann@example.org>`.

    They may be given so, as `(name, address)` as in Celery, or as one text with commas between them. Raises
    `ValueError` for what is no address.

    >>> addresses([("Ann", "ann@example.org"), "bob@example.org"])
    ['Ann <ann@example.org>', 'bob@example.org']
    """
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, Iterable) or isinstance(value, bytes | dict):
        raise ValueError(f"a list of addresses, ['Ann <ann@example.org>', …], not {value!r}.")
    return [check_address(one if isinstance(one, str) else _pair(one)) for one in value]


def _pair(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(part, str) for part in value):
        name, address = value
        return f"{name} <{address}>" if name else str(address)
    raise ValueError(f"an address is text, 'Ann <ann@example.org>', or ('Ann', 'ann@example.org'), not {value!r}.")


def check_address(value: str) -> str:
    """Return an address that can be in a mail. Raises `ValueError`."""
    name, address = address_of(value)
    if one_line(name) != name or len(name) > LONGEST:
        raise ValueError(f"the name of {address} must be short text without control characters.")
    if len(address) > LONGEST or not ADDRESS.fullmatch(address) or ".." in address:
        raise ValueError(f"{value!r} is no address: write 'ann@example.org' or 'Ann <ann@example.org>'.")
    return f"{name} <{address}>" if name else address


def address_of(value: str) -> tuple[str, str]:
    """Return the name and the bare address of an address.

    >>> address_of("Ann <ann@example.org>")
    ('Ann', 'ann@example.org')
    """
    named = NAMED.fullmatch(value)
    return ((named[1] if named[1] is not None else named[2]).strip(), named[3]) if named else ("", value.strip())


def one_line(text: str, longest: int = 200) -> str:
    """Return text that may be in a header: one line, without control characters, cut if it is too long.

    Characters that change how those around them are shown are left out, too.

    >>> one_line("Error" + chr(13) + chr(10) + "Bcc: all@example.org")
    'Error Bcc: all@example.org'
    """
    plain = text[: 4 * longest].encode("utf-8", "backslashreplace").decode()
    shown = "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in plain
                    if unicodedata.category(char) not in ("Cf", "Cs", "Co", "Cn"))  # fmt: skip
    line = re.sub(" {2,}", " ", shown).strip().replace("=?", "= ?")  # the beginning of encoded characters
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
