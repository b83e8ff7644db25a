"""A worker's lease on a SQLite broker: receive, settle, renew, sweep.

A token is `lease:receipt:seq`. A lease's number is never used twice, nor is a receipt by its lease; a row that still
has both is proof that the token is good. A receipt below 0 marks what was taken over, and must never be run again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec

from celeriac.brokers.base import Action, Delivery, Lease, Settlement, Slots, WorkerInfo, decode, encode
from celeriac.brokers.sqlite.rows import Lines, insert
from celeriac.clock import Clock
from celeriac.drivers.sqlite import outcomes
from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.schema import ACTIVE, DEAD, READY, SCHEDULED, WAKE
from celeriac.errors import LeaseLost
from celeriac.message import HIGHEST_PRIORITY

__all__ = ["SQLiteLease"]

BROADCAST_SECONDS = 60.0  # how long broadcasts are kept
PRUNE_ROWS = 5_000  # outcomes thrown away at a time, so that nobody waits long for the write lock

SELECT = f"""
    SELECT seq, deliveries, message FROM messages WHERE line = ? AND state = {READY} ORDER BY rank, seq LIMIT ?
"""  # noqa: S608 - all parts are constants
TAKE = f"UPDATE messages SET state = {ACTIVE}, lease = ?, receipt = ?, deliveries = ? WHERE seq = ?"  # noqa: S608
HELD = f"lease = ? AND receipt = ? AND seq = ? AND state = {ACTIVE}"
ACKNOWLEDGE = f"DELETE FROM messages WHERE {HELD}"  # noqa: S608 - all parts are constants
RETURN = f"""
    UPDATE messages SET state = ?, due_at = ?, lease = NULL, deliveries = ?, line = ?, rank = ?, message = ?
    WHERE {HELD}
"""  # noqa: S608
BURY = f"UPDATE messages SET state = {DEAD}, due_at = ?, lease = NULL, reason = ? WHERE {HELD}"  # noqa: S608


class SQLiteLease(Lease):
    """A lease, by its number in the table `leases`."""

    def __init__(self, database: Database, clock: Clock, lines: Lines, number: int, worker: WorkerInfo, seconds: float,
                 max_deliveries: int, result_expires: float | None) -> None:  # fmt: skip
        self._database = database
        self._clock = clock
        self._lines = lines
        self._number = number
        self._worker = worker
        self._seconds = seconds
        self._max_deliveries = max_deliveries
        self._result_expires = result_expires
        self._turn = 0
        self._receipts = 0

    # --- Receive --------------------------------------------------------------------------------------

    async def receive(self, queues: Sequence[str], slots: Slots, wait: float) -> list[Delivery]:
        deadline = self._clock.monotonic() + wait
        watch = self._database.watch()
        while True:
            generation = watch.generation
            due_in = self._database.read(lambda connection: self._due_in(connection, queues, slots))
            if due_in <= 0:
                deliveries = await self._database.awrite(lambda connection: self._take(connection, queues, slots))
                if deliveries:
                    return deliveries
                due_in = 0.05  # another worker was faster
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return []
            await watch.changed(generation, min(left, due_in))

    def _due_in(self, connection: sqlite3.Connection, queues: Sequence[str], slots: Slots) -> float:
        """Return after how many seconds there may be something to take; 0 for now. Only reads."""
        for line, _ in self._open_lines(connection, queues, slots):
            if connection.execute(SELECT, (line, 1)).fetchone() is not None:
                return 0.0
        (soonest,) = connection.execute(f"SELECT min(due_at) FROM messages WHERE state = {SCHEDULED}").fetchone()  # noqa: S608
        return float("inf") if soonest is None else max(0.0, soonest - self._clock.now())

    def _open_lines(self, connection: sqlite3.Connection, queues: Sequence[str],
                    slots: Slots) -> Iterator[tuple[int, str]]:  # fmt: skip
        """Yield lines of queues that are not paused, and their lanes, starting with another queue each time."""
        paused = {queue for (queue,) in connection.execute("SELECT queue FROM pauses")}
        self._turn += 1
        turn = self._turn % len(queues)
        for queue in chain(queues[turn:], queues[:turn]):
            for lane, free in slots.items():
                if not free or queue in paused:
                    continue
                line = self._lines.of(queue, lane)
                if line is None:
                    self._lines.refresh(connection)
                    line = self._lines.of(queue, lane)
                if line is not None:
                    yield line, lane

    def _take(self, connection: sqlite3.Connection, queues: Sequence[str], slots: Slots) -> list[Delivery]:
        self._prove(connection)
        connection.execute(WAKE, (self._clock.now(),))
        free = dict(slots)
        taken: list[Delivery] = []
        updates: list[tuple[int, int, int, int]] = []
        for line, lane in list(self._open_lines(connection, queues, slots)):
            if free[lane] <= 0:
                continue
            for seq, deliveries, message in connection.execute(SELECT, (line, free[lane])).fetchall():
                deliveries += 1
                free[lane] -= 1
                self._receipts += 1
                updates.append((self._number, self._receipts, deliveries, seq))
                taken.append(Delivery(decode(message), f"{self._number}:{self._receipts}:{seq}", deliveries))
        connection.executemany(TAKE, updates)
        return self._marked(connection, taken)

    def _marked(self, connection: sqlite3.Connection, taken: list[Delivery]) -> list[Delivery]:
        """Return the deliveries, with `revoked` set where it holds."""
        if not taken or connection.execute("SELECT 1 FROM revoked LIMIT 1").fetchone() is None:
            return taken
        ids = msgspec.json.encode([delivery.message.id for delivery in taken]).decode()
        revoked = {
            id
            for (id,) in connection.execute(
                "SELECT id FROM revoked WHERE id IN (SELECT value FROM json_each(?)) AND until > ?",
                (ids, self._clock.now()),
            )
        }
        return [
            msgspec.structs.replace(delivery, revoked=True) if delivery.message.id in revoked else delivery
            for delivery in taken
        ]

    # --- Settle ---------------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return await self._database.awrite(lambda connection: self._settle(connection, settlements))

    def _settle(self, connection: sqlite3.Connection, settlements: Sequence[Settlement]) -> list[bool]:
        now = self._clock.now()
        done = [self._act(connection, settlement, now) for settlement in settlements]
        good = [settlement for settlement, held in zip(settlements, done, strict=True) if held]
        kept = [settlement.outcome for settlement in good if settlement.outcome is not None]
        if kept:
            outcomes.store(connection, kept, now)
        follow_ups = [message for settlement in good for message in settlement.follow_ups]
        if follow_ups:
            insert(connection, self._lines, follow_ups, now)
        return done

    def _act(self, connection: sqlite3.Connection, settlement: Settlement, now: float) -> bool:
        delivery = settlement.delivery
        held = tuple(map(int, delivery.token.split(":")))
        if settlement.action is Action.ACKNOWLEDGE:
            return connection.execute(ACKNOWLEDGE, held).rowcount == 1
        if settlement.action is Action.BURY:
            return connection.execute(BURY, (now, settlement.reason, *held)).rowcount == 1
        message = settlement.message or delivery.message
        waits = message.due_at is not None and message.due_at > now
        line = self._lines.number(connection, message.queue, message.lane)
        values = (SCHEDULED if waits else READY, message.due_at if waits else None, settlement.deliveries, line,
                  HIGHEST_PRIORITY - message.priority, encode(message))  # fmt: skip
        return connection.execute(RETURN, (*values, *held)).rowcount == 1

    # --- Renew, sweep, end ----------------------------------------------------------------------------

    async def renew(self) -> None:
        now = self._clock.now()

        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "UPDATE leases SET renewed_at = ?, expires_at = ? WHERE lease = ?",
                (now, now + self._seconds, self._number),
            ).rowcount

        if not await self._database.awrite(work, quiet=True):
            raise LeaseLost

    async def sweep(self) -> list[Delivery]:
        now = self._clock.now()
        overdue = self._database.read(lambda connection: self._overdue(connection, now))
        return await self._database.awrite(lambda connection: self._sweep(connection, now)) if overdue else []

    def _overdue(self, connection: sqlite3.Connection, now: float) -> bool:
        """Say whether there is anything to sweep. Only reads."""
        horizon = None if self._result_expires is None else now - self._result_expires
        return any(
            connection.execute(query, (bound,)).fetchone() is not None
            for query, bound in (
                ("SELECT 1 FROM leases WHERE expires_at < ?", now),
                ("SELECT 1 FROM outcomes WHERE stored_at < ? LIMIT 1", horizon),
                ("SELECT 1 FROM broadcasts WHERE sent_at < ? LIMIT 1", now - 2 * BROADCAST_SECONDS),
                ("SELECT 1 FROM revoked WHERE until < ? LIMIT 1", now - BROADCAST_SECONDS),
            )
        )

    def _sweep(self, connection: sqlite3.Connection, now: float) -> list[Delivery]:
        self._prove(connection)
        taken: list[Delivery] = []
        for (lease,) in connection.execute("SELECT lease FROM leases WHERE expires_at < ?", (now,)).fetchall():
            if lease != self._number:
                taken += self._inherit(connection, lease)
                connection.execute("DELETE FROM leases WHERE lease = ?", (lease,))
        connection.execute("DELETE FROM broadcasts WHERE sent_at < ?", (now - BROADCAST_SECONDS,))
        connection.execute("DELETE FROM revoked WHERE until < ?", (now,))
        if self._result_expires is not None:
            connection.execute(
                "DELETE FROM outcomes WHERE id IN "
                "(SELECT id FROM outcomes WHERE stored_at < ? ORDER BY stored_at LIMIT ?)",
                (now - self._result_expires, PRUNE_ROWS),
            )
        return taken

    def _inherit(self, connection: sqlite3.Connection, lease: int) -> list[Delivery]:
        """Deal with what a dead worker held; return what this worker takes over to settle."""
        taken: list[Delivery] = []
        rows = connection.execute(
            f"SELECT seq, deliveries, message FROM messages WHERE state = {ACTIVE} AND lease = ?",  # noqa: S608
            (lease,),
        ).fetchall()
        for seq, deliveries, raw in rows:
            message = decode(raw)
            if message.acks_late and deliveries < self._max_deliveries:
                connection.execute(f"UPDATE messages SET state = {READY}, lease = NULL WHERE seq = ?", (seq,))  # noqa: S608
            else:
                self._receipts += 1
                token = f"{self._number}:{-self._receipts}:{seq}"
                connection.execute("UPDATE messages SET lease = ?, receipt = ? WHERE seq = ?",
                                   (self._number, -self._receipts, seq))  # fmt: skip
                taken.append(Delivery(message, token, deliveries, lost=True))
        return taken

    async def end(self) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                f"UPDATE messages SET state = {READY}, lease = NULL, deliveries = deliveries - 1 "  # noqa: S608
                f"WHERE state = {ACTIVE} AND lease = ? AND receipt > 0",
                (self._number,),
            )
            # What was taken over and not settled, the next sweep takes over again.
            left = f"SELECT 1 FROM messages WHERE state = {ACTIVE} AND lease = ?"  # noqa: S608
            if connection.execute(left, (self._number,)).fetchone() is None:
                connection.execute("DELETE FROM leases WHERE lease = ?", (self._number,))
            else:
                connection.execute("UPDATE leases SET expires_at = 0 WHERE lease = ?", (self._number,))

        await self._database.awrite(work)

    def _prove(self, connection: sqlite3.Connection) -> None:
        if connection.execute("SELECT 1 FROM leases WHERE lease = ?", (self._number,)).fetchone() is None:
            raise LeaseLost
