"""The history in SQLite, in tables that are made when a worker first writes to them.

    history_sums        what was counted: a row for each `Key`; `lease` is empty once it is folded
    history_workers     how far the sums of each worker are final, and folded
    history_attempts    failures, and samples of successes (`sample` = 1)
    history_signatures  failure signatures, and what operators said of them
    history_events      workers' lives, operators' actions
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from celeriac.drivers.sqlite.claims import SQLiteClaimStore
from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.opening import Connection
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
from celeriac.ports.claims import ClaimStore
from celeriac.ports.history import MOST_COUNTED, History, Limits, Position, samples_meant
from celeriac.ports.history_sums import Change, Row, WorkerState

__all__ = ["SQLiteHistory", "write_rows", "write_sums", "write_sums_of"]

Result = TypeVar("Result")

TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS history_sums (
        step INTEGER NOT NULL, at INTEGER NOT NULL, lease TEXT NOT NULL, task TEXT NOT NULL, queue TEXT NOT NULL,
        state TEXT NOT NULL, error TEXT NOT NULL, signature TEXT NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (step, at, lease, task, queue, state, error, signature)
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS history_unfolded ON history_sums (lease) WHERE lease <> ''",
    """CREATE TABLE IF NOT EXISTS history_workers (
        lease TEXT PRIMARY KEY, complete INTEGER NOT NULL, folded INTEGER NOT NULL, seen_at REAL NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS history_attempts (
        at REAL NOT NULL, id TEXT NOT NULL, attempt INTEGER NOT NULL, sample INTEGER NOT NULL, task TEXT NOT NULL,
        signature TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (at, id, attempt)
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS history_ids ON history_attempts (id)",
    "CREATE INDEX IF NOT EXISTS history_kinds ON history_attempts (sample, at)",
    "CREATE INDEX IF NOT EXISTS history_tasks ON history_attempts (task, at)",
    "CREATE INDEX IF NOT EXISTS history_failures ON history_attempts (signature, at) WHERE signature <> ''",
    """CREATE TABLE IF NOT EXISTS history_signatures (
        signature TEXT PRIMARY KEY, last REAL NOT NULL, value BLOB NOT NULL, status TEXT NOT NULL DEFAULT 'open',
        marked_at REAL NOT NULL DEFAULT 0, marked_by TEXT NOT NULL DEFAULT ''
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS history_events (
        name TEXT PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, value BLOB NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS history_times ON history_events (at)",
)

KEY: Final = " AND ".join(f"{name} = ?" for name in Key._fields)
COLUMNS: Final = "step, at, lease, task, queue, state, error, signature, CAST(value AS BLOB)"
PUT: Final = "INSERT OR REPLACE INTO history_sums VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
PRUNED: Final = 1000  # rows that are deleted at a time


class SQLiteHistory(History):
    """The history in a database file."""

    reads_block = True

    def __init__(self, database: Database) -> None:
        self.database = database
        self.codec = database.codec

    async def record(self, batch: Batch, now: float) -> None:
        sums = [(key, self.seal_sums(key, value)) for key, value in batch.sums.items()]
        attempts = [
            (one.done_at, one.id, one.attempt, samples_only(one), one.task, one.signature, self.seal(one))
            for one in batch.attempts
        ]
        events = [(f"{batch.lease}:{event.at!r}:{event.kind}:{event.id}", event.at, event.kind, event.id,
                   self.seal(event)) for event in batch.events]  # fmt: skip

        def work(connection: Connection) -> None:
            write_sums_of(connection, batch.lease, batch.complete, sums, now)
            write_rows(connection, attempts, events, [self._merged(connection, one) for one in batch.signatures])

        await self._write(work)

    def _merged(self, connection: Connection, one: FailureSignature) -> tuple[str, float, bytes]:
        query = "SELECT CAST(value AS BLOB) FROM history_signatures WHERE signature = ?"
        for (value,) in connection.execute(query, (one.signature,)).fetchall():
            before = self.signature_of(value)
            one = one if before is None else before.merged(one)
        return one.signature, one.last, self.seal(one)

    def claims(self) -> ClaimStore:
        return SQLiteClaimStore(self.database)

    async def prune(self, limits: Limits, now: float) -> int:
        def work(connection: Connection) -> int:
            count = 0
            for sample, seconds in ((1, limits.samples), (0, limits.failures)):
                horizon = now - seconds
                query = "SELECT at FROM history_attempts WHERE sample = ? ORDER BY at DESC LIMIT 1 OFFSET ?"
                for (at,) in connection.execute(query, (sample, limits.attempts - 1)).fetchall():
                    horizon = max(horizon, at)
                count += connection.execute(
                    "DELETE FROM history_attempts WHERE (at, id, attempt) IN (SELECT at, id, attempt "
                    "FROM history_attempts WHERE sample = ? AND at < ? ORDER BY at LIMIT ?)",
                    (sample, horizon, PRUNED),
                ).rowcount
            for statement, bound in (
                ("DELETE FROM history_events WHERE name IN (SELECT name FROM history_events WHERE at < ? LIMIT ?)",
                 now - limits.events),
                ("DELETE FROM history_signatures WHERE signature IN "
                 "(SELECT signature FROM history_signatures WHERE last < ? LIMIT ?)", now - limits.signatures),
                ("DELETE FROM history_workers WHERE lease IN (SELECT lease FROM history_workers WHERE seen_at < ? "
                 "AND lease NOT IN (SELECT lease FROM history_sums WHERE lease <> '') LIMIT ?)", now - 86_400.0),
            ):  # fmt: skip
                count += connection.execute(statement, (bound, PRUNED)).rowcount
            return count

        return await self._write(work)

    # --- Rows of sums ---------------------------------------------------------------------------------

    async def rows(self, step: int, since: int, until: int, limit: int | None = None) -> list[Row]:
        query = (f"SELECT {COLUMNS} FROM history_sums WHERE step = ? AND at >= ? AND at < ? AND lease = '' "  # noqa: S608
                 "ORDER BY at LIMIT ?")  # fmt: skip
        return _rows(self._read(query, (step, since, until, -1 if limit is None else limit)))

    async def unfolded(self) -> list[Row]:
        return _rows(self._read(f"SELECT {COLUMNS} FROM history_sums WHERE lease <> ''", ()))  # noqa: S608

    async def get(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        query = f"SELECT CAST(value AS BLOB) FROM history_sums WHERE {KEY}"  # noqa: S608
        return {key: value for key in keys for (value,) in self._read(query, key)}

    async def swap(self, changes: Sequence[Change], folded: Mapping[str, int]) -> bool:
        def work(connection: Connection) -> bool:
            for key, before in [(change.key, change.before) for change in changes]:
                query = f"SELECT CAST(value AS BLOB) FROM history_sums WHERE {KEY}"  # noqa: S608
                row = connection.execute(query, key).fetchone()
                if (row[0] if row is not None else None) != before:
                    return False
            connection.executemany(f"DELETE FROM history_sums WHERE {KEY}",  # noqa: S608
                                   [change.key for change in changes if change.after is None])  # fmt: skip
            connection.executemany(PUT, [(*change.key, change.after) for change in changes if change.after is not None])
            connection.executemany("UPDATE history_workers SET folded = max(folded, ?) WHERE lease = ?",
                                   [(at, lease) for lease, at in folded.items()])  # fmt: skip
            return True

        return await self._write(work)

    async def workers(self) -> dict[str, WorkerState]:
        query = "SELECT lease, complete, folded, seen_at FROM history_workers"
        return {lease: WorkerState(*numbers) for lease, *numbers in self._read(query, ())}

    # --- Front ends -----------------------------------------------------------------------------------

    async def attempts(self, filter: Filter, before: Position | None, limit: int) -> list[tuple[Position, bytes]]:
        conditions, given = ["1"], list[Any]()

        def add(condition: str, *values: Any) -> None:
            conditions.append(condition)
            given.extend(values)

        if before is not None:
            add("(at, id, attempt) < (?, ?, ?)", *before)
        if filter.since is not None:
            add("at >= ?", filter.since)
        if filter.until is not None:
            add("at < ?", filter.until)
        # One condition, which an index finds: with a second one, SQLite would read on until enough rows meet both, and
        # a single query could look at all there are.
        exact = bool(filter.tasks) and not any("*" in name for name in filter.tasks)
        if filter.ids:
            add(_among("id", filter.ids), *filter.ids)
        elif filter.signatures:
            add(f"{_among('signature', filter.signatures)} AND signature <> ''", *filter.signatures)
        elif exact:
            add(_among("task", filter.tasks), *filter.tasks)
        elif (sample := samples_meant(filter)) is not None:
            add("sample = ?", sample)
        where = " AND ".join(conditions)
        query = (f"SELECT at, id, attempt, CAST(value AS BLOB) FROM history_attempts WHERE {where} "  # noqa: S608
                 "ORDER BY at DESC, id DESC, attempt DESC LIMIT ?")  # fmt: skip
        return [(Position(*key), value) for *key, value in self._read(query, (*given, limit))]

    async def count_attempts(self) -> int:
        query = "SELECT count(*) FROM (SELECT 1 FROM history_attempts LIMIT ?)"
        return sum(count for (count,) in self._read(query, (MOST_COUNTED,)))

    async def attempts_of_task(self, id: str) -> list[bytes]:
        query = "SELECT CAST(value AS BLOB) FROM history_attempts WHERE id = ?"
        return [value for (value,) in self._read(query, (id,))]

    async def known_signatures(self, signatures: Sequence[str] | None = None) -> list[FailureSignature]:
        where = "1" if signatures is None else _among("signature", signatures)
        return self._signatures(where, *(signatures or ()))

    async def latest_signatures(self, since: float) -> list[FailureSignature]:
        return self._signatures("last >= ?", since)

    def _signature_rows(self, where: str, *given: Any) -> list[tuple[bytes, str, float, str]]:
        query = (f"SELECT CAST(value AS BLOB), status, marked_at, marked_by FROM history_signatures WHERE {where} "  # noqa: S608
                 "ORDER BY last DESC")  # fmt: skip
        return self._read(query, given)

    def _signatures(self, where: str, *given: Any) -> list[FailureSignature]:
        found = []
        for value, *mark in self._signature_rows(where, *given):
            one = self.signature_of(value)
            if one is not None:
                found.append(self.marked(one, mark))
        return found

    async def mark(self, signature: str, status: Status, by: str, now: float) -> bool:
        statement = "UPDATE history_signatures SET status = ?, marked_at = ?, marked_by = ? WHERE signature = ?"
        return await self._write(
            lambda connection: connection.execute(statement, (status, now, by, signature)).rowcount == 1
        )

    async def audit(self, event: Event) -> None:
        row = (new_id(), event.at, event.kind, event.id, self.seal(event))
        await self._write(lambda connection: write_rows(connection, events=[row]))

    async def events(self, kinds: Sequence[str] = (), since: float = 0.0, limit: int = 100,
                     id: str | None = None) -> list[Event]:  # fmt: skip
        return list(self.events_of(self._event_values(kinds, since, limit, id)))

    def _event_values(self, kinds: Sequence[str], since: float, limit: int, id: str | None) -> list[bytes]:
        where, given = "at >= ?", list[Any]([since])
        if kinds:
            where, given = f"{where} AND {_among('kind', kinds)}", [*given, *kinds]
        if id is not None:
            where, given = f"{where} AND id = ?", [*given, id]
        query = f"SELECT CAST(value AS BLOB) FROM history_events WHERE {where} ORDER BY at DESC LIMIT ?"  # noqa: S608
        return [value for (value,) in self._read(query, (*given, limit))]

    def close(self) -> None:
        self.database.close()

    async def _write(self, work: Callable[[Connection], Result]) -> Result:
        def prepared(connection: Connection) -> Result:
            _make_tables(connection)
            return work(connection)

        result = await self.database.awrite(prepared, quiet=True)
        self.database.connection().has_history = True
        return result

    def _read(self, query: str, given: Sequence[Any]) -> list[Any]:
        def work(connection: Connection) -> list[Any]:
            if not connection.has_history:
                found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'history_events'").fetchone()
                if found is None:
                    return []
                connection.has_history = True
            return connection.execute(query, tuple(given)).fetchall()

        return self.database.read(work)


def _make_tables(connection: Connection) -> None:
    """Make the tables, in the caller's write transaction, if they are not there."""
    if not connection.has_history:
        for statement in TABLES:
            connection.execute(statement)


def write_sums(connection: Connection, lease: str, complete: int, sums: Iterable[tuple[Key, bytes]],
               now: float) -> None:  # fmt: skip
    """Write a worker's sums in the caller's write transaction, if the tables are there."""
    if connection.has_history:
        write_sums_of(connection, lease, complete, sums, now)


def write_sums_of(connection: Connection, lease: str, complete: int, sums: Iterable[tuple[Key, bytes]],
                  now: float) -> None:  # fmt: skip
    """Write a worker's sums in the caller's write transaction; those of slots that were folded are left out."""
    row = connection.execute("SELECT folded FROM history_workers WHERE lease = ?", (lease,)).fetchone()
    folded = row[0] if row is not None else 0
    connection.execute(
        "INSERT INTO history_workers VALUES (?, ?, 0, ?) ON CONFLICT (lease) DO UPDATE SET "
        "complete = max(complete, excluded.complete), seen_at = excluded.seen_at",
        (lease, complete, now),
    )
    connection.executemany(PUT, [(*key, value) for key, value in sums if key.at > folded])


def write_rows(connection: Connection, attempts: Iterable[tuple[Any, ...]] = (), events: Iterable[tuple[Any, ...]] = (),
               signatures: Iterable[tuple[Any, ...]] = ()) -> None:  # fmt: skip
    """Write attempts, events and signatures (their columns; sealed values), in the caller's write transaction."""
    connection.executemany("INSERT OR IGNORE INTO history_attempts VALUES (?, ?, ?, ?, ?, ?, ?)", attempts)
    connection.executemany("INSERT OR IGNORE INTO history_events VALUES (?, ?, ?, ?, ?)", events)
    connection.executemany(
        "INSERT INTO history_signatures (signature, last, value) VALUES (?, ?, ?) "
        "ON CONFLICT (signature) DO UPDATE SET last = excluded.last, value = excluded.value",
        signatures,
    )


def _among(column: str, values: Sequence[str]) -> str:
    return f"{column} IN ({', '.join('?' * len(values))})"


def _rows(found: Iterable[Any]) -> list[Row]:
    return [Row(Key(*key), value) for *key, value in found]
