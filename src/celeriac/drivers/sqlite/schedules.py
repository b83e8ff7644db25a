"""Schedules in SQLite: for the broker, which publishes what they send, and for the backend of another broker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.opening import Connection
from celeriac.model.clock import Clock
from celeriac.model.gate import Unreadable
from celeriac.ports.schedules import (
    Change,
    Due,
    Entry,
    ScheduleStore,
    decode_entry,
    encode_entry,
    first_revision,
    readable,
)

__all__ = ["SET_ASIDE", "Row", "SQLiteScheduleStore"]

log = logging.getLogger("celeriac.sqlite")

CREATE = "INSERT OR IGNORE INTO schedules (name, revision, next_at, entry) VALUES (?, ?, ?, ?)"
CHANGE = "UPDATE schedules SET revision = revision + 1, next_at = ?, entry = ? WHERE name = ? AND revision = ?"
REMOVE = "DELETE FROM schedules WHERE name = ?1 AND revision = ifnull(?2, revision)"
READ = "SELECT name, revision, CAST(entry AS BLOB) FROM schedules"
DUE = f"{READ} WHERE next_at <= ? ORDER BY next_at LIMIT ?"
SOONEST = "SELECT next_at FROM schedules WHERE next_at IS NOT NULL ORDER BY next_at LIMIT 1 OFFSET ?"
OF_NAMES = f"{READ} WHERE name IN (SELECT value FROM json_each(?))"  # noqa: S608 - a constant
AFTER = f"{READ} WHERE name > ? ORDER BY name LIMIT ?"
SET_ASIDE = "UPDATE schedules SET next_at = NULL WHERE name = ? AND revision = ?"

Row = tuple[str, int, bytes]


class SQLiteScheduleStore(ScheduleStore):
    """Entries in a table. `send` publishes what changes send, in their transaction; without it, they send nothing."""

    def __init__(self, database: Database, clock: Clock,
                 send: Callable[[Connection, Sequence[Change], float], None] | None = None) -> None:  # fmt: skip
        self.publishes = send is not None
        self._database = database
        self._clock = clock
        self._send = send

    async def create(self, entries: Sequence[Entry]) -> list[bool]:
        rows = [(entry.name, first_revision(), entry.next_at, self._encode(entry)) for entry in entries]
        return await self._database.awrite(
            lambda connection: [connection.execute(CREATE, row).rowcount == 1 for row in rows]
        )

    async def change(self, changes: Sequence[Change]) -> list[bool]:
        now = self._clock.now()
        rows = [
            (change.after.next_at, self._encode(change.after), change.before.name, change.before.revision)
            for change in changes
        ]

        def work(connection: Connection) -> list[bool]:
            done = [connection.execute(CHANGE, row).rowcount == 1 for row in rows]
            if self._send is not None:
                self._send(connection, [change for change, good in zip(changes, done, strict=True) if good], now)
            return done

        return await self._database.awrite(work)

    async def remove(self, names: Mapping[str, int | None]) -> list[bool]:
        return await self._database.awrite(
            lambda connection: [connection.execute(REMOVE, row).rowcount == 1 for row in names.items()]
        )

    async def get(self, names: Sequence[str]) -> dict[str, Entry]:
        found = self._read(OF_NAMES, (msgspec.json.encode(list(names)).decode(),))
        return {entry.name: entry for entry in found}

    async def page(self, after: str, limit: int) -> list[Entry]:
        return self._read(AFTER, (after, limit))

    async def due(self, limit: int) -> Due:
        now = int(self._clock.now() * 1000)
        rows = self._rows(DUE, (now, limit))
        entries, bad = [], []
        for row in rows:
            try:
                entries.append(self._decode(row))
            except Unreadable as error:
                log.error("The schedule %r is unreadable and does not run: %s", row[0], error)
                bad.append(row[:2])
        if bad:
            await self._database.awrite(lambda connection: connection.executemany(SET_ASIDE, bad))
        soonest = self._database.read(lambda connection: connection.execute(SOONEST, (len(entries),)).fetchone())
        return Due(now, entries, soonest[0] if soonest is not None and isinstance(soonest[0], int) else None)

    def _read(self, query: str, parameters: tuple[object, ...]) -> list[Entry]:
        return readable(((row[0], row) for row in self._rows(query, parameters)), self._decode)

    def _rows(self, query: str, parameters: tuple[object, ...]) -> list[Row]:
        return self._database.read(lambda connection: connection.execute(query, parameters).fetchall())

    def _encode(self, entry: Entry) -> bytes:
        return self._database.codec.seal("schedule", encode_entry(entry), entry.name)

    def _decode(self, row: Row) -> Entry:
        name, revision, raw = row
        if not isinstance(name, str) or not isinstance(revision, int):
            raise Unreadable("its name or revision has the wrong type")
        entry = decode_entry(self._database.codec.open("schedule", raw, name))
        if entry.name != name:
            raise Unreadable(f"it is the schedule {entry.name!r}")
        return replace(entry, revision=revision)
