"""Schedules in a table, for brokers that keep none: RabbitMQ with PostgreSQL. Changes publish nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from celeriac.drivers.sql.database import Database
from celeriac.drivers.sql.keys import key
from celeriac.drivers.sql.outcomes import PAGE, pages
from celeriac.model.clock import Clock
from celeriac.model.codec import Codec
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

__all__ = ["SQLScheduleStore"]

log = logging.getLogger("celeriac.backends")


Row = Any
"""A row of SQLAlchemy with `name`, `revision` and `entry`."""


class SQLScheduleStore(ScheduleStore):
    """Entries by name."""

    publishes = False

    def __init__(self, database: Database, clock: Clock, codec: Codec) -> None:
        self._database = database
        self._clock = clock
        self._codec = codec
        table = self._table = database.tables.schedules
        self._rows = select(table.c.name, table.c.revision, table.c.entry)
        is_unchanged = (table.c.id == bindparam("key"), table.c.revision == bindparam("seen"))
        kept = {"id", "name", "revision"}
        names = [column.name for column in table.columns if column.name not in kept]
        new: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
        self._change = update(table).where(*is_unchanged).values(revision=table.c.revision + 1, **new)
        self._set_aside = update(table).where(*is_unchanged).values(next_at=None)

    async def create(self, entries: Sequence[Entry]) -> list[bool]:
        table = self._table

        def work(connection: Connection) -> list[bool]:
            taken: set[str] = set()
            for page in pages([key(entry.name) for entry in entries], PAGE):
                taken.update(connection.execute(select(table.c.id).where(table.c.id.in_(page))).scalars())
            done, rows = [], []
            for entry in entries:
                id = key(entry.name)
                done.append(id not in taken)
                if id not in taken:
                    taken.add(id)
                    rows.append({"id": id, "name": entry.name.encode(), "revision": first_revision(),
                                 **self.values(entry)})  # fmt: skip
            if rows:
                connection.execute(insert(table), rows)
            return done

        return await self._database.awrite(work)

    async def change(self, changes: Sequence[Change]) -> list[bool]:
        rows = [
            {"key": key(change.before.name), "seen": change.before.revision,
             **{f"new_{name}": value for name, value in self.values(change.after).items()}}
            for change in changes
        ]  # fmt: skip
        return await self._database.awrite(
            lambda connection: [connection.execute(self._change, row).rowcount == 1 for row in rows]
        )

    async def remove(self, names: Mapping[str, int | None]) -> list[bool]:
        any_revision = delete(self._table).where(self._table.c.id == bindparam("key"))
        unchanged = any_revision.where(self._table.c.revision == bindparam("seen"))

        def remove(connection: Connection, name: str, revision: int | None) -> bool:
            if revision is None:
                return connection.execute(any_revision, {"key": key(name)}).rowcount == 1
            return connection.execute(unchanged, {"key": key(name), "seen": revision}).rowcount == 1

        return await self._database.awrite(lambda connection: [remove(connection, *item) for item in names.items()])

    async def get(self, names: Sequence[str]) -> dict[str, Entry]:
        found: list[Entry] = []
        for page in pages(list(map(key, names)), PAGE):
            found += await self._read(self._rows.where(self._table.c.id.in_(page)))
        return {entry.name: entry for entry in found}

    async def page(self, after: str, limit: int) -> list[Entry]:
        name = self._table.c.name
        # Oracle takes an empty value for none, after which there is nothing.
        rows = self._rows.where(name > after.encode()) if after else self._rows
        return await self._read(rows.order_by(name).limit(limit))

    async def due(self, limit: int) -> Due:
        now = int(self._clock.now() * 1000)
        next_at = self._table.c.next_at
        rows = await self._database.arows(self._rows.where(next_at <= now).order_by(next_at).limit(limit))
        entries, bad = [], []
        for row in rows:
            try:
                entries.append(self.entry_of(row))
            except Unreadable as error:
                log.error("The schedule %r is unreadable and does not run: %s", _name(row), error)
                bad.append({"key": key(_name(row)), "seen": row.revision})
        if bad:
            await self._database.awrite(lambda connection: [connection.execute(self._set_aside, one) for one in bad])
        soonest = await self._database.arows(
            select(next_at).where(next_at.is_not(None)).order_by(next_at).limit(1).offset(len(entries))
        )
        return Due(now, entries, soonest[0].next_at if soonest else None)

    async def _read(self, statement: Any) -> list[Entry]:
        return readable(((_name(row), row) for row in await self._database.arows(statement)), self.entry_of)

    def values(self, entry: Entry) -> dict[str, Any]:
        """Return what is stored of an entry, by column, besides its name and its revision."""
        data = self._codec.seal("schedule", encode_entry(entry), entry.name)
        return {"next_at": entry.next_at, "entry": data, **self._database.tables.shown.of_entry(entry)}

    def entry_of(self, row: Row) -> Entry:
        """Return the entry of a row. Raises `Unreadable`."""
        name = _name(row)
        entry = decode_entry(self._codec.open("schedule", row.entry, name))
        if entry.name != name:
            raise Unreadable(f"it is the schedule {entry.name!r}")
        return replace(entry, revision=row.revision)


def _name(row: Row) -> str:
    return bytes(row.name).decode(errors="replace")
