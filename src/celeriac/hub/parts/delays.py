"""Delays: messages that wait for another broker."""

from __future__ import annotations

from celeriac.drivers.sqlite.delays import SQLiteDelayStore
from celeriac.hub.database import HubDatabase, finish
from celeriac.model.clock import Clock
from celeriac.ports.delays import Counts, Delayed, Due, Taken

__all__ = ["Delays"]


class Delays:
    """The verbs `delays.*`."""

    def __init__(self, database: HubDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def _store(self) -> SQLiteDelayStore:
        return SQLiteDelayStore(self._database, self._clock)  # a new one: the file may be another meanwhile

    def keep(self, messages: list[Delayed]) -> None:
        """Store messages."""
        self._store().keep(messages)

    def take_due(self, limit: int, seconds: float) -> Due:
        """Take what is due."""
        return finish(self._store().take_due(limit, seconds))

    def take(self, ids: list[str], seconds: float) -> list[Taken]:
        """Take messages by their ids."""
        return finish(self._store().take(ids, seconds))

    def take_from(self, queue: str, limit: int, seconds: float) -> list[Taken]:
        """Take messages of a queue."""
        return finish(self._store().take_from(queue, limit, seconds))

    def remove(self, taken: list[Taken]) -> list[bool]:
        """Delete messages that were taken."""
        return finish(self._store().remove(taken))

    def release(self, taken: list[Taken]) -> None:
        """Hold messages no longer."""
        finish(self._store().release(taken))

    def counts(self) -> dict[str, Counts]:
        """Count the messages of every queue."""
        return finish(self._store().counts())

    def page(self, queue: str | None, due: bool, limit: int, offset: int) -> list[Taken]:
        """Look at messages."""
        return finish(self._store().page(queue, due, limit, offset))
