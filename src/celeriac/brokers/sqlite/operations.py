"""The operations of the SQLite broker: inspecting and managing queues, dead letters and workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from celeriac.brokers.sqlite.rows import USUAL_RANK, Found, find, insert, queue_of, remove, wake_due
from celeriac.drivers.sqlite import outcomes, workflows
from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.opening import Connection
from celeriac.drivers.sqlite.schema import ACTIVE, DEAD, FRESH, READY, SCHEDULED, TABLES
from celeriac.model.clock import Clock
from celeriac.model.message import Message
from celeriac.ports.operations import (
    Dead,
    Holder,
    Operations,
    QueueCounts,
    Removal,
    Waiting,
    WorkerInfo,
    anew,
    now_due,
    unreadable,
    worker_of,
)
from celeriac.ports.workflows import NodeEnd

__all__ = ["HOLDER", "SQLiteOperations"]

OF_QUEUE = "line IN (SELECT line FROM lines WHERE queue = ?)"
COUNT = " UNION ALL ".join(
    f"SELECT CAST(queue AS TEXT), '{table}', count(*) FROM {table} JOIN lines USING (line) GROUP BY queue"  # noqa: S608
    for table in TABLES
)
WAITING = (READY, FRESH, SCHEDULED)
DELETE_WAITING = [f"DELETE FROM {table} WHERE line = ? AND rank IS ? AND seq IS ?" for table in WAITING]  # noqa: S608
READY_OF_LINE = f"SELECT rank, seq, line, CAST(message AS BLOB) FROM {READY} WHERE line = ?"  # noqa: S608
FRESH_OF_LINES = (f"SELECT rank, seq, line, CAST(message AS BLOB) FROM {FRESH} WHERE rank = {USUAL_RANK} "  # noqa: S608
                  "AND line IN (SELECT value FROM json_each(?))")  # fmt: skip
# The index alone tells which messages are skipped, and in which queue they are.
DUE, DUE_OF_QUEUE = (
    f"SELECT CAST(message AS BLOB), line FROM (SELECT line, rank, seq FROM {SCHEDULED} INDEXED BY due {condition} "  # noqa: S608
    f"ORDER BY due_at LIMIT ? OFFSET ?) CROSS JOIN {SCHEDULED} USING (line, rank, seq) ORDER BY due_at"
    for condition in ("", f"WHERE +{OF_QUEUE}")
)
RANKS = ", ".join(f"({rank})" for rank in range(10))
HEADS = (f"SELECT (SELECT CAST(message AS BLOB) FROM {READY} WHERE {READY}.line = lines.line AND rank = column1 "  # noqa: S608
         f"ORDER BY seq LIMIT 1), line FROM lines, (VALUES {RANKS}) WHERE queue = ?")  # fmt: skip
FRESH_HEAD = f"SELECT CAST(message AS BLOB), line FROM {FRESH} WHERE {OF_QUEUE} ORDER BY seq LIMIT 1"  # noqa: S608
HOLDER = ("SELECT CAST(info AS BLOB), renewed_at, expires_at, deliveries FROM active JOIN leases USING (lease) "
          "WHERE line = ? AND rank = ? AND seq = ?")  # fmt: skip
ALL_HEADS = f"{HEADS} UNION ALL SELECT * FROM ({FRESH_HEAD})"  # noqa: S608


class SQLiteOperations(Operations):
    """Operations by queries over the tables of messages."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def queues(self) -> list[QueueCounts]:
        await self._wake_due()
        counted = self._rows(COUNT, ())
        paused = {queue for (queue,) in self._rows("SELECT CAST(queue AS TEXT) FROM pauses", ())}
        counts: dict[str, dict[str, Any]] = {queue: {} for queue in paused}
        for queue, table, count in counted:
            found = counts.setdefault(queue, {})
            state = READY if table == FRESH else table
            found[state] = found.get(state, 0) + count
        return [QueueCounts(queue=queue, paused=queue in paused, **found) for queue, found in sorted(counts.items())]

    async def peek(self, queue: str, limit: int, offset: int = 0) -> list[Message]:
        await self._wake_due()
        lines = [line for (line,) in self._rows("SELECT line FROM lines WHERE queue = ?", (queue,))]
        # Each part is in order as it is stored, so that they are merged, and read no further than is asked for.
        merged = " UNION ALL ".join([READY_OF_LINE] * len(lines) + [FRESH_OF_LINES])
        rows = self._rows(f"{merged} ORDER BY 1, 2 LIMIT ? OFFSET ?", (*lines, _json(lines), limit, offset))
        return [self._shown(raw, line, queue) for _, _, line, raw in rows]

    async def heads(self, queue: str) -> list[Message]:
        await self._wake_due()
        rows = self._rows(ALL_HEADS, (queue, queue))
        return [self._shown(raw, line, queue) for raw, line in rows if raw is not None]

    async def scheduled(self, queue: str | None, limit: int, offset: int = 0) -> list[Message]:
        await self._wake_due()
        query, given = (DUE, ()) if queue is None else (DUE_OF_QUEUE, (queue,))
        return [self._shown(raw, line, queue) for raw, line in self._rows(query, (*given, limit, offset))]

    async def find(self, ids: Sequence[str]) -> dict[str, tuple[str, Message]]:
        await self._wake_due()
        found = ((id, self._database.read(partial(find, id=id))) for id in ids)
        return {id: (item.state, item.message) for id, item in found if item is not None}

    async def holder(self, message: Message) -> Holder | None:
        found = self._database.read(partial(find, id=message.id))
        if found is None or found.state != ACTIVE:
            return None
        rows = self._rows(HOLDER, (found.line, found.rank, found.seq))
        return next((Holder(self._worker(*row), _time(row[2]), deliveries) for *row, deliveries in rows), None)

    async def revoked(self, ids: Sequence[str]) -> set[str]:
        query = "SELECT id FROM revoked WHERE id IN (SELECT value FROM json_each(?)) AND until > ?"
        return {id for (id,) in self._rows(query, (_json(ids), self._clock.now()))}

    async def waiting(self, queue: str, limit: int) -> list[Waiting]:
        found: list[Waiting] = []
        for table in WAITING:
            query = f"SELECT CAST(message AS BLOB), line, rank, seq FROM {table} WHERE {OF_QUEUE} LIMIT ?"  # noqa: S608
            rows = self._rows(query, (queue, limit - len(found)))
            found += [Waiting((line, rank, seq), self._shown(raw, line)) for raw, line, rank, seq in rows]
        return found

    async def remove(self, queue: str, removals: Sequence[Removal]) -> list[bool]:
        def work(connection: Connection) -> list[bool]:
            done = [
                any(connection.execute(delete, removal.key).rowcount for delete in DELETE_WAITING)
                for removal in removals
            ]
            _end(connection, [one for one, gone in zip(removals, done, strict=True) if gone], self._clock.now())
            return done

        return await self._database.awrite(work)

    async def run_now(self, ids: Sequence[str]) -> int:
        return await self._database.awrite(lambda connection: self._send_anew(connection, ids, (SCHEDULED,), now_due))

    async def move(self, ids: Sequence[str], queue: str) -> int:
        def moved(message: Message) -> Message:
            return msgspec.structs.replace(message, queue=queue)

        return await self._database.awrite(
            lambda connection: self._send_anew(connection, ids, (READY, SCHEDULED), moved, queue)
        )

    def _send_anew(self, connection: Connection, ids: Sequence[str], states: Sequence[str],
                   changed: Callable[[Message], Message], to: str | None = None) -> int:  # fmt: skip
        """Write messages that wait in one of these states anew, changed; return how many there were. Not those `to`."""
        known = [one for id in dict.fromkeys(ids) if (one := find(connection, id)) is not None]
        found = [one for one in known if one.state in states and one.message.queue != to]
        for one in found:
            remove(connection, one)
        insert(connection, [changed(one.message) for one in found], self._clock.now())
        return len(found)

    async def pause(self, queue: str) -> None:
        await self._change("INSERT OR IGNORE INTO pauses (queue) VALUES (?)", (queue,))

    async def resume(self, queue: str) -> None:
        await self._change("DELETE FROM pauses WHERE queue = ?", (queue,))

    async def dead(self, queue: str | None, limit: int, offset: int = 0) -> list[Dead]:
        condition, parameters = (f"WHERE {OF_QUEUE}", (queue,)) if queue is not None else ("", ())
        rows = self._rows(
            f"SELECT CAST(message AS BLOB), line, CAST(reason AS TEXT), died_at FROM dead {condition} "  # noqa: S608
            "ORDER BY died_at DESC, seq DESC LIMIT ? OFFSET ?",
            (*parameters, limit, offset),
        )
        return [Dead(message=self._shown(raw, line), reason=reason, at=_time(at)) for raw, line, reason, at in rows]

    async def resend(self, ids: Sequence[str]) -> int:
        def work(connection: Connection) -> int:
            letters = _letters(connection, ids)
            for letter in letters:
                remove(connection, letter)
                # Its failure was recorded as final, and would otherwise be its result.
                connection.execute("DELETE FROM outcomes WHERE id = ?", (letter.message.id,))
            insert(connection, [anew(letter.message, connection.codec) for letter in letters], self._clock.now())
            return len(letters)

        return await self._database.awrite(work)

    async def drop(self, ids: Sequence[str]) -> int:
        def work(connection: Connection) -> int:
            letters = _letters(connection, ids)
            for letter in letters:
                remove(connection, letter)
            return len(letters)

        return await self._database.awrite(work)

    async def workers(self) -> list[WorkerInfo]:
        query = "SELECT CAST(info AS BLOB), renewed_at, expires_at FROM leases WHERE expires_at > ?"
        return [self._worker(*row) for row in self._rows(query, (self._clock.now(),))]

    def _worker(self, info: bytes, renewed_at: Any, expires_at: Any) -> WorkerInfo:
        worker = worker_of(info, self._database.codec)
        return msgspec.structs.replace(worker, renewed_at=_time(renewed_at), expires_at=_time(expires_at))

    async def _wake_due(self) -> None:
        """Move due messages to their lines, because there may be no worker that has done it."""
        now = self._clock.now()
        if self._rows("SELECT 1 FROM scheduled WHERE due_at <= ? LIMIT 1", (now,)):
            while await self._database.awrite(lambda connection: wake_due(connection, now)):
                pass

    def _shown(self, raw: bytes, line: int, queue: str | None = None) -> Message:
        """Decode the message of a row for display; return a placeholder if it is unreadable."""
        queue = self._database.read(partial(queue_of, line=line)) if queue is None else queue
        try:
            return self._database.codec.decode(raw, queue)
        except ValueError as error:
            return unreadable(raw, queue, str(error)).message

    def _rows(self, query: str, parameters: Sequence[Any]) -> list[Any]:
        return self._database.read(lambda connection: connection.execute(query, parameters).fetchall())

    async def _change(self, statement: str, parameters: Sequence[Any]) -> int:
        return await self._database.awrite(lambda connection: connection.execute(statement, parameters).rowcount)


def _json(values: Sequence[Any]) -> str:
    """Return values for `json_each`."""
    return msgspec.json.encode(values).decode()


def _time(value: Any) -> float:
    """Return a time of the file, where a damaged one may have any value."""
    return value if isinstance(value, int | float) else 0.0


def _end(connection: Connection, removals: Sequence[Removal], now: float) -> None:
    """Store the outcomes of messages that were deleted; where they are new, publish what follows."""
    alone = [one for one in removals if one.outcome is not None and one.outcome.place is None]
    nodes = [one for one in removals if one.outcome is not None and one.outcome.place is not None]
    is_new = outcomes.store(connection, [one.outcome for one in alone if one.outcome], now) if alone else []
    if nodes:
        ends = [NodeEnd(one.outcome, one.leaves_pending) for one in nodes if one.outcome]
        is_new += workflows.conclude(connection, ends, now)
    insert(connection, [message for one, new in zip([*alone, *nodes], is_new, strict=True) if new
                        for message in one.follow_ups], now)  # fmt: skip


def _letters(connection: Connection, ids: Sequence[str]) -> list[Found]:
    """Return the dead letters among these messages."""
    found = (find(connection, id) for id in ids)
    return [letter for letter in found if letter is not None and letter.state == DEAD]
