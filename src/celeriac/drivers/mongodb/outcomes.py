"""Outcomes in MongoDB: a document for each task.

| field | |
|---|---|
| `_id` | the task's id |
| `outcome` | the outcome, encoded |
| `final`, `state`, `stored_at` | what is looked for |
| `expires_at` | when the server deletes it; absent: never |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pymongo import InsertOne, UpdateOne
from pymongo.errors import BulkWriteError

from celeriac.drivers.mongodb.error_translation import refused
from celeriac.drivers.mongodb.requests import OUTCOMES, Work, alive, call, find, find_of, moment
from celeriac.model.codec import Codec
from celeriac.model.outcome import Outcome

__all__ = ["MOST", "Pack", "forget", "look", "recent", "store"]

MOST = 16 * 1024 * 1024 - 65536
"""An encoded outcome, or a tree, of more bytes does not fit in a document."""

BATCH = 500  # outcomes in one request

Pack = Callable[[Outcome], tuple[Outcome, bytes]]
"""Returns an outcome encoded; and the outcome itself, or what is stored in its place if it is too large."""


def store(packed: Sequence[tuple[Outcome, bytes]], now: float, expires: float | None) -> Work[list[bool]]:
    """Store outcomes, as `Backend.store` does."""
    last: dict[str, int] = {}  # by id: which outcome of this batch is to stay, the first final one or else the last
    for number, (outcome, _) in enumerate(packed):
        if outcome.id not in last or not packed[last[outcome.id]][0].ready:
            last[outcome.id] = number
    chosen = list(last.values())
    # Most tasks have no outcome yet, and an insertion costs a server less than an update that looks for a document.
    taken = yield from _write([_insertion(*packed[number], now, expires) for number in chosen])
    if taken:
        # The id is taken: by an outcome that is not final or has expired, which is replaced, or by a final one.
        chosen = [chosen[place] for place in taken]
        taken = yield from _write([_replacement(*packed[number], now, expires) for number in chosen])
    ended = {packed[chosen[place]][0].id for place in taken}
    return [outcome.id not in ended and number <= last[outcome.id] for number, (outcome, _) in enumerate(packed)]


def _insertion(outcome: Outcome, encoded: bytes, now: float, expires: float | None) -> InsertOne[dict[str, Any]]:
    return InsertOne({"_id": outcome.id, **_fields(outcome, encoded, now, expires)})


def _replacement(outcome: Outcome, encoded: bytes, now: float, expires: float | None) -> UpdateOne:
    """Return the update of what is not final, or has expired. An upsert: the server may have deleted it meanwhile."""
    free = {"$or": [{"final": {"$ne": True}}, {"expires_at": {"$lte": moment(now)}}]}
    update: dict[str, Any] = {"$set": _fields(outcome, encoded, now, expires)}
    if expires is None:
        update["$unset"] = {"expires_at": ""}
    return UpdateOne({"_id": outcome.id, **free}, update, upsert=True)


def _fields(outcome: Outcome, encoded: bytes, now: float, expires: float | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"outcome": encoded, "final": outcome.ready, "state": outcome.state, "stored_at": now}
    if expires is not None:
        fields["expires_at"] = moment(now + expires)
    return fields


def _write(changes: Sequence[InsertOne[dict[str, Any]] | UpdateOne]) -> Work[list[int]]:
    """Make changes; return the indexes of those that were refused, because the id is taken."""
    taken: list[int] = []
    for start in range(0, len(changes), BATCH):
        try:
            yield call(OUTCOMES, "bulk_write", changes[start : start + BATCH], ordered=False)
        except BulkWriteError as error:
            taken += [start + index for index in refused(error)]
    return taken


def look(ids: Sequence[str], final: bool, now: float, codec: Codec) -> Work[dict[str, Outcome]]:
    """Return the known outcomes of these tasks, by id; with `final`, only final ones."""
    query = {"final": True, **alive(now)} if final else alive(now)
    rows = yield from find_of(OUTCOMES, ids, query, {"outcome": 1})
    return {row["_id"]: _read(row, codec) for row in rows}


def recent(limit: int, offset: int, state: str | None, now: float, codec: Codec) -> Work[list[Outcome]]:
    """Return the outcomes stored last, newest first."""
    if limit <= 0:
        return []
    query = {**alive(now), **({} if state is None else {"state": state})}
    rows = yield find(OUTCOMES, query, {"outcome": 1}, sort=[("stored_at", -1)], skip=offset, limit=limit)
    return [_read(row, codec) for row in rows if isinstance(row["_id"], str)]


def forget(ids: Sequence[str]) -> Work[None]:
    """Delete the outcomes of these tasks."""
    if ids:
        yield call(OUTCOMES, "delete_many", {"_id": {"$in": list(ids)}})


def _read(row: dict[str, Any], codec: Codec) -> Outcome:
    encoded = row.get("outcome")
    return codec.read_outcome(row["_id"], encoded if isinstance(encoded, bytes) else b"")
