"""No task queue: documents inserted with pymongo, each batch in one command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from pymongo import MongoClient

from benchmarks.peers.store_peer import URL, VALUE, StorePeer


class BareMongoDB(StorePeer):
    """One collection."""

    title = "bare pymongo"
    module = "pymongo"
    packages = ("pymongo",)
    collection = "bare"
    settings = f"insert_many of {len(VALUE)} bytes each, unordered, acknowledged and journaled"

    def __init__(self) -> None:
        client: MongoClient[dict[str, Any]] = MongoClient(URL, w="majority", journal=True)
        self._collection = client.get_database()[self.collection]

    def store(self, ids: Sequence[str]) -> int:
        return self._insert(self._documents(ids, datetime.now(UTC)))

    def _documents(self, ids: Sequence[str], now: datetime) -> Iterator[dict[str, Any]]:
        return ({"_id": id, "state": "SUCCESS", "final": True, "stored_at": now, "outcome": VALUE} for id in ids)

    def _insert(self, documents: Iterable[dict[str, Any]]) -> int:
        return len(self._collection.insert_many(documents, ordered=False).inserted_ids)


PEER = BareMongoDB()
