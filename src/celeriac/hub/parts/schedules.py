"""Schedules: sealed entries, and what the store must know of them."""

from __future__ import annotations

from typing import Any, cast

from celeriac.brokers.sqlite.broker import send_scheduled
from celeriac.drivers.sqlite.schedules import SET_ASIDE, Row, SQLiteScheduleStore
from celeriac.drivers.zmq.verbs import EntryRow, ScheduleChange
from celeriac.hub.database import HubDatabase, finish
from celeriac.hub.parts.leases import published
from celeriac.hub.turn import Turn
from celeriac.model.clock import Clock
from celeriac.model.gate import Unreadable
from celeriac.ports.schedules import Entry

__all__ = ["Schedules", "SealedSchedules"]


class SealedSchedules(SQLiteScheduleStore):
    """The SQLite store, for entries that it cannot read."""

    def _encode(self, entry: Entry) -> bytes:
        return cast(EntryRow, entry).data

    def _decode(self, row: Row) -> Entry:
        name, revision, data = row
        if not isinstance(name, str) or not isinstance(revision, int):
            raise Unreadable("its name or revision has the wrong type")
        return cast(Entry, EntryRow(name, data, revision))


class Schedules:
    """The verbs `schedules.*`."""

    def __init__(self, turn: Turn, database: HubDatabase, clock: Clock) -> None:
        self._turn = turn
        self._database = database
        self._clock = clock
        self._store = SealedSchedules(database, clock, send_scheduled)

    def create(self, entries: list[EntryRow]) -> list[bool]:
        """Store entries. One that is repeated after a restart is new if it is the one that is there."""
        done = finish(self._store.create(cast(Any, entries)))
        if self._turn.repeated and not all(done):
            there = {one.name: one.data for one in self.get([one.name for one in entries])}
            return [new or there.get(one.name) == one.data for one, new in zip(entries, done, strict=True)]
        return done

    def change(self, changes: list[ScheduleChange]) -> list[bool]:
        """Replace entries, and send what they send. One that is repeated after a restart may have been carried out."""
        now = self._clock.now()
        for one in changes:
            one.messages = published(one.messages, now)
        done = finish(self._store.change(cast(Any, changes)))
        if self._turn.repeated and not all(done):
            there = {one.name: one for one in self.get([one.after.name for one in changes])}
            return [new or _is_done(one, there.get(one.after.name)) for one, new in zip(changes, done, strict=True)]
        return done

    def remove(self, names: dict[str, int | None]) -> list[bool]:
        """Delete entries."""
        return finish(self._store.remove(names))

    def get(self, names: list[str]) -> list[EntryRow]:
        """Return entries by name."""
        return cast("list[EntryRow]", list(finish(self._store.get(names)).values()))

    def page(self, after: str, limit: int) -> list[EntryRow]:
        """Return entries by the order of their names."""
        return cast("list[EntryRow]", finish(self._store.page(after, limit)))

    def due(self, limit: int) -> tuple[int, list[EntryRow], int | None]:
        """Return the entries that are due, the instant by which they are, and when the next one is."""
        found = finish(self._store.due(limit))
        return found.now, cast(Any, found.entries), found.soonest

    def set_aside(self, names: dict[str, int]) -> None:
        """Let entries that no client can read rest."""
        self._database.write(lambda connection: connection.executemany(SET_ASIDE, list(names.items())))


def _is_done(change: ScheduleChange, there: EntryRow | None) -> bool:
    """Return whether an entry is as a change has left it."""
    return there is not None and there.revision == change.before.revision + 1 and there.data == change.after.data
