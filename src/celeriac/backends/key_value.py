"""Base of backends on key-value stores: a backend from four operations on keys and values.

An adapter implements `get_many`, `set`, `add` and `delete_many`, all with keys of ASCII letters, digits and `:-_.`, and
values of bytes; `KeyValueWorkflows` (backends/key_value_workflows.py) needs compare-and-set too, and keeps workflows.

| key | value | written by |
|---|---|---|
| `f:<task id>` | the final outcome; the first one stays | `add` |
| `s:<task id>` | the latest outcome before that (STARTED, RETRY, PROGRESS) | `set` |
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from hashlib import sha256

from celeriac.backends.bases import SyncBackend
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.outcome import Outcome

__all__ = ["KeyValueBackend", "safe"]

LONGEST_ID = 64  # characters of an id in a key; longer ones, and ones with other characters, are hashed



class KeyValueBackend(SyncBackend):
    """Outcomes in a key-value store. The four operations may be called from several threads at a time."""

    def __init__(self, clock: Clock, result_expires: float | None, codec: Codec = PLAIN_CODEC) -> None:
        super().__init__(clock)
        self.codec = codec
        self.expires = result_expires

    # --- The adapter's part ---------------------------------------------------------------------------

    @abstractmethod
    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of the keys that exist and have not expired."""

    @abstractmethod
    def set(self, key: str, value: bytes, expires: float | None) -> None:
        """Set a value, which expires after so many seconds (None: never)."""

    @abstractmethod
    def add(self, key: str, value: bytes, expires: float | None) -> bool:
        """Set a value if the key does not exist, in one atomic step; return whether it was set."""

    @abstractmethod
    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete keys; those that do not exist are ignored."""

    def add_many(self, items: Sequence[tuple[str, bytes]], expires: float | None) -> list[bool]:
        """Call `add` for each item, in their order. Override it if the client can send many requests at once."""
        return [self.add(key, value, expires) for key, value in items]

    # --- What follows from it -------------------------------------------------------------------------

    def save(self, outcomes: Sequence[Outcome]) -> list[bool]:
        asked = [_final(outcome.id) for outcome in outcomes if not outcome.ready]
        ended = set(self.get_many(asked)) if asked else set()
        finals = [(_final(outcome.id), self.codec.encode_outcome(outcome)) for outcome in outcomes if outcome.ready]
        added = iter(self.add_many(finals, self.expires))
        done = []
        for outcome in outcomes:
            key = _final(outcome.id)
            if outcome.ready:
                done.append(next(added))
                ended.add(key)
            elif key in ended:
                done.append(False)
            else:
                self.set(_early(outcome.id), self.codec.encode_outcome(outcome), self.expires)
                done.append(True)
        return done

    def look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        found = self.get_many([_final(id) for id in ids])
        if not final and len(found) < len(ids):
            found |= self.get_many([_early(id) for id in ids if _final(id) not in found])
        outcomes = {}
        for id in ids:
            value = found.get(_final(id)) or found.get(_early(id))
            if value is not None:
                outcomes[id] = self.codec.read_outcome(id, value)
        return outcomes

    def forget(self, ids: Sequence[str]) -> None:
        self.delete_many([key for id in ids for key in (_final(id), _early(id))])


def _final(id: str) -> str:
    """Return the key of a task's final outcome."""
    return f"f:{safe(id)}"


def _early(id: str) -> str:
    """Return the key of a task's latest outcome before the final one."""
    return f"s:{safe(id)}"


def safe(id: str) -> str:
    """Return an id as part of a key: a hash of it, if it is long or has special characters."""
    if len(id) <= LONGEST_ID and id.isascii() and id.replace("-", "").replace("_", "").replace(".", "").isalnum():
        return id
    return f"hash:{sha256(id.encode()).hexdigest()}"
