"""Schedules in Redis: for the broker, which publishes what they send, and for the backend of another broker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from celeriac.drivers.redis.server import Server
from celeriac.model.clock import Clock
from celeriac.model.gate import Unreadable
from celeriac.model.message import Message
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
from celeriac.ports.workflows import Plan

__all__ = ["RedisScheduleStore"]

log = logging.getLogger("celeriac.redis")

BATCH = 200  # changes per script call: Redis serves no other client meanwhile
LONGEST_REVISION = 16  # digits


class RedisScheduleStore(ScheduleStore):
    """Entries in a hash. `pack` returns a message as the scripts take it; without it, a change sends nothing."""

    def __init__(self, server: Server, clock: Clock, kept: str,
                 pack: Callable[[Message], tuple[Any, ...]] | None = None) -> None:  # fmt: skip
        self.publishes = pack is not None
        self._server = server
        self._clock = clock
        self._kept = kept  # milliseconds that outcomes are kept
        self._pack = pack

    async def create(self, entries: Sequence[Entry]) -> list[bool]:
        return await self._each("schedules_create", [], [
            (entry.name, first_revision(), "" if entry.next_at is None else entry.next_at, self._encode(entry))
            for entry in entries
        ])  # fmt: skip

    async def change(self, changes: Sequence[Change]) -> list[bool]:
        given = [self._server.moment(self._clock), self._kept]
        return await self._each("schedules_change", given, [self._parts(change) for change in changes])

    def _parts(self, change: Change) -> list[Any]:
        before, after = change.before, change.after
        parts: list[Any] = [before.name, before.revision, "" if after.next_at is None else after.next_at,
                            self._encode(after), len(change.plans), len(change.messages)]  # fmt: skip
        for plan in change.plans:
            parts += _planted(plan)
        for message in change.messages:
            if self._pack is not None:
                parts += self._pack(message)
        return parts

    async def remove(self, names: Mapping[str, int | None]) -> list[bool]:
        rows = [(name, "" if revision is None else revision) for name, revision in names.items()]
        return await self._each("schedules_remove", [], rows)

    async def get(self, names: Sequence[str]) -> dict[str, Entry]:
        values = await self._server.ado(("HMGET", self._key(), *names)) if names else []
        rows = [row for row in zip(names, values, strict=True) if row[1] is not None]
        return {entry.name: entry for entry in readable(((row[0], row) for row in rows), self._decode)}

    async def page(self, after: str, limit: int) -> list[Entry]:
        first = f"({after}" if after else "-"
        names = await self._server.ado(
            ("ZRANGE", f"{self._key()}:names", first, "+", "BYLEX", "LIMIT", 0, limit)
        )
        return list((await self.get([name.decode(errors="replace") for name in names])).values())

    async def due(self, limit: int) -> Due:
        now, soonest, *rows = await self._server.ado(
            self._server.script("schedules_due", self._server.moment(self._clock), limit)
        )
        entries, bad = [], []
        for key, value in zip(rows[::2], rows[1::2], strict=True):
            name = key.decode(errors="replace")
            try:
                entries.append(self._decode((name, value)))
            except Unreadable as error:
                log.error("The schedule %r is unreadable and does not run: %s", name, error)
                bad.append(key)
        if bad:
            await self._server.ado(("ZREM", f"{self._key()}:next", *bad))
        return Due(int(now), entries, int(float(soonest)) if soonest else None)

    async def _each(self, script: str, given: Sequence[Any], items: Sequence[Sequence[Any]]) -> list[bool]:
        commands = []
        for start in range(0, len(items), BATCH):
            parts = [part for item in items[start : start + BATCH] for part in item]
            commands.append(self._server.script(script, *given, *parts))
        replies = await self._server.ado_all(commands) if commands else []
        return [bool(done) for reply in replies for done in reply]

    def _key(self) -> str:
        return f"{self._server.prefix}:schedules"

    def _encode(self, entry: Entry) -> bytes:
        return self._server.codec.seal("schedule", encode_entry(entry), entry.name)

    def _decode(self, row: tuple[str, bytes]) -> Entry:
        name, value = row
        revision, _, raw = value.partition(b":")
        if not revision.isdigit() or len(revision) > LONGEST_REVISION:
            raise Unreadable("it has no revision")
        entry = decode_entry(self._server.codec.open("schedule", raw, name))
        if entry.name != name:
            raise Unreadable(f"it is the schedule {entry.name!r}")
        return replace(entry, revision=int(revision))


def _planted(plan: Plan) -> list[Any]:
    missing = [part for item in plan.missing.items() for part in item]
    return [plan.id, plan.tree, plan.left, len(plan.missing), *missing]
