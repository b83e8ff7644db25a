"""Requests to the server, each a function of a collection; and work, a generator of requests.

PyMongo's collections have the same methods on both sides. Called on a blocking one, a request returns the answer; on an
asynchronous one, an awaitable of it. `Server` makes the requests of a generator one by one and sends it each answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from bson.datetime_ms import DatetimeMS

__all__ = ["CLAIMS", "COUNTERS", "DELAYS", "OUTCOMES", "SCHEDULES", "TREES", "Request", "Work", "alive", "call",
           "find", "find_of", "moment"]  # fmt: skip

OUTCOMES, COUNTERS, TREES, SCHEDULES, CLAIMS = "outcomes", "workflows", "trees", "schedules", "claims"
DELAYS = "delays"
"""The names of the collections, after the prefix."""

Result = TypeVar("Result")
Collections: TypeAlias = Callable[[str], Any]
Request: TypeAlias = Callable[[Collections], Any]
Work: TypeAlias = Generator[Request, Any, Result]

CHUNK = 200  # ids in one query
LATEST = 253_402_300_799_000  # milliseconds: the end of the year 9999


def call(collection: str, method: str, *arguments: Any, **options: Any) -> Request:
    """Return the request that calls a method of a collection."""
    return lambda collections: getattr(collections(collection), method)(*arguments, **options)


def find(collection: str, query: Mapping[str, Any], fields: Mapping[str, int], **options: Any) -> Request:
    """Return the request for all documents that a query matches."""
    return lambda collections: collections(collection).find(query, fields, **options).to_list()


def find_of(collection: str, ids: Sequence[str], query: Mapping[str, Any],
            fields: Mapping[str, int]) -> Work[list[dict[str, Any]]]:  # fmt: skip
    """Return the documents of these ids that a query matches."""
    found: list[dict[str, Any]] = []
    for start in range(0, len(ids), CHUNK):
        chunk = list(ids[start : start + CHUNK])
        wanted = chunk[0] if len(chunk) == 1 else {"$in": chunk}
        found += yield find(collection, {"_id": wanted, **query}, fields, batch_size=CHUNK)
    return found


def moment(seconds: float) -> DatetimeMS:
    """Return an instant as MongoDB stores it."""
    return DatetimeMS(min(int(seconds * 1000), LATEST))


def alive(now: float) -> dict[str, Any]:
    """Return the query for documents that have not expired. The server deletes the others about once a minute."""
    return {"expires_at": {"$not": {"$lte": moment(now)}}}
