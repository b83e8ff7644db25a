"""Base of backends on key-value stores: a backend from four operations on keys and values.

An adapter implements `get_many`, `set`, `add` and `delete_many`, all with keys of ASCII letters, digits and `:-_.`, and
values of bytes. `KeyValueWorkflows` (backends/key_value_workflows.py) needs compare-and-set too, and keeps workflows;
`StampedValues` (backends/stamped_values.py) is for servers that do not let values expire.

| key | value | written by |
|---|---|---|
| `f:<task id>` | the final outcome; the first one stays | `add` |
| `s:<task id>` | the latest outcome before that (STARTED, RETRY, PROGRESS) | `set` |
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TypeAlias

from celeriac.backends.bases import SyncBackend, without_value
from celeriac.errors import Unstorable
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.outcome import Outcome

__all__ = ["KeyValueBackend", "safe"]

PutMany: TypeAlias = Callable[[Sequence[tuple[str, bytes]], float | None], Sequence[bool | None]]

TOO_LARGE = "cannot be stored: it is larger than the server of the result backend allows."
PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}")  # an id that is part of a key as it is; others are hashed


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

    def add_many(self, items: Sequence[tuple[str, bytes]], expires: float | None) -> Sequence[bool | None]:
        """Call `add` for each item, in their order. Override it if the client can send many requests at once.

        It may return None for a value that is too large for the server: a failure that says so is added instead.
        """
        return [self.add(key, value, expires) for key, value in items]

    def set_many(self, items: Sequence[tuple[str, bytes]], expires: float | None) -> Sequence[bool | None]:
        """Call `set` for each item, as `add_many` does for `add`. It may return None, too."""
        for key, value in items:
            self.set(key, value, expires)
        return [True] * len(items)

    # --- What follows from it -------------------------------------------------------------------------

    def save(self, outcomes: Sequence[Outcome]) -> list[bool]:
        finals = [outcome for outcome in outcomes if outcome.ready]
        if len(finals) == len(outcomes):
            return self._put_outcomes(finals, _final, self.add_many)
        asked = [_final(outcome.id) for outcome in outcomes if not outcome.ready]
        ended = set(self.get_many(asked))
        added = iter(self._put_outcomes(finals, _final, self.add_many))
        done = []
        early: dict[str, Outcome] = {}  # by id: the last one counts
        for outcome in outcomes:
            key = _final(outcome.id)
            if outcome.ready:
                done.append(next(added))
                ended.add(key)
            elif key in ended:
                done.append(False)
            else:
                early[outcome.id] = outcome
                done.append(True)
        self._put_outcomes(list(early.values()), _early, self.set_many)
        return done

    def _put_outcomes(self, outcomes: Sequence[Outcome], key_of: Callable[[str], str], put: PutMany) -> list[bool]:
        """Put outcomes; of those that are too large, without what is large. Return for each whether it was."""
        if not outcomes:
            return []
        done = list(put([(key_of(item.id), self.codec.encode_outcome(item)) for item in outcomes], self.expires))
        for shorten in (Outcome.without_arguments, _without_value):
            places = [place for place, was_put in enumerate(done) if was_put is None]
            shorter = {place: shorten(outcomes[place]) for place in places}
            some = [place for place in places if shorter[place] is not outcomes[place]]
            if some:
                items = [(key_of(outcomes[place].id), self.codec.encode_outcome(shorter[place])) for place in some]
                for place, was_put in zip(some, put(items, self.expires), strict=True):
                    done[place] = was_put
        if None in done:
            raise Unstorable(f"{self!r} refuses values of so few bytes that not even the failure of "
                             f"{outcomes[done.index(None)].id} can be stored.")  # fmt: skip
        return [was_put is True for was_put in done]

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


def _without_value(outcome: Outcome) -> Outcome:
    return without_value(outcome, TOO_LARGE)


def _final(id: str) -> str:
    """Return the key of a task's final outcome."""
    return f"f:{safe(id)}"


def _early(id: str) -> str:
    """Return the key of a task's latest outcome before the final one."""
    return f"s:{safe(id)}"


def safe(id: str) -> str:
    """Return an id as part of a key: a hash of it, if it is long or has special characters."""
    if PLAIN.fullmatch(id):
        return id
    return f"hash:{sha256(id.encode()).hexdigest()}"
