"""Delays in MongoDB, for brokers whose server holds no delayed messages: a document for each.

| field | |
|---|---|
| `_id` | the message's id |
| `queue`, `due_at` | its queue, and when it is due, in seconds since the epoch |
| `free_at`, `token` | until when somebody holds it, and what proves that |
| `takes` | how often it was taken; one more if it may have been moved before it was kept |
| `data` | what the broker would have put into its queue |
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bson.int64 import Int64
from pymongo import InsertOne, UpdateOne
from pymongo.errors import BulkWriteError

from celeriac.drivers.mongodb.error_translation import refused
from celeriac.drivers.mongodb.requests import DELAYS, Work, call, find, find_of
from celeriac.drivers.mongodb.server import Server
from celeriac.model.clock import Clock
from celeriac.ports.delays import Counts, Delayed, DelayStore, Due, Taken, new_token, removed

__all__ = ["MongoDelayStore"]

BATCH: Final = 500  # messages in one request


class MongoDelayStore(DelayStore):
    """Messages in a collection."""

    poll = 0.25

    def __init__(self, server: Server, clock: Clock) -> None:
        self._server = server
        self._clock = clock

    def keep(self, messages: Sequence[Delayed]) -> None:
        if messages:
            self._server.do(self._server.indexed(_keep(messages, self._clock.now())))

    async def akeep(self, messages: Sequence[Delayed]) -> None:
        if messages:
            await self._server.ado(self._server.indexed(_keep(messages, self._clock.now())))

    async def take_due(self, limit: int, seconds: float) -> Due:
        return await self._server.ado(_take_due(limit, seconds, self._clock.now()))

    async def take(self, ids: Sequence[str], seconds: float) -> list[Taken]:
        return await self._server.ado(_hold(list(dict.fromkeys(ids)), seconds, self._clock.now()))

    async def take_from(self, queue: str, limit: int, seconds: float) -> list[Taken]:
        return await self._server.ado(_take_from(queue, limit, seconds, self._clock.now()))

    async def remove(self, taken: Sequence[Taken]) -> list[bool]:
        return await self._server.ado(_remove(taken)) if taken else []

    async def release(self, taken: Sequence[Taken]) -> None:
        await self._server.ado(_release(taken))

    async def counts(self) -> dict[str, Counts]:
        return await self._server.ado(_counts(self._clock.now()))

    async def page(self, queue: str | None, due: bool, limit: int, offset: int = 0) -> list[Taken]:
        now = self._clock.now()
        query: dict[str, Any] = {"due_at": {"$lte": now} if due else {"$gt": now}}
        if queue is not None:
            query["queue"] = queue
        rows = await self._server.ado(_find(query, limit, offset))
        return [_taken(row, 0) for row in rows]

    async def changed(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, self.poll))


def _keep(messages: Sequence[Delayed], now: float) -> Work[None]:
    chosen: dict[str, Delayed] = {}
    for message in messages:
        if message.id not in chosen or message.replaces:
            chosen[message.id] = message
    every = list(chosen.values())
    for start in range(0, len(every), BATCH):
        part = every[start : start + BATCH]
        taken = yield from _write([InsertOne({"_id": one.id, **_fields(one, now)}) for one in part])
        if taken:
            # An upsert: the message may be removed meanwhile. One that stays makes its insertion fail.
            yield from _write([
                UpdateOne({"_id": one.id, **({} if one.replaces else {"token": {"$ne": 0}})},
                          {"$set": _fields(one, now)}, upsert=True)
                for one in (part[place] for place in taken)
            ])  # fmt: skip


def _fields(message: Delayed, now: float) -> dict[str, Any]:
    due_at = now + message.delay if message.due_at is None else message.due_at
    return {"queue": message.queue, "due_at": float(due_at), "free_at": 0.0, "token": 0, "takes": int(message.again),
            "data": message.data}  # fmt: skip


def _take_due(limit: int, seconds: float, now: float) -> Work[Due]:
    query = {"due_at": {"$lte": now}, "free_at": {"$lte": now}}
    rows = yield find(DELAYS, query, {"_id": 1}, sort=[("due_at", 1)], limit=limit)
    taken = yield from _hold([row["_id"] for row in rows], seconds, now)
    others = yield find(DELAYS, {"due_at": {"$gt": now}}, {"due_at": 1}, sort=[("due_at", 1)], limit=1)
    return Due(taken, max(0.0, others[0]["due_at"] - now) if others else None)


def _take_from(queue: str, limit: int, seconds: float, now: float) -> Work[list[Taken]]:
    query = {"queue": queue, "free_at": {"$lte": now}}
    rows = yield find(DELAYS, query, {"_id": 1}, sort=[("due_at", 1)], limit=limit)
    return (yield from _hold([row["_id"] for row in rows], seconds, now))


def _hold(ids: Sequence[str], seconds: float, now: float) -> Work[list[Taken]]:
    """Hold those of these messages that nobody holds: each is changed by one request, whoever makes others."""
    if not ids:
        return []
    token = new_token()
    free = {"_id": {"$in": list(ids)}, "free_at": {"$lte": now}}
    held = {"$set": {"token": Int64(token), "free_at": now + seconds}, "$inc": {"takes": 1}}
    yield call(DELAYS, "update_many", free, held)
    rows = yield from find_of(DELAYS, ids, {"token": Int64(token)}, {})
    return sorted((_taken(row, token) for row in rows), key=lambda one: one.due_at)


def _remove(taken: Sequence[Taken]) -> Work[list[bool]]:
    there: set[tuple[str, int]] = set()
    for token in dict.fromkeys(one.token for one in taken):
        ids = [one.id for one in taken if one.token == token]
        rows = yield from find_of(DELAYS, ids, {"token": Int64(token)}, {"_id": 1})
        there.update((row["_id"], token) for row in rows)
        yield call(DELAYS, "delete_many", {"_id": {"$in": ids}, "token": Int64(token)})
    return removed([(one.id, one.token) for one in taken], there)


def _release(taken: Sequence[Taken]) -> Work[None]:
    for token in dict.fromkeys(one.token for one in taken):
        mine = {"_id": {"$in": [one.id for one in taken if one.token == token]}, "token": Int64(token)}
        yield call(DELAYS, "update_many", mine, {"$set": {"free_at": 0.0}})


def _counts(now: float) -> Work[dict[str, Counts]]:
    found: dict[str, Counts] = {}
    for queue in (yield call(DELAYS, "distinct", "queue")):
        due = yield call(DELAYS, "count_documents", {"queue": queue, "due_at": {"$lte": now}})
        waiting = yield call(DELAYS, "count_documents", {"queue": queue, "due_at": {"$gt": now}})
        found[queue] = Counts(due, waiting)
    return found


def _find(query: Mapping[str, Any], limit: int, offset: int) -> Work[list[dict[str, Any]]]:
    rows = yield find(DELAYS, query, {}, sort=[("due_at", 1)], limit=limit, skip=offset)
    return rows  # type: ignore[no-any-return]


def _write(writes: Sequence[Any]) -> Work[list[int]]:
    """Make writes; return the indexes of those that failed because their id is taken."""
    try:
        yield call(DELAYS, "bulk_write", list(writes), ordered=False)
    except BulkWriteError as error:
        return refused(error)
    return []


def _taken(row: Mapping[str, Any], token: int) -> Taken:
    takes = int(row["takes"])
    again = takes > (1 if token else 0)
    return Taken(row["_id"], row["queue"], bytes(row["data"]), float(row["due_at"]), token, again)
