"""The keys of `security_keys`, from which the keys that sign are derived.

    a key of `security_keys`: a secret of 32 characters or more
    ├── caller    message, outcome, tree, line, notice       what callers and workers exchange
    └── operator  command, reply, worker, journal, dead, schedule, history

Each arrow is HMAC-SHA256 with the key above it, over the name below it; the last step adds the prefix of the app's keys
or queues, so that what was signed for one prefix proves nothing under another. A *caller's key* holds the branch
`caller` alone: who has it can call tasks and read results, and cannot command workers.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from secrets import token_urlsafe
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["CALLER_KINDS", "Key", "Kind", "new_key", "parse_key", "write_caller_key"]

Kind: TypeAlias = Literal[
    "message", "outcome", "tree", "line", "notice", "command", "reply", "worker", "journal", "dead", "schedule",
    "history",
]  # fmt: skip
"""What is signed. Nothing that was signed as one kind is accepted as another."""

CALLER_KINDS: Final = frozenset({"message", "outcome", "tree", "line", "notice"})
"""What the holder of a caller's key may write."""

SHORTEST: Final = 32  # characters
CALLER: Final = "caller:"


class Key(NamedTuple):
    """A key, parsed."""

    id: bytes  # four bytes, part of all that it signs: the reader finds the key by it
    caller: bytes
    operator: bytes | None  # None: it is a caller's key

    def derive(self, kind: Kind, prefix: str) -> bytes | None:
        """Return the key that signs one kind of values; None if this key must not."""
        branch = self.caller if kind in CALLER_KINDS else self.operator
        return None if branch is None else _derived(_derived(branch, f"kind {kind}"), f"prefix {prefix}")


def parse_key(text: str) -> Key:
    """Return a key of `security_keys`. Raises `ValueError`, without the key in its message."""
    if text.startswith(CALLER):
        try:
            _, id, caller = text.split(":")
            key = Key(bytes.fromhex(id), urlsafe_b64decode(caller), None)
        except ValueError:
            key = Key(b"", b"", None)
        if len(key.id) != 4 or len(key.caller) != 32:
            raise ValueError("a caller's key as `celeriac keys --caller` prints it; one of them is damaged.")
        return key
    if len(text) < SHORTEST:
        raise ValueError(f"secrets of at least {SHORTEST} characters (`celeriac keys` makes one); one of them has "
                         f"{len(text)}.")  # fmt: skip
    secret = text.encode()
    return Key(sha256(b"celeriac key id\0" + secret).digest()[:4], _derived(secret, "caller"),
               _derived(secret, "operator"))  # fmt: skip


def write_caller_key(key: Key) -> str:
    """Return the caller's key that belongs to a key, as `security_keys` takes it."""
    return f"{CALLER}{key.id.hex()}:{urlsafe_b64encode(key.caller).decode()}"


def new_key() -> str:
    """Return a new random key of 256 bits, as `security_keys` takes it."""
    return token_urlsafe(32)


def _derived(key: bytes, name: str) -> bytes:
    return hmac.digest(key, name.encode(), "sha256")
