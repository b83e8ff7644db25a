"""Delays in SQLite, in a table that the first message makes. For brokers whose server holds no delayed messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.opening import Connection
from celeriac.model.clock import Clock
from celeriac.ports.delays import Counts, Delayed, DelayStore, Due, Taken, new_token

__all__ = ["SQLiteDelayStore"]

Result = TypeVar("Result")

TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS delays (
        id TEXT PRIMARY KEY,
        queue TEXT NOT NULL,
        due_at REAL NOT NULL,
        free_at REAL NOT NULL DEFAULT 0,        -- until when somebody holds it
        token INTEGER NOT NULL DEFAULT 0,       -- of who took it last; 0: nobody did
        again INTEGER NOT NULL,
        data BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS delays_due ON delays (due_at)",
    "CREATE INDEX IF NOT EXISTS delays_queue ON delays (queue, due_at)",
)
IS_THERE: Final = "SELECT 1 FROM sqlite_master WHERE name = 'delays_queue'"
KEEP: Final = """INSERT INTO delays (id, queue, due_at, again, data) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET queue = excluded.queue, due_at = excluded.due_at, free_at = 0, token = 0,
        again = excluded.again, data = excluded.data
    WHERE token <> 0 OR ?"""
COLUMNS: Final = "CAST(id AS TEXT), CAST(queue AS TEXT), CAST(data AS BLOB), CAST(due_at AS REAL), token <> 0 OR again"
ROWS: Final = f"SELECT {COLUMNS} FROM delays"  # noqa: S608 - a constant
DUE: Final = f"{ROWS} WHERE due_at <= ?1 AND free_at <= ?1 ORDER BY due_at LIMIT ?2"
OF_IDS: Final = f"{ROWS} WHERE free_at <= ?1 AND id IN (SELECT value FROM json_each(?2))"  # noqa: S608
OF_QUEUE: Final = f"{ROWS} WHERE free_at <= ?1 AND queue = ?3 ORDER BY due_at LIMIT ?2"
SOONEST: Final = "SELECT CAST(due_at AS REAL) FROM delays WHERE due_at > ? ORDER BY due_at LIMIT 1"
HOLD: Final = "UPDATE delays SET free_at = ?, token = ? WHERE id = ?"
REMOVE: Final = "DELETE FROM delays WHERE id = ? AND token = ?"
RELEASE: Final = "UPDATE delays SET free_at = 0 WHERE id = ? AND token = ?"
COUNTS: Final = "SELECT CAST(queue AS TEXT), sum(due_at <= ?), count(*) FROM delays GROUP BY queue"


class SQLiteDelayStore(DelayStore):
    """Messages in a table."""

    poll = 1.0

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._has_table = False
        self._seen = 0  # the watch's generation when messages were last looked for

    def keep(self, messages: Sequence[Delayed]) -> None:
        self._database.write(self._keeping(messages))

    async def akeep(self, messages: Sequence[Delayed]) -> None:
        await self._database.awrite(self._keeping(messages))

    def _keeping(self, messages: Sequence[Delayed]) -> Callable[[Connection], None]:
        now = self._clock.now()
        rows = [(one.id, one.queue, now + one.delay if one.due_at is None else one.due_at, one.again, one.data,
                 one.replaces) for one in messages]  # fmt: skip

        def work(connection: Connection) -> None:
            for statement in TABLES:
                connection.execute(statement)
            connection.executemany(KEEP, rows)

        return work

    async def take_due(self, limit: int, seconds: float) -> Due:
        self._seen = self._database.watch().generation
        now = self._clock.now()
        taken: list[Taken] = []
        if self._rows(DUE, (now, 1)):
            taken = await self._take(DUE, (now, limit), now + seconds)
        soonest = self._rows(SOONEST, (now,))
        return Due(taken, max(0.0, soonest[0][0] - now) if soonest else None)

    async def take(self, ids: Sequence[str], seconds: float) -> list[Taken]:
        now = self._clock.now()
        given = (now, msgspec.json.encode(list(ids)).decode())
        return await self._take(OF_IDS, given, now + seconds) if self._rows(OF_IDS, given) else []

    async def take_from(self, queue: str, limit: int, seconds: float) -> list[Taken]:
        now = self._clock.now()
        given = (now, limit, queue)
        return await self._take(OF_QUEUE, given, now + seconds) if self._rows(OF_QUEUE, given) else []

    async def _take(self, query: str, given: tuple[Any, ...], until: float) -> list[Taken]:
        token = new_token()

        def work(connection: Connection) -> list[Taken]:
            rows = connection.execute(query, given).fetchall()
            connection.executemany(HOLD, [(until, token, row[0]) for row in rows])
            return [_taken(row, token) for row in rows]

        return await self._database.awrite(work, quiet=True)

    async def remove(self, taken: Sequence[Taken]) -> list[bool]:
        return await self._each(REMOVE, taken)

    async def release(self, taken: Sequence[Taken]) -> None:
        await self._each(RELEASE, taken)

    async def _each(self, statement: str, taken: Sequence[Taken]) -> list[bool]:
        rows = [(one.id, one.token) for one in taken]
        return await self._database.awrite(
            lambda connection: [connection.execute(statement, row).rowcount == 1 for row in rows], quiet=True
        )

    async def counts(self) -> dict[str, Counts]:
        rows = self._rows(COUNTS, (self._clock.now(),))
        return {queue: Counts(due, every - due) for queue, due, every in rows}

    async def page(self, queue: str | None, due: bool, limit: int, offset: int = 0) -> list[Taken]:
        where, given = f"due_at {'<=' if due else '>'} ?", list[Any]([self._clock.now()])
        if queue is not None:
            where, given = f"{where} AND queue = ?", [*given, queue]
        query = f"{ROWS} WHERE {where} ORDER BY due_at LIMIT ? OFFSET ?"
        return [_taken(row, 0) for row in self._rows(query, (*given, limit, offset))]

    async def changed(self, seconds: float) -> None:
        await self._database.watch().changed(self._seen, min(seconds, self.poll))

    def _rows(self, query: str, given: tuple[Any, ...]) -> list[Any]:
        def work(connection: Connection) -> list[Any]:
            if not self._has_table and connection.execute(IS_THERE).fetchone() is None:
                return []
            self._has_table = True
            return connection.execute(query, given).fetchall()

        return self._database.read(work)


def _taken(row: Any, token: int) -> Taken:
    id, queue, data, due_at, again = row
    return Taken(id, queue, data, due_at, token, bool(again))
