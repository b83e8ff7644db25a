"""The history in MongoDB: sums (`history_sums.py`), and a document for each attempt, failure signature and event.

| collection | `_id` | other fields |
|---|---|---|
| `history.attempts` | end, task's id, number: they sort | `task_id`, `task`, `signature`, `is_sample`, `value` |
| `history.signatures` | the signature | `last`, `value`, `revision`; `status`, `marked_at`, `marked_by` |
| `history.events` | who wrote it, when, about what | `at`, `kind`, `about`, `value` |
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pymongo import IndexModel, UpdateOne
from pymongo.errors import BulkWriteError

from celeriac.drivers.mongodb import history_sums
from celeriac.drivers.mongodb.claims import MongoClaimStore
from celeriac.drivers.mongodb.error_translation import refused
from celeriac.drivers.mongodb.history_sums import SUMS, WORKERS
from celeriac.drivers.mongodb.requests import Work, call, find, find_of
from celeriac.drivers.mongodb.server import EXPIRY, Server
from celeriac.model.clock import Clock
from celeriac.model.filters import Filter
from celeriac.model.history import (
    Batch,
    Event,
    FailureSignature,
    Key,
    Status,
    samples_only,
)
from celeriac.model.message import new_id
from celeriac.model.repeated_warnings import RepeatedWarnings
from celeriac.ports.claims import ClaimStore
from celeriac.ports.history import History, Limits, Position, samples_meant
from celeriac.ports.history_sums import Change, Row, WorkerState

__all__ = ["MongoHistory"]

warnings = RepeatedWarnings(logging.getLogger("celeriac.mongodb"))

ATTEMPTS, SIGNATURES, EVENTS = "history.attempts", "history.signatures", "history.events"
INDEXES: Final = {
    SUMS: [EXPIRY, IndexModel([("step", 1), ("at", 1)], name="slot")],
    ATTEMPTS: [
        IndexModel("task_id", name="task_id"),
        IndexModel([("task", 1), ("_id", 1)], name="task"),
        IndexModel([("signature", 1), ("_id", 1)], name="signature"),
        IndexModel([("is_sample", 1), ("_id", 1)], name="kind"),
    ],
    SIGNATURES: [IndexModel("last", name="last")],
    EVENTS: [IndexModel("at", name="at")],
}
PRUNED: Final = 1000  # documents that are deleted at a time
DIGITS: Final = 18  # of an instant in microseconds


class MongoHistory(History):
    """The history in collections."""

    def __init__(self, server: Server, clock: Clock) -> None:
        self.server = server
        self.codec = server.codec
        self._clock = clock

    async def record(self, batch: Batch, now: float) -> None:
        attempts = [
            {"_id": _name(one.done_at, one.id, one.attempt), "task_id": one.id, "task": one.task,
             "signature": one.signature, "is_sample": samples_only(one), "value": self.seal(one)}
            for one in batch.attempts
        ]  # fmt: skip
        events = [self._event(event, batch.lease) for event in batch.events]
        sums = {name: self.seal_sums(name, value) for name, value in batch.sums.items()}

        def work() -> Work[None]:
            yield from _insert(ATTEMPTS, attempts)
            yield from _insert(EVENTS, events)
            yield from self._merge(batch.signatures)
            yield from history_sums.see(batch.lease, batch.complete, sums, now)

        await self.server.ado(self.server.indexed(work(), INDEXES))

    def _merge(self, signatures: Sequence[FailureSignature]) -> Work[None]:
        """Write signatures, merged with what is known of them; again, as long as others do the same."""
        left = list(signatures)
        while left:
            rows = yield from find_of(SIGNATURES, [one.signature for one in left], {}, {})
            known = {row["_id"]: row for row in rows}
            updates = []
            for one in left:
                row = known.get(one.signature, {})
                before = self.signature_of(_value(row)) if row else None
                merged = one if before is None else before.merged(one)
                seen = row.get("revision", {"$exists": False})
                update = {"$set": {"last": merged.last, "value": self.seal(merged), "revision": new_id()}}
                updates.append(UpdateOne({"_id": one.signature, "revision": seen}, update, upsert=True))
            try:
                yield call(SIGNATURES, "bulk_write", updates, ordered=False)
                left = []
            except BulkWriteError as error:
                left = [left[number] for number in refused(error)]

    def claims(self) -> ClaimStore:
        return MongoClaimStore(self.server)

    async def prune(self, limits: Limits, now: float) -> int:
        def work() -> Work[int]:
            count = 0
            for is_sample, seconds in ((True, limits.samples), (False, limits.failures)):
                kind = {"is_sample": is_sample}
                newest = {"sort": [("_id", -1)], "skip": limits.attempts - 1, "limit": 1}
                last = yield find(ATTEMPTS, kind, {"_id": 1}, **newest)
                horizon = max(_first(now - seconds), *(str(row["_id"]) for row in last), "")
                count += yield from _delete(ATTEMPTS, {**kind, "_id": {"$lt": horizon}}, [("_id", 1)])
            count += yield from _delete(EVENTS, {"at": {"$lt": now - limits.events}}, [("at", 1)])
            count += yield from _delete(SIGNATURES, {"last": {"$lt": now - limits.signatures}}, [("last", 1)])
            writing = {row.key.lease for row in (yield from history_sums.unfolded())}
            silent = {"seen_at": {"$lt": now - 86_400.0}, "_id": {"$nin": sorted(writing)}}
            return count + (yield from _delete(WORKERS, silent, [("_id", 1)]))

        return await self.server.ado(work())

    # --- Rows of sums ---------------------------------------------------------------------------------

    async def rows(self, step: int, since: int, until: int, limit: int | None = None) -> list[Row]:
        return await self.server.ado(history_sums.rows(step, since, until, limit))

    async def unfolded(self) -> list[Row]:
        return await self.server.ado(history_sums.unfolded())

    async def get(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        return await self.server.ado(history_sums.get(keys))

    async def swap(self, changes: Sequence[Change], folded: Mapping[str, int]) -> bool:
        return await self.server.ado(history_sums.swap(changes, folded, self._clock.now()))

    async def workers(self) -> dict[str, WorkerState]:
        return await self.server.ado(history_sums.workers())

    # --- Front ends -----------------------------------------------------------------------------------

    async def attempts(self, filter: Filter, before: Position | None, limit: int) -> list[tuple[Position, bytes]]:
        query: dict[str, Any] = {}
        names: dict[str, str] = {}
        if before is not None:
            names["$lt"] = _name(*before)
        if filter.until is not None:
            names["$lt"] = min(_first(filter.until + 1e-6), names.get("$lt", "~"))
        if filter.since is not None:
            names["$gte"] = _first(filter.since)
        if names:
            query["_id"] = names
        if filter.tasks and not any("*" in task for task in filter.tasks):
            query["task"] = {"$in": list(filter.tasks)}
        if filter.signatures:
            query["signature"] = {"$in": list(filter.signatures)}
        if filter.ids:
            query["task_id"] = {"$in": list(filter.ids)}
        if (sample := samples_meant(filter)) is not None:
            query["is_sample"] = sample
        while True:
            request = find(ATTEMPTS, query, {"value": 1}, sort=[("_id", -1)], limit=limit)
            rows = await self.server.ado(_all(request))
            found = list(_positions(rows))
            if found or not rows:
                return found
            query["_id"] = {**names, "$lt": rows[-1]["_id"]}  # all of these are unreadable

    async def count_attempts(self) -> int:
        return int(await self.server.ado(_all(call(ATTEMPTS, "count_documents", {}))))

    async def attempts_of_task(self, id: str) -> list[bytes]:
        rows = await self.server.ado(_all(find(ATTEMPTS, {"task_id": id}, {"value": 1})))
        return [_value(row) for row in rows]

    async def known_signatures(self, signatures: Sequence[str] | None = None) -> list[FailureSignature]:
        return await self._with_marks({} if signatures is None else {"_id": {"$in": list(signatures)}})

    async def latest_signatures(self, since: float) -> list[FailureSignature]:
        return await self._with_marks({"last": {"$gte": since}})

    async def _with_marks(self, query: dict[str, Any]) -> list[FailureSignature]:
        rows = await self.server.ado(_all(find(SIGNATURES, query, {}, sort=[("last", -1)])))
        return [self.marked(one, _mark(row)) for row in rows if (one := self.signature_of(_value(row))) is not None]

    async def mark(self, signature: str, status: Status, by: str, now: float) -> bool:
        marks = {"$set": {"status": status, "marked_at": now, "marked_by": by}}
        result = await self.server.ado(_all(call(SIGNATURES, "update_one", {"_id": signature}, marks)))
        return bool(result.matched_count)

    async def audit(self, event: Event) -> None:
        await self.server.ado(self.server.indexed(_insert(EVENTS, [self._event(event, new_id())]), INDEXES))

    def _event(self, event: Event, of: str) -> dict[str, Any]:
        return {"_id": f"{of}:{event.at!r}:{event.kind}:{event.id}", "at": event.at, "kind": event.kind,
                "about": event.id, "value": self.seal(event)}  # fmt: skip

    async def events(self, kinds: Sequence[str] = (), since: float = 0.0, limit: int = 100,
                     id: str | None = None) -> list[Event]:  # fmt: skip
        query: dict[str, Any] = {"at": {"$gte": since}}
        if kinds:
            query["kind"] = {"$in": list(kinds)}
        if id is not None:
            query["about"] = id
        rows = await self.server.ado(_all(find(EVENTS, query, {"value": 1}, sort=[("at", -1)], limit=limit)))
        return list(self.events_of(map(_value, rows)))

    def close(self) -> None:
        self.server.close()


def _insert(collection: str, rows: Sequence[dict[str, Any]]) -> Work[None]:
    """Insert documents, as far as there are none with their ids."""
    if rows:
        try:
            yield call(collection, "insert_many", rows, ordered=False)
        except BulkWriteError as error:
            refused(error)


def _delete(collection: str, query: dict[str, Any], sort: list[tuple[str, int]]) -> Work[int]:
    found = yield find(collection, query, {"_id": 1}, sort=sort, limit=PRUNED)
    if found:
        yield call(collection, "delete_many", {"_id": {"$in": [row["_id"] for row in found]}})
    return len(found)


def _all(request: Any) -> Work[Any]:
    return (yield request)


def _first(instant: float) -> str:
    """Return the name before those of all attempts that ended at an instant or later."""
    return f"{max(0, int(instant * 1_000_000)):0{DIGITS}}"


def _name(at: float, id: str, attempt: int) -> str:
    return f"{max(0, round(at * 1_000_000)):0{DIGITS}} {id} {attempt:016}"


def _positions(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[Position, bytes]]:
    for row in rows:
        try:
            at, rest = row["_id"].split(" ", 1)
            id, attempt = rest.rsplit(" ", 1)
            yield Position(int(at) / 1_000_000, id, int(attempt)), _value(row)
        except (ValueError, AttributeError):
            warnings.warn("A document of the history names no attempt: %r", str(row["_id"])[:100])


def _value(row: dict[str, Any]) -> bytes:
    value = row.get("value")
    return value if isinstance(value, bytes) else b""


def _mark(row: dict[str, Any]) -> tuple[Any, Any, Any]:
    return row.get("status", "open"), row.get("marked_at", 0.0), row.get("marked_by", "")
