"""Bearer tokens: made by `celeriac web token add`, and kept as hashes in a file, or in the setting `web_tokens`.

Both have one line for each token: its name, the SHA-256 of the token, when it expires (a date, or `-`), and its scopes.

    ci 9f86d081884c7d65…  2027-01-31T00:00:00+00:00 tasks:send:mail.* results:read

A token is `clr_<name>_<random>`, so that it is found by its name, and secret scanners find it.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from celeriac.errors import ImproperlyConfigured
from celeriac.web.scopes import User, check_scopes

__all__ = ["Token", "TokenFile", "Tokens", "new_token", "read_tokens"]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")
HASH: Final = re.compile(r"[0-9a-f]{64}")
NEVER: Final = "-"
HEADER: Final = "# Tokens of the HTTP API, as hashes: `celeriac web token` writes this file.\n"


class Token(msgspec.Struct, frozen=True):
    """A token as it is kept."""

    name: str
    hash: str
    expires_at: datetime | None
    scopes: tuple[str, ...]

    def __str__(self) -> str:
        until = NEVER if self.expires_at is None else self.expires_at.isoformat()
        return " ".join((self.name, self.hash, until, *self.scopes))


def new_token(name: str, scopes: Sequence[str], expires_at: datetime | None) -> tuple[str, Token]:
    """Return a new token, and what is kept of it. Raises `ImproperlyConfigured` for a wrong name or scope."""
    if NAME.fullmatch(name) is None:
        raise ImproperlyConfigured(f"The name of a token has letters, digits, '.' and '-', not {name!r}.")
    if not scopes:
        raise ImproperlyConfigured("A token needs at least one scope.")
    check_scopes(scopes)
    text = f"clr_{name}_{secrets.token_hex(32)}"
    return text, Token(name, _hash(text), expires_at, tuple(scopes))


def read_tokens(lines: Iterable[str], where: str) -> dict[str, Token]:
    """Return the tokens of such lines, by name. Raises `ImproperlyConfigured`."""
    found: dict[str, Token] = {}
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        name, hash_, until, *scopes = (*parts, "", "", "")[: max(3, len(parts))]
        try:
            expires_at = None if until == NEVER else datetime.fromisoformat(until)
        except ValueError:
            until = ""
        if NAME.fullmatch(name) is None or HASH.fullmatch(hash_) is None or not until or not scopes:
            raise ImproperlyConfigured(f"{where}, line {number}: not a token as `celeriac web token add` writes it "
                                       "(name, SHA-256, date or '-', scopes). Add the token again.")  # fmt: skip
        if expires_at is not None and expires_at.tzinfo is None:
            expires_at = expires_at.replace(tzinfo=UTC)
        check_scopes(scopes)
        found[name] = Token(name, hash_, expires_at, tuple(scopes))
    return found


class TokenFile:
    """A file with tokens, which only its owner can read. It is read again when it has changed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._stamp: tuple[int, int, int] | None = None
        self._tokens: dict[str, Token] = {}
        self._lock = threading.Lock()

    def read(self) -> dict[str, Token]:
        """Return the tokens by name; none if there is no file."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return {}
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        with self._lock:
            if stamp != self._stamp:
                self._tokens = read_tokens(self.path.read_text(encoding="utf-8").splitlines(), str(self.path))
                self._stamp = stamp
            return dict(self._tokens)

    def add(self, token: Token) -> None:
        """Add a token. Raises `ImproperlyConfigured` if there is one of its name."""
        tokens = self.read()
        if token.name in tokens:
            raise ImproperlyConfigured(f"There is a token named {token.name!r} already: remove it first.")
        self._write({**tokens, token.name: token})

    def remove(self, name: str) -> bool:
        """Remove a token; return whether there was one."""
        tokens = self.read()
        if tokens.pop(name, None) is None:
            return False
        self._write(tokens)
        return True

    def _write(self, tokens: dict[str, Token]) -> None:
        """Replace the file in one step, so that a server never reads half of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:  # `mkstemp` made it readable for its owner alone
                file.write(HEADER + "".join(f"{token}\n" for token in tokens.values()))
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise


class Tokens:
    """The tokens of an app: those of its settings, and those of its file."""

    def __init__(self, lines: Sequence[str], file: TokenFile) -> None:
        self._fixed = read_tokens(lines, "web_tokens")
        self._file = file
        self._were_used = False

    @property
    def are_used(self) -> bool:
        """Whether users have to show one: there are some, or there is a file for them, or there was one before.

        So removing the last one, or losing the file, opens nothing to everybody.
        """
        self._were_used = self._were_used or bool(self.all()) or self._file.path.exists()
        return self._were_used

    def all(self) -> dict[str, Token]:
        """Return all tokens by name."""
        return {**self._file.read(), **self._fixed}

    def user(self, text: str, now: float) -> User | None:
        """Return the user of a token, or None if it is unknown or has expired."""
        prefix, _, rest = text.partition("_")
        name = rest.rpartition("_")[0]
        token = self.all().get(name) if prefix == "clr" else None
        given = _hash(text)
        if not hmac.compare_digest(given, token.hash if token is not None else _hash("")) or token is None:
            return None
        if token.expires_at is not None and now >= token.expires_at.timestamp():
            return None
        return User(token.name, frozenset(token.scopes))


def _hash(text: str) -> str:
    return sha256(text.encode(errors="surrogateescape")).hexdigest()
