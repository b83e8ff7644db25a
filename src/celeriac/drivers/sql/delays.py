"""Delays in a table, for brokers whose server holds no delayed messages.

To take messages, their ids are read, and then rows of these ids are updated that are still free: of two workers that
read the same ids, one gets each. A database that knows `ON CONFLICT` keeps messages in one statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Integer, bindparam, case, delete, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from celeriac.drivers.sql.database import Database
from celeriac.drivers.sql.keys import key, micros
from celeriac.drivers.sql.outcomes import PAGE, pages
from celeriac.model.clock import Clock
from celeriac.ports.delays import Counts, Delayed, DelayStore, Due, Taken, new_token, removed

__all__ = ["SQLDelayStore"]


CHANGED: Final = ("queue", "due_at", "free_at", "token", "takes", "data")  # columns, when a message is replaced


class SQLDelayStore(DelayStore):
    """Messages by id; ids and queues that are no keys are told by the data."""

    poll = 0.25

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        table = self._table = database.tables.delays
        self._columns = select(table.c.token, table.c.takes, table.c.due_at, table.c.data)
        may_replace = or_(table.c.token != 0, bindparam("replaces", type_=Integer) == 1)
        self._upserts: dict[str, Any] = {}
        for name, statement in (("postgresql", postgresql_insert(table)), ("sqlite", sqlite_insert(table))):
            new = {column: statement.excluded[column] for column in CHANGED}
            self._upserts[name] = statement.on_conflict_do_update(index_elements=["id"], set_=new, where=may_replace)
        self._replace = update(table).where(table.c.id == bindparam("key")).values(
            {column: bindparam(f"new_{column}") for column in CHANGED}
        )  # fmt: skip

    # --- Keep -----------------------------------------------------------------------------------------

    def keep(self, messages: Sequence[Delayed]) -> None:
        now = self._clock.now()
        rows = [self._row(message, now) for message in messages]
        for page in pages(rows, PAGE):
            self._database.write(lambda connection, page=page: self._keep(connection, page))  # type: ignore[misc]

    async def akeep(self, messages: Sequence[Delayed]) -> None:
        await asyncio.to_thread(self.keep, messages)

    def _row(self, message: Delayed, now: float) -> dict[str, Any]:
        due_at = now + message.delay if message.due_at is None else message.due_at
        return {
            "id": key(message.id), "queue": key(message.queue), "due_at": micros(due_at), "free_at": 0, "token": 0,
            "takes": int(message.again), "data": msgspec.msgpack.encode((message.id, message.queue, message.data)),
            "replaces": int(message.replaces),
        }  # fmt: skip

    def _keep(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        upsert = self._upserts.get(connection.dialect.name)
        if upsert is not None:
            connection.execute(upsert, sorted(rows, key=lambda row: row["id"]))
            return
        table = self._table
        ids = sorted({row["id"] for row in rows})
        found = select(table.c.id, table.c.token).where(table.c.id.in_(ids)).order_by(table.c.id).with_for_update()
        tokens = {row.id: row.token for row in connection.execute(found)}
        new: dict[str, dict[str, Any]] = {}
        changed: dict[str, dict[str, Any]] = {}
        for row in rows:
            id, replaces = row["id"], row["replaces"]
            values = {name: value for name, value in row.items() if name != "replaces"}
            if id not in tokens:
                if id not in new or replaces:
                    new[id] = values
            elif replaces or (tokens[id] and id not in changed):
                changed[id] = {"key": id, **{f"new_{name}": values[name] for name in CHANGED}}
        if new:
            connection.execute(insert(table), [new[id] for id in sorted(new)])
        if changed:
            connection.execute(self._replace, [changed[id] for id in sorted(changed)])

    # --- Take -----------------------------------------------------------------------------------------

    async def take_due(self, limit: int, seconds: float) -> Due:
        now = micros(self._clock.now())
        table = self._table
        due = select(table.c.id).where(table.c.due_at <= now, table.c.free_at <= now).order_by(table.c.due_at)
        after = select(table.c.due_at).where(table.c.due_at > now).order_by(table.c.due_at).limit(1)

        def look(connection: Connection) -> tuple[list[str], int | None]:
            return list(connection.execute(due.limit(limit)).scalars()), connection.execute(after).scalar()

        ids, soonest = await self._database.aread(look)
        left = None if soonest is None else (soonest - now) / 1_000_000
        return Due(await self._hold(ids, now, seconds), left)

    async def take(self, ids: Sequence[str], seconds: float) -> list[Taken]:
        return await self._hold(list({key(id) for id in ids}), micros(self._clock.now()), seconds)

    async def take_from(self, queue: str, limit: int, seconds: float) -> list[Taken]:
        now = micros(self._clock.now())
        table = self._table
        free = select(table.c.id).where(table.c.queue == key(queue), table.c.free_at <= now).order_by(table.c.due_at)
        rows = await self._database.arows(free.limit(limit))
        return await self._hold([row.id for row in rows], now, seconds)

    async def _hold(self, ids: list[str], now: int, seconds: float) -> list[Taken]:
        """Hold those of these messages that nobody holds."""
        if not ids:
            return []
        table, token = self._table, new_token()
        held = {"free_at": now + micros(seconds), "token": token, "takes": table.c.takes + 1}

        def work(connection: Connection) -> list[Taken]:
            found: list[Taken] = []
            for page in pages(sorted(ids), PAGE):
                in_page = table.c.id.in_(page)
                connection.execute(update(table).where(in_page, table.c.free_at <= now).values(held))
                rows = connection.execute(self._columns.where(in_page, table.c.token == token))
                found += [_taken(row) for row in rows]
            return found

        return sorted(await self._database.awrite(work), key=lambda one: one.due_at)

    # --- After that -----------------------------------------------------------------------------------

    async def remove(self, taken: Sequence[Taken]) -> list[bool]:
        table = self._table

        def work(connection: Connection) -> set[tuple[str, int]]:
            there: set[tuple[str, int]] = set()
            for token, ids in _by_token(taken):
                is_mine = (table.c.id.in_(ids), table.c.token == token)
                found = select(table.c.id).where(*is_mine).order_by(table.c.id).with_for_update()
                there.update((id, token) for id in connection.execute(found).scalars())
                connection.execute(delete(table).where(*is_mine))
            return there

        return removed([(key(one.id), one.token) for one in taken], await self._database.awrite(work))

    async def release(self, taken: Sequence[Taken]) -> None:
        table = self._table

        def work(connection: Connection) -> None:
            for token, ids in _by_token(taken):
                is_mine = (table.c.id.in_(ids), table.c.token == token)
                connection.execute(update(table).where(*is_mine).values(free_at=0))

        await self._database.awrite(work)

    async def counts(self) -> dict[str, Counts]:
        table, now = self._table, micros(self._clock.now())
        due = func.sum(case((table.c.due_at <= now, 1), else_=0))
        grouped = select(table.c.queue, due, func.count()).group_by(table.c.queue)

        def work(connection: Connection) -> dict[str, Counts]:
            found: dict[str, Counts] = {}
            for queue, due, every in connection.execute(grouped).all():
                one = connection.execute(select(table.c.data).where(table.c.queue == queue).limit(1)).scalar()
                if one is not None:
                    found[_read(one)[1]] = Counts(int(due), int(every) - int(due))
            return found

        return await self._database.aread(work)

    async def page(self, queue: str | None, due: bool, limit: int, offset: int = 0) -> list[Taken]:
        table, now = self._table, micros(self._clock.now())
        query = self._columns.where(table.c.due_at <= now if due else table.c.due_at > now).order_by(table.c.due_at)
        if queue is not None:
            query = query.where(table.c.queue == key(queue))
        return [_taken(row, held=False) for row in await self._database.arows(query.limit(limit).offset(offset))]

    async def changed(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, self.poll))


def _by_token(taken: Sequence[Taken]) -> Iterator[tuple[int, Sequence[str]]]:
    """Return sorted keys of messages, by the token under which they were taken; a page at a time."""
    ids: dict[int, set[str]] = {}
    for one in taken:
        ids.setdefault(one.token, set()).add(key(one.id))
    for token, found in ids.items():
        for page in pages(sorted(found), PAGE):
            yield token, page


def _taken(row: Any, held: bool = True) -> Taken:
    id, queue, data = _read(row.data)
    again = row.takes > (1 if held else 0)
    return Taken(id, queue, data, row.due_at / 1_000_000, row.token if held else 0, again)


def _read(data: bytes) -> tuple[str, str, bytes]:
    found: tuple[str, str, bytes] = _decode(bytes(data))
    return found


_decode = msgspec.msgpack.Decoder(tuple[str, str, bytes]).decode
