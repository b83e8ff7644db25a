"""Schedules in MongoDB, for brokers that keep none: a document for each entry.

| field | |
|---|---|
| `_id` | the entry's name |
| `revision` | rises with each change, which demands the one that was read |
| `next_at` | when it is due, in milliseconds; absent: never |
| `entry` | the entry, encoded |
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from pymongo.errors import BulkWriteError

from celeriac.drivers.mongodb.error_translation import refused
from celeriac.drivers.mongodb.requests import SCHEDULES, Work, call, find, find_of
from celeriac.drivers.mongodb.server import Server
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

__all__ = ["MongoScheduleStore"]

log = logging.getLogger("celeriac.mongodb")

FIELDS = {"revision": 1, "entry": 1}


class MongoScheduleStore(ScheduleStore):
    """Entries in a collection; a change sends nothing."""

    publishes = False

    def __init__(self, server: Server, clock: Clock) -> None:
        self._server = server
        self._clock = clock

    async def create(self, entries: Sequence[Entry]) -> list[bool]:
        first = {entry.name: number for number, entry in reversed(list(enumerate(entries)))}
        rows = [self._row(entries[number], first_revision()) for number in first.values()]
        taken = await self._server.ado(self._server.indexed(_insert(rows)))
        return [first[entry.name] == number and entry.name not in taken for number, entry in enumerate(entries)]

    async def change(self, changes: Sequence[Change]) -> list[bool]:
        return await self._server.ado_each([(change.before.name, self._change(change)) for change in changes])

    def _change(self, change: Change) -> Work[bool]:
        before = change.before
        after = self._row(change.after, before.revision + 1)
        result = yield call(SCHEDULES, "replace_one", {"_id": before.name, "revision": before.revision}, after)
        return bool(result.matched_count)

    async def remove(self, names: Mapping[str, int | None]) -> list[bool]:
        return await self._server.ado_each([(name, _remove(name, revision)) for name, revision in names.items()])

    async def get(self, names: Sequence[str]) -> dict[str, Entry]:
        found = self._read(await self._server.ado(find_of(SCHEDULES, names, {}, FIELDS)))
        return {entry.name: entry for entry in found}

    async def page(self, after: str, limit: int) -> list[Entry]:
        return self._read(await self._server.ado(_page(after, limit)))

    async def due(self, limit: int) -> Due:
        now = int(self._clock.now() * 1000)
        return await self._server.ado(self._due(now, limit))

    def _due(self, now: int, limit: int) -> Work[Due]:
        entries: list[Entry] = []
        for row in (yield find(SCHEDULES, {"next_at": {"$lte": now}}, FIELDS, sort=[("next_at", 1)], limit=limit)):
            try:
                entries.append(self._decode(row))
            except Unreadable as error:
                log.error("The schedule %r is unreadable and does not run: %s", row["_id"], error)
                same = {"_id": row["_id"], "revision": row.get("revision")}
                yield call(SCHEDULES, "update_one", same, {"$unset": {"next_at": ""}})
        others = yield find(SCHEDULES, {"next_at": {"$exists": True}}, {"next_at": 1}, sort=[("next_at", 1)],
                            skip=len(entries), limit=1)  # fmt: skip
        soonest = others[0]["next_at"] if others else None
        return Due(now, entries, int(soonest) if isinstance(soonest, int) else None)

    def _row(self, entry: Entry, revision: int) -> dict[str, Any]:
        encoded = self._server.codec.seal("schedule", encode_entry(entry), entry.name)
        row = {"_id": entry.name, "revision": revision, "entry": encoded}
        return row if entry.next_at is None else {**row, "next_at": entry.next_at}

    def _read(self, rows: Sequence[dict[str, Any]]) -> list[Entry]:
        return readable(((row["_id"], row) for row in rows), self._decode)

    def _decode(self, row: dict[str, Any]) -> Entry:
        name, revision, encoded = row["_id"], row.get("revision"), row.get("entry")
        if not isinstance(name, str) or not isinstance(revision, int) or not isinstance(encoded, bytes):
            raise Unreadable("its name, revision or entry has the wrong type")
        entry = decode_entry(self._server.codec.open("schedule", encoded, name))
        if entry.name != name:
            raise Unreadable(f"it is the schedule {entry.name!r}")
        return replace(entry, revision=int(revision))  # it is a `bson.Int64`


def _insert(rows: Sequence[dict[str, Any]]) -> Work[set[str]]:
    """Insert documents; return the ids that are taken."""
    if rows:
        try:
            yield call(SCHEDULES, "insert_many", rows, ordered=False)
        except BulkWriteError as error:
            return {rows[index]["_id"] for index in refused(error)}
    return set()


def _remove(name: str, revision: int | None) -> Work[bool]:
    same = {"_id": name} if revision is None else {"_id": name, "revision": revision}
    result = yield call(SCHEDULES, "delete_one", same)
    return bool(result.deleted_count)


def _page(after: str, limit: int) -> Work[list[dict[str, Any]]]:
    rows = yield find(SCHEDULES, {"_id": {"$gt": after}}, FIELDS, sort=[("_id", 1)], limit=limit)
    return rows  # type: ignore[no-any-return]
