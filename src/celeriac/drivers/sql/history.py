"""The history in tables (`history_tables.py`), in statements that every database has.

What may be written twice is deleted and inserted, in one transaction. `record` and `swap` lock the row of the worker
whose sums they change, and `swap` locks the rows that it compares; SQLite locks the file instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Column, Connection, bindparam, case, delete, func, insert, select, update

from celeriac.drivers.sql.claims import SQLClaimStore
from celeriac.drivers.sql.database import Database
from celeriac.drivers.sql.history_tables import (
    UNFOLDED,
    attempt_name,
    event_name,
    first_name,
    position,
    position_name,
    read_key,
    row_id,
    write_key,
)
from celeriac.drivers.sql.keys import NEVER, key, micros
from celeriac.drivers.sql.outcomes import PAGE, pages
from celeriac.model.codec import Codec
from celeriac.model.filters import Filter
from celeriac.model.history import (
    Batch,
    Event,
    FailureSignature,
    Key,
    Status,
    samples_only,
)
from celeriac.model.message import new_id
from celeriac.model.repeated_warnings import RepeatedWarnings
from celeriac.ports.claims import ClaimStore
from celeriac.ports.history import History, Limits, Position, samples_meant
from celeriac.ports.history_sums import Change, Row, WorkerState

__all__ = ["SQLHistory"]

warnings = RepeatedWarnings(logging.getLogger("celeriac.backends"))

Result = TypeVar("Result")

PRUNED: Final = 1000  # rows that are deleted at a time


class SQLHistory(History):
    """The history in a SQL database."""

    def __init__(self, database: Database, codec: Codec) -> None:
        self.database = database
        self.codec = codec
        tables = self._tables = database.tables.history
        self._claims = SQLClaimStore(database)
        sums, workers = tables.sums, tables.workers
        self._sums = select(sums.c.name, sums.c.sums)
        of_lease = workers.c.id == bindparam("key")
        higher = case((workers.c.complete > bindparam("final"), workers.c.complete), else_=bindparam("final"))
        self._seen = update(workers).where(of_lease).values(complete=higher, seen_at=bindparam("now"))
        self._folded = select(workers.c.folded).where(of_lease)
        self._fold_up_to = update(workers).where(of_lease, workers.c.folded < bindparam("slot")).values(
            folded=bindparam("slot")
        )  # fmt: skip

    # --- Workers --------------------------------------------------------------------------------------

    async def record(self, batch: Batch, now: float) -> None:
        attempts = {
            name: {"name": name, "task_id": key(one.id), "task": key(one.task), "signature": key(one.signature),
                   "is_sample": int(samples_only(one)), "attempt": self.seal(one)}
            for one in batch.attempts for name in (attempt_name(one),)
        }  # fmt: skip
        events = {
            row["id"]: row
            for event in batch.events
            for row in [self._event_row(event, f"{batch.lease}:{event.at!r}:{event.kind}:{event.id}")]
        }
        signatures = sorted(batch.signatures, key=lambda one: one.signature)

        def work(connection: Connection) -> None:
            folded = self._see(connection, batch.lease, batch.complete, now)
            new = [self._sums_row(name, self.seal_sums(name, sums)) for name, sums in batch.sums.items()
                   if name.at > folded]  # fmt: skip
            _put(connection, self._tables.sums.c.id, new)
            _put(connection, self._tables.attempts.c.name, attempts.values())
            _put(connection, self._tables.events.c.id, events.values())
            for one in signatures:
                self._merge(connection, one)

        await self._write(work)

    def _see(self, connection: Connection, lease: str, complete: int, now: float) -> int:
        """Note what is known of a worker, and lock its row. Return up to which slot it is folded."""
        workers = self._tables.workers
        given = {"key": key(lease), "final": complete, "now": micros(now)}
        if connection.execute(self._seen, given).rowcount:
            return int(connection.execute(self._folded, {"key": key(lease)}).scalar_one())
        row = {"id": key(lease), "lease": lease.encode(), "complete": complete, "folded": 0, "seen_at": micros(now)}
        connection.execute(insert(workers).values(row))
        return 0

    def _merge(self, connection: Connection, one: FailureSignature) -> None:
        table = self._tables.signatures
        is_it = table.c.id == key(one.signature)
        found = connection.execute(select(table.c.signature).where(is_it).with_for_update()).first()
        before = self.signature_of(bytes(found.signature)) if found is not None else None
        merged = one if before is None else before.merged(one)
        values = {"last_at": micros(merged.last), "signature": self.seal(merged)}
        if found is not None:
            connection.execute(update(table).where(is_it).values(values))
        else:
            connection.execute(insert(table).values(id=key(one.signature), **values))

    def claims(self) -> ClaimStore:
        return self._claims

    async def prune(self, limits: Limits, now: float) -> int:
        tables = self._tables

        def work(connection: Connection) -> int:
            count = 0
            name, is_sample = tables.attempts.c.name, tables.attempts.c.is_sample
            for sample, seconds in ((1, limits.samples), (0, limits.failures)):
                newest = select(name).where(is_sample == sample).order_by(name.desc())
                horizon = connection.execute(newest.limit(1).offset(limits.attempts - 1)).scalar()
                horizon = max(horizon or "", first_name(now - seconds))
                old = select(name).where(is_sample == sample, name < horizon).order_by(name)
                count += _delete(connection, name, connection.execute(old.limit(PRUNED)).scalars().all())
            for column, id, bound in (
                (tables.events.c.happened_at, tables.events.c.id, now - limits.events),
                (tables.signatures.c.last_at, tables.signatures.c.id, now - limits.signatures),
            ):
                found = connection.execute(select(id).where(column < micros(bound)).limit(PRUNED)).scalars().all()
                count += _delete(connection, id, found)
            self._claims.delete_expired(connection, now)
            return count + self._forget_workers(connection, now - 86_400.0)

        return await self._write(work)

    def _forget_workers(self, connection: Connection, before: float) -> int:
        workers, sums = self._tables.workers, self._tables.sums
        silent = select(workers.c.id).where(workers.c.seen_at < micros(before)).limit(PRUNED)
        ids = set(connection.execute(silent).scalars())
        if ids:
            unfolded = connection.execute(self._sums.where(sums.c.step == UNFOLDED))
            ids -= {key(row.key.lease) for row in _rows(unfolded)}
        return _delete(connection, workers.c.id, sorted(ids))

    # --- Rows of sums ---------------------------------------------------------------------------------

    async def rows(self, step: int, since: int, until: int, limit: int | None = None) -> list[Row]:
        table = self._tables.sums
        query = self._sums.where(table.c.step == step, table.c.slot >= since, table.c.slot < until)
        query = query.order_by(table.c.slot)
        return _rows(await self.database.arows(query if limit is None else query.limit(limit)))

    async def unfolded(self) -> list[Row]:
        return _rows(await self.database.arows(self._sums.where(self._tables.sums.c.step == UNFOLDED)))

    async def get(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        names = {row_id(name): name for name in keys}

        def work(connection: Connection) -> dict[str, bytes]:
            return self._values(connection, list(names), lock=False)

        found = await self.database.aread(work)
        return {names[id]: value for id, value in found.items()}

    def _values(self, connection: Connection, ids: Sequence[str], lock: bool) -> dict[str, bytes]:
        table = self._tables.sums
        found: dict[str, bytes] = {}
        for page in pages(ids, PAGE):
            query = select(table.c.id, table.c.sums).where(table.c.id.in_(page)).order_by(table.c.id)
            rows = connection.execute(query.with_for_update() if lock else query)
            found.update({id: bytes(value) for id, value in rows})
        return found

    async def swap(self, changes: Sequence[Change], folded: Mapping[str, int]) -> bool:
        before = {row_id(change.key): change.before for change in changes}
        after = [self._sums_row(change.key, change.after) for change in changes if change.after is not None]

        def work(connection: Connection) -> bool:
            for lease, slot in sorted((key(lease), slot) for lease, slot in folded.items()):
                connection.execute(self._fold_up_to, {"key": lease, "slot": slot})
            ids = sorted(before)
            found = self._values(connection, ids, lock=True)
            if any(found.get(id) != value for id, value in before.items()):
                connection.rollback()
                return False
            _delete(connection, self._tables.sums.c.id, [id for id in ids if id in found])
            _insert(connection, self._tables.sums.c.id, after)
            return True

        return await self._write(work)

    async def workers(self) -> dict[str, WorkerState]:
        table = self._tables.workers
        return {
            bytes(row.lease).decode(errors="replace"): WorkerState(row.complete, row.folded, row.seen_at / 1_000_000)
            for row in await self.database.arows(select(table))
        }

    def _sums_row(self, name: Key, value: bytes) -> dict[str, Any]:
        step = UNFOLDED if name.lease else name.step
        return {"id": row_id(name), "step": step, "slot": name.at, "name": write_key(name), "sums": value}

    # --- Front ends -----------------------------------------------------------------------------------

    async def attempts(self, filter: Filter, before: Position | None, limit: int) -> list[tuple[Position, bytes]]:
        table = self._tables.attempts
        query = select(table.c.name, table.c.attempt)
        if before is not None:
            query = query.where(table.c.name < position_name(before))
        if filter.since is not None:
            query = query.where(table.c.name >= first_name(filter.since))
        if filter.until is not None:
            query = query.where(table.c.name < first_name(filter.until + 1e-6))
        if filter.tasks and not any("*" in task for task in filter.tasks):
            query = query.where(table.c.task.in_([*map(key, filter.tasks)]))
        if filter.signatures:
            query = query.where(table.c.signature.in_([*map(key, filter.signatures)]))
        if filter.ids:
            query = query.where(table.c.task_id.in_([*map(key, filter.ids)]))
        if (sample := samples_meant(filter)) is not None:
            query = query.where(table.c.is_sample == int(sample))
        query, found = query.order_by(table.c.name.desc()).limit(limit), list[tuple[Position, bytes]]()
        rows = await self.database.arows(query)
        while rows and not found:
            for name, value in rows:
                try:
                    found.append((position(name), bytes(value)))
                except ValueError:
                    warnings.warn("A row of the history names no attempt: %r", name[:100])
            if not found:
                rows = await self.database.arows(query.where(table.c.name < rows[-1].name))
        return found

    async def count_attempts(self) -> int:
        (count,) = await self.database.arows(select(func.count()).select_from(self._tables.attempts))
        return int(count[0])

    async def attempts_of_task(self, id: str) -> list[bytes]:
        table = self._tables.attempts
        query = select(table.c.attempt).where(table.c.task_id == key(id))
        return [bytes(value) for (value,) in await self.database.arows(query)]

    async def known_signatures(self, signatures: Sequence[str] | None = None) -> list[FailureSignature]:
        if signatures is None:
            return await self._with_marks(self._tables.signatures.c.last_at >= NEVER)
        return await self._with_marks(self._tables.signatures.c.id.in_([*map(key, signatures)]))

    async def latest_signatures(self, since: float) -> list[FailureSignature]:
        return await self._with_marks(self._tables.signatures.c.last_at >= micros(since))

    async def _with_marks(self, condition: Any) -> list[FailureSignature]:
        table = self._tables.signatures
        query = select(table.c.signature, table.c.mark).where(condition).order_by(table.c.last_at.desc())
        found = []
        for value, mark in await self.database.arows(query):
            one = self.signature_of(bytes(value))
            if one is not None:
                found.append(one if mark is None else self.marked(one, _decoded(bytes(mark))))
        return found

    async def mark(self, signature: str, status: Status, by: str, now: float) -> bool:
        table = self._tables.signatures
        mark = msgspec.json.encode((status, now, by))
        statement = update(table).where(table.c.id == key(signature)).values(mark=mark)
        return await self._write(lambda connection: connection.execute(statement).rowcount == 1)

    async def audit(self, event: Event) -> None:
        row = self._event_row(event, new_id())
        await self._write(lambda connection: connection.execute(insert(self._tables.events).values(row)))

    def _event_row(self, event: Event, name: str) -> dict[str, Any]:
        return {"id": event_name(name), "happened_at": micros(event.at), "kind": key(event.kind),
                "about": key(event.id), "event": self.seal(event)}  # fmt: skip

    async def events(self, kinds: Sequence[str] = (), since: float = 0.0, limit: int = 100,
                     id: str | None = None) -> list[Event]:  # fmt: skip
        table = self._tables.events
        query = select(table.c.event).where(table.c.happened_at >= micros(since))
        if kinds:
            query = query.where(table.c.kind.in_([*map(key, kinds)]))
        if id is not None:
            query = query.where(table.c.about == key(id))
        rows = await self.database.arows(query.order_by(table.c.happened_at.desc()).limit(limit))
        return list(self.events_of(bytes(value) for (value,) in rows))

    def close(self) -> None:
        self.database.close()

    async def _write(self, work: Callable[[Connection], Result]) -> Result:
        def locked(connection: Connection) -> Result:
            if connection.dialect.name == "sqlite":  # it has no locks on rows
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            return work(connection)

        return await self.database.awrite(locked)


def _put(connection: Connection, id: Column[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write rows, in place of those that have the same ids."""
    sorted_rows = sorted(rows, key=lambda row: str(row[id.name]))
    _delete(connection, id, [row[id.name] for row in sorted_rows])
    _insert(connection, id, sorted_rows)


def _delete(connection: Connection, id: Column[str], ids: Sequence[str]) -> int:
    for page in pages(ids, PAGE):
        connection.execute(delete(id.table).where(id.in_(page)))
    return len(ids)


def _insert(connection: Connection, id: Column[str], rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(id.table), sorted(rows, key=lambda row: str(row[id.name])))


def _rows(found: Iterable[Any]) -> list[Row]:
    rows = []
    for name, value in found:
        try:
            rows.append(Row(read_key(bytes(name)), bytes(value)))
        except ValueError:
            warnings.warn("A row of the history names no sums: %r", bytes(name)[:100])
    return rows


def _decoded(mark: bytes) -> Any:
    """Return a mark as it is stored, or None if it is not JSON."""
    try:
        return msgspec.json.decode(mark)
    except msgspec.DecodeError:
        return None
