"""Claims in a table. Who inserts the row of a key has it; a second insertion fails, and its transaction looks again."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from celeriac.drivers.sql.database import Database
from celeriac.drivers.sql.keys import key, micros
from celeriac.ports.claims import ClaimStore

__all__ = ["SQLClaimStore"]

EXPIRED_CLAIMS: Final = 500  # deleted in one transaction; Oracle accepts 1,000 values after IN


class SQLClaimStore(ClaimStore):
    """Claims by the hash of their key, or by the key itself."""

    def __init__(self, database: Database) -> None:
        self._database = database
        table = self._table = database.tables.claims
        is_key = table.c.id == bindparam("key")
        self._held = select(table.c.value).where(is_key, table.c.expires_at > bindparam("now"))
        self._take_over = update(table).where(is_key, table.c.expires_at <= bindparam("now")).values(
            value=bindparam("new"), expires_at=bindparam("until")
        )  # fmt: skip

    async def claim(self, key: str, value: bytes, seconds: float, now: float) -> bytes | None:
        if seconds <= 0:
            return await self._database.aread(lambda connection: self._look(connection, key, now))
        until = now + seconds
        return await self._database.awrite(lambda connection: self._claim(connection, key, value, now, until))

    def _look(self, connection: Connection, name: str, now: float) -> bytes | None:
        held = connection.execute(self._held, {"key": key(name), "now": micros(now)}).scalar()
        return None if held is None else bytes(held)

    def _claim(self, connection: Connection, name: str, value: bytes, now: float, until: float) -> bytes | None:
        held = self._look(connection, name, now)
        if held is not None:
            return held
        given = {"key": key(name), "now": micros(now), "new": value, "until": micros(until)}
        if not connection.execute(self._take_over, given).rowcount:
            connection.execute(insert(self._table).values(id=key(name), value=value, expires_at=micros(until)))
        return None

    def delete_expired(self, connection: Connection, now: float) -> bool:
        """Delete claims that have expired. Return whether there may be more."""
        table = self._table
        is_expired = table.c.expires_at <= micros(now)
        keys = sorted(connection.execute(select(table.c.id).where(is_expired).limit(EXPIRED_CLAIMS)).scalars())
        if keys:
            connection.execute(delete(table).where(table.c.id.in_(keys), is_expired))
        return len(keys) == EXPIRED_CLAIMS
