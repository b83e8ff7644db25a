"""The SQLite broker: publishing, revoking, broadcasting. For receiving and settling, see `lease.py`."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial

import msgspec

from celeriac.brokers.sqlite.lease import SQLiteLease, enter, held_of
from celeriac.brokers.sqlite.lines import learn
from celeriac.brokers.sqlite.operations import SQLiteOperations
from celeriac.brokers.sqlite.rows import find, insert, insert_one, new_row, wake
from celeriac.drivers.sqlite import workflows
from celeriac.drivers.sqlite.address import path_of
from celeriac.drivers.sqlite.database import Database, database
from celeriac.drivers.sqlite.opening import Connection
from celeriac.drivers.sqlite.schedules import SQLiteScheduleStore
from celeriac.drivers.sqlite.schema import SCHEDULED
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.message import Message, published_again
from celeriac.ports.backend import Backend
from celeriac.ports.broker import MISSED, Broker, Lease
from celeriac.ports.complete import sleep
from celeriac.ports.operations import Operations, WorkerInfo
from celeriac.ports.schedules import Change, ScheduleKeeper, ScheduleStore

__all__ = ["SQLiteBroker", "connect", "send_scheduled", "sent_after"]

LISTEN_PAUSES = (0.0005, 0.1)
"""The first and the longest time from a commit to the read (seconds). It doubles while commits bring nothing, so that a
busy database does not wake listeners at every commit."""

LISTEN_QUIET = 0.5
"""After so many seconds without a commit, the first pause again. Commits come in clusters, so that less would be no
quiet: each cluster would be looked at many times."""

LISTEN_WAIT = 60.0  # seconds


class SQLiteBroker(Broker, ScheduleKeeper):
    """A broker that stores messages in a SQLite file."""

    lacks = frozenset()
    reads_block = True

    def __init__(self, database: Database, clock: Clock, result_expires: float | None = 86400.0) -> None:
        self.database = database
        self.clock = clock
        self.codec = database.codec
        self.result_expires = result_expires

    def publish(self, messages: Sequence[Message]) -> None:
        now = self.clock.now()
        if len(messages) == 1 and self.database.callers_transaction is None:
            session = self.database.session()
            line = session.connection.lines.get((messages[0].queue, messages[0].lane))
            if line is not None:
                row = new_row(messages[0], line, now, self.codec)
                if row is not None and session.insert(insert_one(row), row):
                    return
        self.database.write(lambda connection: insert(connection, messages, now))
        self._learn()

    async def apublish(self, messages: Sequence[Message], again: bool = False) -> None:
        now = self.clock.now()
        if again:
            messages = published_again(messages)
        await self.database.awrite(lambda connection: insert(connection, messages, now))
        self._learn()

    def _learn(self) -> None:
        if self.database.callers_transaction is None and self.database.connection().news:
            self.database.read(learn)

    async def lease(self, worker: WorkerInfo, seconds: float, max_deliveries: int) -> Lease:
        now = self.clock.now()
        info = self.codec.seal("worker", msgspec.json.encode(worker))
        number = await self.database.awrite(lambda connection: enter(connection, info, now, seconds))
        return SQLiteLease(self.database, self.clock, number, seconds, max_deliveries, self.result_expires)

    def adopt(self, token: str, seconds: float) -> Lease | None:
        key = held_of(token)
        return None if key is None else SQLiteLease(self.database, self.clock, key[3], seconds, 0, self.result_expires)

    def joins(self, backend: Backend) -> bool:
        return getattr(backend, "database", None) is self.database

    async def revoke(self, ids: Sequence[str], until: float) -> None:
        def mark(connection: Connection) -> None:
            connection.executemany(
                "INSERT INTO revoked (id, until) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET until = excluded.until",
                [(id, until) for id in ids],
            )
            for id in ids:
                found = find(connection, id)
                if found is not None and found.state == SCHEDULED:
                    wake(connection, found)

        await self.database.awrite(mark)

    async def broadcast(self, channel: str, payloads: Sequence[bytes]) -> None:
        now = self.clock.now()
        rows = [(channel, now, payload) for payload in payloads]
        await self.database.awrite(
            lambda connection: connection.executemany(
                "INSERT INTO broadcasts (channel, sent_at, payload) VALUES (?, ?, ?)", rows
            )
        )

    async def listen(self, channel: str) -> AsyncIterator[bytes]:
        rows = self.database.read(
            lambda connection: connection.execute(
                "SELECT CAST(seq AS INTEGER) FROM sqlite_sequence WHERE name = 'broadcasts'"
            ).fetchall()
        )
        return self._listen(channel, rows[0][0] if rows else 0)

    async def _listen(self, channel: str, seen: int) -> AsyncIterator[bytes]:
        watch = self.database.watch()
        moves = watch.moves
        pause, longest = LISTEN_PAUSES
        while True:
            generation = watch.generation
            last, payloads = self.database.read(partial(sent_after, seen, channel))
            if watch.moves != moves:
                moves, seen = watch.moves, 0  # the file was replaced; its broadcasts are numbered from the start
                yield MISSED
                continue
            seen = max(seen, last)
            for payload in payloads:
                yield payload
            if payloads:
                pause = LISTEN_PAUSES[0]
            else:
                begun = time.monotonic()
                await watch.changed(generation, LISTEN_WAIT)
                pause = LISTEN_PAUSES[0] if time.monotonic() > begun + LISTEN_QUIET else pause
                await sleep(pause)
                pause = min(longest, pause * 2)

    def schedules(self) -> ScheduleStore:
        return SQLiteScheduleStore(self.database, self.clock, send_scheduled)

    def operations(self) -> Operations:
        return SQLiteOperations(self.database, self.clock)

    def close(self) -> None:
        self.database.close()

    def __repr__(self) -> str:
        return f"<SQLiteBroker {os.path.relpath(self.database.path)}>"


def send_scheduled(connection: Connection, changes: Sequence[Change], now: float) -> None:
    """Publish what changes of schedules send, inside the caller's write transaction."""
    for change in changes:
        for plan in change.plans:
            workflows.plant(connection, plan, now)
    messages = [message for change in changes for message in change.messages]
    if messages:
        insert(connection, messages, now)


def sent_after(seen: int, channel: str, connection: sqlite3.Connection) -> tuple[int, list[bytes]]:
    """Return the number of the last broadcast, and the payloads that were sent on a channel since an earlier one."""
    ((last,),) = connection.execute("SELECT ifnull(max(seq), 0) FROM broadcasts")
    query = "SELECT payload FROM broadcasts WHERE seq > ? AND seq <= ? AND channel = ? ORDER BY seq"
    return last, [payload for (payload,) in connection.execute(query, (seen, last, channel))]


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            synchronous: str = "normal") -> SQLiteBroker:  # fmt: skip
    """Return the broker of a `sqlite:///` URL."""
    return SQLiteBroker(database(path_of(url), synchronous, timeout, codec), clock, result_expires)
