"""No task queue: documents inserted with pymongo, into a collection with the indexes that expiry and listing need."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pymongo import IndexModel

from benchmarks.peers.bare_mongodb import BareMongoDB

EXPIRES = timedelta(days=1)


class IndexedMongoDB(BareMongoDB):
    """One collection, two indexes."""

    title = "bare pymongo, two indexes"
    collection = "indexed"
    settings = f"{BareMongoDB.settings}; one index for expiry, one for the newest of a state"

    def __init__(self) -> None:
        super().__init__()
        self._collection.create_indexes([
            IndexModel("expires_at", expireAfterSeconds=0), IndexModel([("stored_at", -1), ("state", 1)]),
        ])  # fmt: skip

    def store(self, ids: Sequence[str]) -> int:
        now = datetime.now(UTC)
        return self._insert({**one, "expires_at": now + EXPIRES} for one in self._documents(ids, now))


PEER = IndexedMongoDB()
