"""Claims in SQLite, in a table that the first claim creates."""

from __future__ import annotations

from typing import Final

from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.opening import Connection
from celeriac.ports.claims import ClaimStore

__all__ = ["SQLiteClaimStore"]

TABLE: Final = "CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, value BLOB NOT NULL, until REAL NOT NULL)"
INDEX: Final = "CREATE INDEX IF NOT EXISTS claims_until ON claims (until)"
EXPIRED: Final = "DELETE FROM claims WHERE key IN (SELECT key FROM claims WHERE until <= ? LIMIT 100)"
HELD: Final = "SELECT CAST(value AS BLOB) FROM claims WHERE key = ? AND until > ?"
TAKE: Final = "INSERT OR REPLACE INTO claims (key, value, until) VALUES (?, ?, ?)"


class SQLiteClaimStore(ClaimStore):
    """Claims in the table `claims`. Each claim deletes some that have expired."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, key: str, value: bytes, seconds: float, now: float) -> bytes | None:
        def work(connection: Connection) -> bytes | None:
            connection.execute(TABLE)
            connection.execute(INDEX)
            connection.execute(EXPIRED, (now,))
            held = connection.execute(HELD, (key, now)).fetchone()
            if held is not None:
                return bytes(held[0])
            if seconds > 0:
                connection.execute(TAKE, (key, value, now + seconds))
            return None

        return await self._database.awrite(work, quiet=True)
