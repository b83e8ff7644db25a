"""Looking into a SQLite broker, and operating it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from celeriac.brokers.base import Dead, Operations, QueueCounts, WorkerInfo, anew, decode, encode
from celeriac.brokers.sqlite.rows import where
from celeriac.clock import Clock
from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.schema import DEAD, READY, SCHEDULED, STATE_NAMES, WAKE
from celeriac.message import Message

__all__ = ["SQLiteOperations"]

LINES = "line IN (SELECT line FROM lines WHERE queue = ?)"


class SQLiteOperations(Operations):
    """Queries over the table `messages`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def queues(self) -> list[QueueCounts]:
        await self._wake()
        counted = self._rows(
            "SELECT queue, state, count(*) FROM messages JOIN lines USING (line) GROUP BY queue, state", ()
        )
        paused = {queue for (queue,) in self._rows("SELECT queue FROM pauses", ())}
        counts: dict[str, dict[str, int]] = {queue: {} for queue in paused}
        for queue, state, count in counted:
            counts.setdefault(queue, {})[STATE_NAMES[state]] = count
        return [QueueCounts(queue=queue, paused=queue in paused, **found) for queue, found in sorted(counts.items())]

    async def peek(self, queue: str, limit: int, offset: int = 0) -> list[Message]:
        await self._wake()
        return self._messages(f"{LINES} AND state = {READY} ORDER BY rank, seq", (queue,), limit, offset)

    async def scheduled(self, queue: str | None, limit: int, offset: int = 0) -> list[Message]:
        await self._wake()
        if queue is None:
            return self._messages(f"state = {SCHEDULED} ORDER BY due_at", (), limit, offset)
        return self._messages(f"{LINES} AND state = {SCHEDULED} ORDER BY due_at", (queue,), limit, offset)

    async def find(self, ids: Sequence[str]) -> dict[str, tuple[str, Message]]:
        await self._wake()
        found = {}
        for id in ids:
            condition, parameters = where(id)
            for state, message in self._rows(f"SELECT state, message FROM messages WHERE {condition}", parameters):  # noqa: S608
                found[id] = (STATE_NAMES[state], decode(message))
        return found

    async def purge(self, queue: str) -> int:
        statement = f"DELETE FROM messages WHERE {LINES} AND state IN ({READY}, {SCHEDULED})"  # noqa: S608
        return await self._change(statement, (queue,))

    async def pause(self, queue: str) -> None:
        await self._change("INSERT OR IGNORE INTO pauses (queue) VALUES (?)", (queue,))

    async def resume(self, queue: str) -> None:
        await self._change("DELETE FROM pauses WHERE queue = ?", (queue,))

    async def dead(self, queue: str | None, limit: int, offset: int = 0) -> list[Dead]:
        where, parameters = (f"{LINES} AND", (queue,)) if queue is not None else ("", ())
        rows = self._rows(
            f"SELECT message, reason, due_at FROM messages WHERE {where} state = {DEAD} "  # noqa: S608
            "ORDER BY due_at DESC, seq DESC LIMIT ? OFFSET ?",
            (*parameters, limit, offset),
        )
        return [Dead(message=decode(message), reason=reason or "", at=at) for message, reason, at in rows]

    async def resend(self, ids: Sequence[str]) -> int:
        def work(connection: sqlite3.Connection) -> int:
            letters = _letters(connection, ids)
            # Its failure was recorded as final; sent again, it is pending again.
            connection.executemany("DELETE FROM outcomes WHERE id = ?", [(id,) for _, id, _ in letters])
            connection.executemany(
                f"UPDATE messages SET state = {READY}, due_at = NULL, reason = NULL, deliveries = 0, message = ? "  # noqa: S608
                "WHERE seq = ?",
                [(encode(anew(decode(message))), seq) for seq, _, message in letters],
            )
            return len(letters)

        return await self._database.awrite(work)

    async def drop(self, ids: Sequence[str]) -> int:
        def work(connection: sqlite3.Connection) -> int:
            letters = _letters(connection, ids)
            connection.executemany("DELETE FROM messages WHERE seq = ?", [(seq,) for seq, _, _ in letters])
            return len(letters)

        return await self._database.awrite(work)

    async def workers(self) -> list[WorkerInfo]:
        rows = self._rows("SELECT info, renewed_at, expires_at FROM leases WHERE expires_at > ?", (self._clock.now(),))
        return [
            msgspec.structs.replace(msgspec.json.decode(info, type=WorkerInfo), renewed_at=renewed, expires_at=expires)
            for info, renewed, expires in rows
        ]

    async def _wake(self) -> None:
        """Make ready what is due: without a worker nobody has done so."""
        now = self._clock.now()
        if self._rows(f"SELECT 1 FROM messages WHERE state = {SCHEDULED} AND due_at <= ? LIMIT 1", (now,)):  # noqa: S608
            await self._change(WAKE, (now,))

    def _messages(self, where: str, parameters: Sequence[Any], limit: int, offset: int) -> list[Message]:
        rows = self._rows(f"SELECT message FROM messages WHERE {where} LIMIT ? OFFSET ?", (*parameters, limit, offset))  # noqa: S608
        return [decode(message) for (message,) in rows]

    def _rows(self, query: str, parameters: Sequence[Any]) -> list[Any]:
        return self._database.read(lambda connection: connection.execute(query, parameters).fetchall())

    async def _change(self, statement: str, parameters: Sequence[Any]) -> int:
        return await self._database.awrite(lambda connection: connection.execute(statement, parameters).rowcount)


def _letters(connection: sqlite3.Connection, ids: Sequence[str]) -> list[Any]:
    """Return the dead letters among these messages: seq, id, message."""
    letters = []
    for id in ids:
        condition, parameters = where(id)
        query = f"SELECT seq, id, message FROM messages WHERE {condition} AND state = {DEAD}"  # noqa: S608
        letters += connection.execute(query, parameters).fetchall()
    return letters
