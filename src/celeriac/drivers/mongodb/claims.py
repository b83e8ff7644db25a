"""Claims in MongoDB: a document for each key.

| field | |
|---|---|
| `_id` | the key |
| `value` | what its holder left |
| `mark` | random bytes, which tell a claim of this call from all others: PyMongo may send it twice |
| `expires_at` | until when it stands; then the server deletes it |
"""

from __future__ import annotations

import os

from pymongo.errors import DuplicateKeyError

from celeriac.drivers.mongodb.requests import CLAIMS, Work, call, moment
from celeriac.drivers.mongodb.server import Server
from celeriac.ports.claims import ClaimStore

__all__ = ["MongoClaimStore"]


class MongoClaimStore(ClaimStore):
    """Claims in a collection."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def claim(self, key: str, value: bytes, seconds: float, now: float) -> bytes | None:
        if seconds <= 0:
            held, _ = await self._server.ado(_look(key, now))
            return held
        return await self._server.ado(self._server.indexed(_claim(key, value, seconds, now)))


def _claim(key: str, value: bytes, seconds: float, now: float) -> Work[bytes | None]:
    mark = os.urandom(16)
    expired = {"_id": key, "expires_at": {"$not": {"$gt": moment(now)}}}
    taken = {"$set": {"value": value, "mark": mark, "expires_at": moment(now + seconds)}}
    while True:
        held, by = yield from _look(key, now)
        if held is not None:
            return None if by == mark else held
        try:
            yield call(CLAIMS, "update_one", expired, taken, upsert=True)
        except DuplicateKeyError:  # somebody was faster
            continue
        return None


def _look(key: str, now: float) -> Work[tuple[bytes | None, object]]:
    found = yield call(CLAIMS, "find_one", {"_id": key, "expires_at": {"$gt": moment(now)}})
    if found is None:
        return None, None
    value = found.get("value")
    return value if isinstance(value, bytes) else b"", found.get("mark")
