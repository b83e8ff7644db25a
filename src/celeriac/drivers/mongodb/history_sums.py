"""Sums of the history in MongoDB, and a swap of several of them at once, without transactions.

Unfolded sums are in the document of their worker (collection `history.workers`):

| field | |
|---|---|
| `_id` | the worker's lease |
| `complete`, `folded`, `seen_at` | see `WorkerState` |
| `rows` | by slot, by the hash of the key: the key in JSON, and the sums |

Each folded row is a document (`history.sums`):

| field | |
|---|---|
| `_id` | the key, in JSON |
| `step`, `at` | of the key |
| `value` | the sums; absent: the row was deleted a short while ago |
| `swap` | the number of the swap that wrote it |
| `expires_at` | when the server deletes it, if it has no value |

One document (`history.swaps`) commits swaps: `number` rises with each, and `changes` and `folded` are there until they
have been carried out, by the process that swaps or, if that has died, by the next one. Whoever reads lays them over
what it finds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, TypeVar

import msgspec
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from celeriac.drivers.mongodb.error_translation import refused
from celeriac.drivers.mongodb.requests import Work, call, find, find_of, moment
from celeriac.model.history import Key
from celeriac.ports.history_sums import Change, Row, WorkerState

__all__ = ["SUMS", "SWAPS", "WORKERS", "get", "rows", "see", "swap", "unfolded", "workers"]

SUMS, WORKERS, SWAPS = "history.sums", "history.workers", "history.swaps"
"""The names of the collections, after the prefix."""

Result = TypeVar("Result")
Document = dict[str, Any]

ONE: Final = "swap"  # the id of the one document of its collection
READS: Final = 10  # until no swap begins meanwhile
DELETED_SECONDS: Final = 86_400.0  # how long a deleted row refuses old swaps
BATCH: Final = 500  # rows in one request

_write_key: Callable[[Key], bytes] = msgspec.json.Encoder().encode
_read_key: Callable[[bytes | str], Key] = msgspec.json.Decoder(Key).decode


class _Swap(msgspec.Struct):
    """The last swap. `changes` and `folded` are empty once it has been carried out."""

    number: int = 0
    changes: dict[Key, bytes | None] = {}
    folded: dict[str, int] = {}
    is_pending: bool = False


# --- Reading ------------------------------------------------------------------------------------------


def rows(step: int, since: int, until: int, limit: int | None) -> Work[list[Row]]:
    """Return folded rows, as `SumStore.rows` does."""

    def read() -> Work[list[Document]]:
        query = {"step": step, "at": {"$gte": since, "$lt": until}, "value": {"$exists": True}}
        found: list[Document] = yield find(SUMS, query, {"value": 1}, sort=[("at", 1)], limit=limit or 0)
        return found

    last, documents = yield from _consistent(read)
    found = dict(pair for document in documents for pair in _folded_row(document))
    for name, after in last.changes.items():
        found.pop(name, None)
        if after is not None and not name.lease and name.step == step and since <= name.at < until:
            found[name] = after
    return [Row(name, value) for name, value in sorted(found.items(), key=lambda item: item[0].at)][:limit]


def unfolded() -> Work[list[Row]]:
    """Return the rows of single workers."""
    last, documents = yield from _consistent(_workers)
    return [
        Row(name, value)
        for document in documents
        for name, value in _rows_of(document).items()
        if last.changes.get(name, value) is not None
    ]


def get(keys: Sequence[Key]) -> Work[dict[Key, bytes]]:
    """Return the values of rows, as far as they exist."""
    last, found = yield from _consistent(lambda: _values(keys))
    for name in keys:
        if name in last.changes:
            found.pop(name, None)
            if (after := last.changes[name]) is not None:
                found[name] = after
    return found


def workers() -> Work[dict[str, WorkerState]]:
    """Return what is known of each worker."""
    last, documents = yield from _consistent(_workers)
    states = {}
    for document in documents:
        numbers = [document.get(name) for name in ("complete", "folded", "seen_at")]
        complete, folded, seen_at = [float(one) if isinstance(one, int | float) else 0.0 for one in numbers]
        lease = document["_id"]
        states[lease] = WorkerState(int(complete), max(int(folded), last.folded.get(lease, 0)), seen_at)
    return states


def _consistent(read: Callable[[], Work[Result]]) -> Work[tuple[_Swap, Result]]:
    """Return what `read` finds, and the swap to lay over it: no other one has begun meanwhile."""
    last = yield from _last_swap()
    for _ in range(READS):
        found = yield from read()
        after = yield from _last_swap()
        if after.number == last.number:
            break
        last = after
    return last, found


def _last_swap() -> Work[_Swap]:
    document = yield call(SWAPS, "find_one", {"_id": ONE})
    if document is None:
        return _Swap()
    number = document.get("number")
    made = _Swap(number if isinstance(number, int) else 0, is_pending="changes" in document)
    for change in document.get("changes", ()):
        name, after = change
        made.changes[_read_key(name)] = after
    made.folded = {lease: int(slot) for lease, slot in document.get("folded", ())}
    return made


def _workers() -> Work[list[Document]]:
    found: list[Document] = yield find(WORKERS, {}, {})
    return found


def _values(keys: Sequence[Key]) -> Work[dict[Key, bytes]]:
    """Return what the documents hold, without a swap that is under way."""
    names = {_id(name): name for name in keys if not name.lease}
    documents = yield from find_of(SUMS, list(names), {"value": {"$exists": True}}, {"value": 1})
    found = {name: value for document in documents for name, value in _folded_row(document)}
    leases = sorted({name.lease for name in keys if name.lease})
    wanted = set(keys)
    for document in (yield from find_of(WORKERS, leases, {}, {})) if leases else []:
        found.update({name: value for name, value in _rows_of(document).items() if name in wanted})
    return found


def _folded_row(document: Document) -> list[tuple[Key, bytes]]:
    try:
        name = _read_key(document["_id"])
    except (ValueError, TypeError):  # not what Celeriac has written
        return []
    return [(name, value)] if isinstance(value := document.get("value"), bytes) else []


def _rows_of(document: Document) -> dict[Key, bytes]:
    """Return the unfolded rows in a worker's document, without what cannot be read."""
    found: dict[Key, bytes] = {}
    slots = document.get("rows")
    for slot in slots.values() if isinstance(slots, dict) else ():
        for row in slot.values() if isinstance(slot, dict) else ():
            try:
                name, value = row
                key = _read_key(name)
            except (ValueError, TypeError):
                continue
            if isinstance(value, bytes) and key.lease == document["_id"]:
                found[key] = value
    return found


# --- Writing ------------------------------------------------------------------------------------------


def see(lease: str, complete: int, sums: Mapping[Key, bytes], now: float) -> Work[None]:
    """Write sums of a worker, without those of slots that are folded, and what is known of it."""
    while True:
        known = yield call(WORKERS, "find_one", {"_id": lease}, {"folded": 1})
        before = (known or {}).get("folded")
        folded = before if isinstance(before, int) else 0
        update: Document = {"$max": {"complete": complete}, "$set": {"seen_at": now, "folded": folded}}
        for name, value in sums.items():
            if name.at > folded:
                update["$set"][f"rows.{name.at}.{_hash(name)}"] = [_write_key(name), value]
        # If the worker's slots are folded meanwhile, this finds no document, and inserts none, as there is one.
        condition = {"_id": lease, "folded": {"$exists": False} if known is None else before}
        try:
            yield call(WORKERS, "update_one", condition, update, upsert=True)
        except DuplicateKeyError:
            continue
        return


def swap(changes: Sequence[Change], folded: Mapping[str, int], now: float) -> Work[bool]:
    """Change rows at once, as `SumStore.swap` does."""
    last = yield from _last_swap()
    if last.is_pending:
        yield from _carry_out(last, now)
    before = {change.key: change.before for change in changes}
    found = yield from _values(list(before))
    if any(found.get(name) != value for name, value in before.items()):
        return False
    new = _Swap(last.number + 1, {change.key: change.after for change in changes}, dict(folded), is_pending=True)
    # Whoever has swapped since `last` was read has raised the number.
    condition: Document = {"_id": ONE, "number": last.number or {"$exists": False}, "changes": {"$exists": False}}
    update = {"number": new.number, "changes": [[_write_key(name), after] for name, after in new.changes.items()],
              "folded": [[lease, slot] for lease, slot in folded.items()]}  # fmt: skip
    try:
        yield call(SWAPS, "update_one", condition, {"$set": update}, upsert=True)
    except DuplicateKeyError:
        return False
    yield from _carry_out(new, now)
    return True


def _carry_out(made: _Swap, now: float) -> Work[None]:
    """Write the changes of a swap to their documents. May be done twice, and late."""
    of_lease: defaultdict[str, set[str]] = defaultdict(set)
    updates: list[UpdateOne] = []
    for name, after in made.changes.items():
        if name.lease:
            is_whole = name.at <= made.folded.get(name.lease, 0)
            of_lease[name.lease].add(f"rows.{name.at}" if is_whole else f"rows.{name.at}.{_hash(name)}")
        else:
            updates.append(_row_update(name, after, made.number, now))
    for lease in {*of_lease, *made.folded}:
        update: Document = {"$max": {"folded": made.folded.get(lease, 0)}}
        if of_lease[lease]:
            update["$unset"] = dict.fromkeys(sorted(of_lease[lease]), "")
        yield call(WORKERS, "update_one", {"_id": lease}, update)
    for start in range(0, len(updates), BATCH):
        try:
            yield call(SUMS, "bulk_write", updates[start : start + BATCH], ordered=False)
        except BulkWriteError as error:
            refused(error)  # those rows have been written by this swap, or by a later one
    yield call(SWAPS, "update_one", {"_id": ONE, "number": made.number}, {"$unset": {"changes": "", "folded": ""}})


def _row_update(name: Key, after: bytes | None, number: int, now: float) -> UpdateOne:
    fields: Document = {"step": name.step, "at": name.at, "swap": number}
    if after is None:
        fields["expires_at"] = moment(now + DELETED_SECONDS)
        update = {"$set": fields, "$unset": {"value": ""}}
    else:
        update = {"$set": {**fields, "value": after}, "$unset": {"expires_at": ""}}
    return UpdateOne({"_id": _id(name), "swap": {"$not": {"$gte": number}}}, update, upsert=True)


def _id(name: Key) -> str:
    return _write_key(name).decode()


def _hash(name: Key) -> str:
    return sha256(_write_key(name)).hexdigest()[:32]
