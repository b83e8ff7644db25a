"""How ids, states and instants are stored: in forms that all databases compare alike, whatever their collation."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final

__all__ = ["KEY_LENGTH", "NEVER", "STATE_LENGTH", "is_hash", "key", "micros", "state_key"]

KEY_LENGTH: Final = 69
STATE_LENGTH: Final = 69
NEVER: Final = -(1 << 62)
"""An instant before all others."""

PLAIN: Final = re.compile(r"[a-z0-9._-]{1,64}")
STATE: Final = re.compile(r"[A-Z_]{1,64}")
HASH: Final = "hash:"


def key(id: str) -> str:
    """Return an id as it is stored: a hash of it, unless it is short, and of lower-case letters, digits and `.-_`.

    The ids that Celeriac makes are. Some databases regard `A` and `a` as equal, or `a` and `a ` with a space.
    """
    return id if PLAIN.fullmatch(id) else _hash(id)


def state_key(state: str) -> str:
    """Return a state as it is stored: a hash of it, unless it looks as Celery's states do."""
    return state if STATE.fullmatch(state) else _hash(state)


def is_hash(key: str) -> bool:
    """Return whether a key is the hash of an id, which it does not tell."""
    return key.startswith(HASH)


def _hash(text: str) -> str:
    return HASH + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def micros(seconds: float) -> int:
    """Return seconds as whole microseconds: all databases keep those exactly."""
    return int(seconds * 1_000_000)
