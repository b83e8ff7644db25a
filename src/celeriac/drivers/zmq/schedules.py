"""Schedules on the hub. Entries are sealed and opened here; the hub keeps bytes, and what it must know of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from celeriac.drivers.zmq.server import Server
from celeriac.drivers.zmq.verbs import EntryRow, ScheduleChange
from celeriac.model.gate import Unreadable
from celeriac.ports.schedules import Change, Due, Entry, ScheduleStore, decode_entry, encode_entry, readable

__all__ = ["HubSchedules"]

log = logging.getLogger("celeriac.zmq")


class HubSchedules(ScheduleStore):
    """Entries in the file of a hub."""

    def __init__(self, server: Server, publishes: bool) -> None:
        self.publishes = publishes
        self._server = server

    async def create(self, entries: Sequence[Entry]) -> list[bool]:
        done: list[bool] = await self._server.ado("schedules.create", list(map(self._row, entries)))
        return done

    async def change(self, changes: Sequence[Change]) -> list[bool]:
        pack = self._server.pack
        items = [ScheduleChange(EntryRow(one.before.name, b"", one.before.revision), self._row(one.after),
                                list(map(pack, one.messages)), list(one.plans)) for one in changes]  # fmt: skip
        done: list[bool] = await self._server.ado("schedules.change", items)
        return done

    async def remove(self, names: Mapping[str, int | None]) -> list[bool]:
        done: list[bool] = await self._server.ado("schedules.remove", dict(names))
        return done

    async def get(self, names: Sequence[str]) -> dict[str, Entry]:
        return {entry.name: entry for entry in self._entries(await self._server.ado("schedules.get", list(names)))}

    async def page(self, after: str, limit: int) -> list[Entry]:
        return self._entries(await self._server.ado("schedules.page", after, limit))

    async def due(self, limit: int) -> Due:
        now, rows, soonest = await self._server.ado("schedules.due", limit)
        entries, bad = [], {}
        for row in rows:
            try:
                entries.append(self._entry(row))
            except Unreadable as error:
                log.error("The schedule %r is unreadable and does not run: %s", row.name, error)
                bad[row.name] = row.revision
        if bad:
            await self._server.ado("schedules.set_aside", bad)
        return Due(now, entries, soonest)

    def _entries(self, rows: Sequence[EntryRow]) -> list[Entry]:
        return readable(((row.name, row) for row in rows), self._entry)

    def _row(self, entry: Entry) -> EntryRow:
        data = self._server.codec.seal("schedule", encode_entry(entry), entry.name)
        return EntryRow(entry.name, data, entry.revision, entry.next_at)

    def _entry(self, row: EntryRow) -> Entry:
        entry = decode_entry(self._server.codec.open("schedule", row.data, row.name))
        if entry.name != row.name:
            raise Unreadable(f"it is the schedule {entry.name!r}")
        return replace(entry, revision=row.revision)
