"""A worker's lease on a SQLite broker: receive, settle, renew, sweep.

A token is `lease:receipt:line:rank:seq`, the last two in hexadecimal; all messages received in one step have the same
receipt. Neither a lease's number nor one of its receipts is ever used twice: a token is valid while the row of `active`
has both. Numbers are random, because those that are counted would begin at 1 again in a file that replaces this one. A
receipt below 0 marks a message that was taken over from a dead worker and must never be run again.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from celeriac.brokers.dead_workers import tell_returned
from celeriac.brokers.sqlite.lines import Lines
from celeriac.brokers.sqlite.rows import insert, line_up, queue_of, wake_due, write
from celeriac.brokers.sqlite.unreadable import bury_damaged, decode_or_bury
from celeriac.drivers.sqlite import outcomes, workflows
from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.opening import Connection
from celeriac.drivers.sqlite.schema import ACTIVE, KEPT, READY
from celeriac.errors import LeaseLost
from celeriac.model.clock import Clock, Steps
from celeriac.model.gate import Unreadable
from celeriac.model.message import Message
from celeriac.ports.broker import Action, Claim, Delivery, Lease, Settlement, Slots
from celeriac.ports.operations import worker_of
from celeriac.ports.workflows import Advance, NodeEnd

__all__ = ["RELEASE", "SETTLE", "SQLiteLease", "enter", "held_of"]

BROADCAST_SECONDS = 60.0  # how long broadcasts are kept
MANY_FRESH = 1_000  # fresh messages; of more, only so many are read to find out whether one can be received
PRUNE_ROWS = 5_000  # outcomes deleted in one transaction: others wait for the write lock meanwhile

SOME_FRESH = "SELECT line FROM fresh LIMIT ?"
COUNT = "CAST(deliveries AS INTEGER)"  # SQLite stores any type in any column, and a damaged file may have any
SELECT = f"SELECT rank, seq, {COUNT}, message FROM ready WHERE line = ? ORDER BY rank, seq LIMIT ?"  # noqa: S608 - a constant
_KEY = "line = ? AND rank = ? AND seq = ?"
_UP_TO = "line = ? AND (rank, seq) <= (?, ?)"
# OR IGNORE: a second message with the id of one that is there already is dropped. Celeriac stores none; an enemy can.
TAKE = f"""
    INSERT OR IGNORE INTO active (line, rank, seq, name, deliveries, message, lease, receipt)
    SELECT line, rank, seq, name, deliveries + 1, message, ?, ? FROM ready WHERE {_UP_TO}
"""  # noqa: S608 - constants
TAKE_AWAY = f"DELETE FROM ready WHERE {_UP_TO}"  # noqa: S608
ENTER = "INSERT INTO leases (lease, info, renewed_at, expires_at) VALUES (?, ?, ?, ?)"
SETTLE = "DELETE FROM active WHERE line = ? AND rank = ? AND seq = ? AND lease = ? AND receipt = ?"
HELD = f"SELECT {COUNT}, message FROM active WHERE {_KEY} AND lease = ? AND receipt = ?"  # noqa: S608
TOKEN = re.compile(r"[0-9]{1,19}:[0-9]{1,19}:[0-9]{1,19}:[0-9a-f]{1,16}:[0-9a-f]{1,16}")
BURY = f"""
    INSERT OR IGNORE INTO dead ({KEPT}, died_at, reason) SELECT {KEPT}, ?, ? FROM active
    WHERE line = ? AND rank = ? AND seq = ? AND lease = ? AND receipt = ?
"""  # noqa: S608
RELEASE = f"INSERT OR IGNORE INTO ready ({KEPT}) SELECT line, rank, seq, name, deliveries - ?, message FROM active"  # noqa: S608
EXPIRED = "(expires_at < ? OR expires_at >= '')"  # text, which sorts after numbers, is damaged

Held = tuple[int, int, int, int, int]
"""Line, rank, seq, lease and receipt of a token."""

Returned = tuple[bytes, list[Message]]
"""The info of a dead worker, and its messages that returned to their queues."""


class SQLiteLease(Lease):
    """A lease, identified by its number in the table `leases`."""

    def __init__(self, database: Database, clock: Clock, number: int, seconds: float, max_deliveries: int,
                 result_expires: float | None, steps: Steps | None = None) -> None:  # fmt: skip
        self._database = database
        self._clock = clock
        self.name = str(number)
        self._number = number
        self._seconds = seconds
        self._max_deliveries = max_deliveries
        self._result_expires = result_expires
        self._receipts = 0
        self._lines = Lines()
        self._steps = Steps(clock) if steps is None else steps

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
                due_in = 0.05  # another worker has taken the messages
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return []
            await watch.changed(generation, min(left, due_in))

    def _due_in(self, connection: Connection, queues: Sequence[str], slots: Slots) -> float:
        """Return after how many seconds there may be a message to take; 0 for now. Only reads."""
        some = connection.execute(SOME_FRESH, (MANY_FRESH,)).fetchall()
        if len(some) == MANY_FRESH:
            return 0.0  # there may be one for this lease behind them
        if self._lines.of(queues).any_ready(connection, slots, {line for (line,) in some}):
            return 0.0
        (soonest,) = connection.execute("SELECT min(due_at) FROM scheduled").fetchone()
        # Text sorts after numbers: if this is none, there is none.
        return max(0.0, soonest - self._clock.now()) if isinstance(soonest, int | float) else float("inf")

    def _take(self, connection: Connection, queues: Sequence[str], slots: Slots) -> list[Delivery]:
        """Take messages, after what is due and what is fresh was moved to its line: of many, a part."""
        wake_due(connection, self._clock.now())
        line_up(connection)
        return self._take_ready(connection, queues, slots)

    def _take_ready(self, connection: Connection, queues: Sequence[str], slots: Slots) -> list[Delivery]:
        self._check(connection)
        free = dict(slots)
        deliveries: list[Delivery] = []
        self._receipts += 1
        decode = connection.codec.decode
        # Reading takes no turn: else, with two queues, one of them would always be served first.
        for line, lane in self._lines.of(queues).in_turn(connection, slots, self._receipts):
            rows = self._fitting(connection.execute(SELECT, (line, free[lane])).fetchall()) if free[lane] > 0 else []
            if not rows:
                if not any(free.values()):
                    break
                continue
            token, queue = f"{self._number}:{self._receipts}:{line}", queue_of(connection, line)
            try:
                made = [
                    Delivery(decode(message, queue), "%s:%x:%x" % (token, rank, seq), count + 1)  # noqa: UP031 - it is faster
                    for rank, seq, count, message in rows
                ]
            except (Unreadable, TypeError):
                if not all(type(rank) is type(seq) is int for rank, seq, *_ in rows):
                    bury_damaged(connection, READY, "line = ?", (line,), self._clock.now())
                    continue  # the next request takes the others
                made = None
            free[lane] -= len(rows)
            up_to = (line, *rows[-1][:2])
            connection.execute(TAKE, (self._number, self._receipts, *up_to))
            connection.execute(TAKE_AWAY, up_to)
            deliveries += self._readable(connection, rows, line, token) if made is None else made
        return self._with_revoked(connection, deliveries)

    def _fitting(self, rows: list[Any]) -> list[Any]:
        """Return the first of these rows, whose fourth column is the message, that can be given together."""
        return rows

    def _readable(self, connection: Connection, rows: Sequence[Any], line: int, token: str) -> list[Delivery]:
        """Return the deliveries of those messages that can be read; the others become dead letters."""
        now = self._clock.now()
        read = ((row, decode_or_bury(connection, row[3], (line, row[0], row[1]), now)) for row in rows)
        return [Delivery(message, f"{token}:{rank:x}:{seq:x}", count + 1)
                for (rank, seq, count, _), message in read if message is not None]  # fmt: skip

    def _with_revoked(self, connection: sqlite3.Connection, deliveries: list[Delivery]) -> list[Delivery]:
        """Return the deliveries, with `revoked` set on those of revoked messages."""
        if not deliveries or connection.execute("SELECT 1 FROM revoked LIMIT 1").fetchone() is None:
            return deliveries
        ids = msgspec.json.encode([delivery.message.id for delivery in deliveries]).decode()
        revoked = {
            id
            for (id,) in connection.execute(
                "SELECT id FROM revoked WHERE id IN (SELECT value FROM json_each(?)) AND until > ?",
                (ids, self._clock.now()),
            )
        }
        return [
            msgspec.structs.replace(delivery, revoked=True) if delivery.message.id in revoked else delivery
            for delivery in deliveries
        ]

    # --- Settle ---------------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return await self._database.awrite(lambda connection: self._settle(connection, settlements))

    def _settle(self, connection: Connection, settlements: Sequence[Settlement]) -> list[bool]:
        now = self._clock.now()
        held = [_held(settlement.delivery.token) for settlement in settlements]
        done = self._release(connection, settlements, held, now)
        for settlement, row, ok in zip(settlements, held, done, strict=True):
            if ok and settlement.action is Action.RETURN:
                message = settlement.message or settlement.delivery.message
                write(connection, message, now, age=row[2], deliveries=settlement.deliveries)
        good = [settlement for settlement, ok in zip(settlements, done, strict=True) if ok]
        stored = [item for item in good if item.outcome is not None and not item.ends_node]
        again: set[int] = set()  # settlements of messages that had ended before, with their follow-ups
        if stored:
            again = _not_new(stored, outcomes.store(connection, [item.outcome for item in stored if item.outcome], now))
        if len(stored) < len(good):
            ending = [item for item in good if item.ends_node]
            ends = [NodeEnd(item.outcome, item.leaves_pending) for item in ending if item.outcome is not None]
            again |= _not_new(ending, workflows.conclude(connection, ends, now))
        leading = [item for item in good if item.follow_ups and id(item) not in again]
        follow_ups = [message for item in leading for message in item.follow_ups]
        if follow_ups:
            insert(connection, follow_ups, now)
        return done

    def _release(self, connection: sqlite3.Connection, settlements: Sequence[Settlement], held: Sequence[Held],
                 now: float) -> list[bool]:  # fmt: skip
        """Delete the rows of valid tokens from `active`; return which tokens were valid."""
        for settlement, row in zip(settlements, held, strict=True):
            if settlement.action is Action.BURY:
                connection.execute(BURY, (now, settlement.reason, *row))
        connection.execute("SAVEPOINT settle")
        if connection.executemany(SETTLE, held).rowcount == len(held):
            return [True] * len(held)
        # Some token is stale, and the count of deleted rows does not tell which.
        connection.execute("ROLLBACK TO settle")
        return [connection.execute(SETTLE, row).rowcount == 1 for row in held]

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        def work(connection: Connection) -> list[bool]:
            now = self._clock.now()
            done = [workflows.advance(connection, advance, now) for advance in advances]
            messages = [
                message for advance, new in zip(advances, done, strict=True) if new for message in advance.messages
            ]
            insert(connection, messages, now)
            return done

        return await self._database.awrite(work)

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
        if not self._is_overdue(now):
            return []
        deliveries, returned = await self._database.awrite(lambda connection: self._sweep(connection, now))
        for info, messages in returned:
            tell_returned(worker_of(info, self._database.codec).name, messages, len(messages))
        return deliveries

    def _is_overdue(self, now: float) -> bool:
        """Return whether there is anything to sweep. Only reads.

        When the clock was set forward, nothing is: all leases may seem to have expired, until their workers renew them.
        """
        if self._steps.within(self._seconds):
            return False
        return self._database.read(lambda connection: self._overdue(connection, now))

    def _overdue(self, connection: sqlite3.Connection, now: float) -> bool:
        horizon = None if self._result_expires is None else now - self._result_expires
        if self._result_expires is not None and workflows.overdue(connection, now, self._result_expires):
            return True
        return any(
            connection.execute(query, (bound,)).fetchone() is not None
            for query, bound in (
                (f"SELECT 1 FROM leases WHERE {EXPIRED}", now),  # noqa: S608 - a constant
                ("SELECT 1 FROM outcomes WHERE stored_at < ? LIMIT 1", horizon),
                ("SELECT 1 FROM (SELECT sent_at FROM broadcasts ORDER BY seq LIMIT 1) WHERE sent_at < ?",
                 now - 2 * BROADCAST_SECONDS),
                ("SELECT 1 FROM revoked WHERE until < ? LIMIT 1", now - BROADCAST_SECONDS),
            )
        )

    def _sweep(self, connection: Connection, now: float) -> tuple[list[Delivery], list[Returned]]:
        """Return what this worker takes over to settle, and what returned to the queues."""
        self._check(connection)
        deliveries: list[Delivery] = []
        returned: list[Returned] = []
        expired = f"SELECT lease, CAST(info AS BLOB) FROM leases WHERE {EXPIRED}"  # noqa: S608 - a constant
        for lease, info in connection.execute(expired, (now,)).fetchall():
            if lease != self._number:
                taken_over, messages = self._inherit(connection, lease, now)
                deliveries += taken_over
                returned.append((info, messages))
                connection.execute("DELETE FROM leases WHERE lease = ?", (lease,))
        connection.execute("DELETE FROM broadcasts WHERE sent_at < ?", (now - BROADCAST_SECONDS,))
        connection.execute("DELETE FROM revoked WHERE until < ?", (now,))
        if self._result_expires is not None:
            connection.execute(
                "DELETE FROM outcomes WHERE id IN "
                "(SELECT id FROM outcomes WHERE stored_at < ? ORDER BY stored_at LIMIT ?)",
                (now - self._result_expires, PRUNE_ROWS),
            )
            workflows.prune(connection, now, self._result_expires)
        return deliveries, returned

    def _inherit(self, connection: Connection, lease: int, now: float) -> tuple[list[Delivery], list[Message]]:
        """Return the messages of a dead worker to their lines, but for those that this worker takes over to settle.

        The latter are the first list that is returned, the former the second.
        """
        deliveries: list[Delivery] = []
        returned: list[Message] = []
        bury_damaged(connection, ACTIVE, "lease = ?", (lease,), now)
        rows = connection.execute(
            f"SELECT line, rank, seq, {COUNT}, message FROM active WHERE lease = ?", (lease,)  # noqa: S608 - constants
        ).fetchall()
        for line, rank, seq, count, raw in rows:
            here = (line, rank, seq)
            message = decode_or_bury(connection, raw, here, now)
            if message is None:
                continue
            if message.acks_late and count < self._max_deliveries:
                connection.execute(f"{RELEASE} WHERE {_KEY}", (0, *here))
                connection.execute(f"DELETE FROM active WHERE {_KEY}", here)  # noqa: S608
                returned.append(message)
            else:
                self._receipts += 1
                mine = (self._number, -self._receipts)
                connection.execute(f"UPDATE active SET lease = ?, receipt = ? WHERE {_KEY}", (*mine, *here))  # noqa: S608
                token = f"{self._number}:{-self._receipts}:{line}:{rank:x}:{seq:x}"
                deliveries.append(Delivery(message, token, count, lost=True))
        return deliveries, returned

    async def end(self) -> None:
        def work(connection: sqlite3.Connection) -> None:
            mine = "WHERE lease = ? AND receipt > 0"
            connection.execute(f"{RELEASE} {mine}", (1, self._number))
            connection.execute(f"DELETE FROM active {mine}", (self._number,))  # noqa: S608
            # The next sweep takes over again the messages that were taken over and not settled.
            if connection.execute("SELECT 1 FROM active WHERE lease = ?", (self._number,)).fetchone() is None:
                connection.execute("DELETE FROM leases WHERE lease = ?", (self._number,))
            else:
                connection.execute("UPDATE leases SET expires_at = 0 WHERE lease = ?", (self._number,))

        await self._database.awrite(work)

    # --- For other processes ---------------------------------------------------------------------------

    async def held(self, claims: Sequence[Claim]) -> dict[str, Delivery]:
        return self._database.read(lambda connection: self._deliveries(connection, claims))

    def _deliveries(self, connection: Connection, claims: Sequence[Claim]) -> dict[str, Delivery]:
        found: dict[str, Delivery] = {}
        for claim in claims:
            key = held_of(claim.token)
            row = connection.execute(HELD, key).fetchone() if key is not None and key[3] == self._number else None
            if key is None or row is None or queue_of(connection, key[0]) != claim.queue:
                continue
            with contextlib.suppress(Unreadable, TypeError):
                message = connection.codec.decode(row[1], claim.queue)
                if message.id == claim.id:
                    found[claim.token] = Delivery(message, claim.token, row[0])
        return found

    def _check(self, connection: sqlite3.Connection) -> None:
        if connection.execute("SELECT 1 FROM leases WHERE lease = ?", (self._number,)).fetchone() is None:
            raise LeaseLost


def enter(connection: sqlite3.Connection, info: bytes, now: float, seconds: float) -> int:
    """Write a lease for a worker, inside the caller's write transaction; return its number."""
    number = int.from_bytes(os.urandom(7)) | 1
    connection.execute(ENTER, (number, info, now, now + seconds))
    return number


def _not_new(settlements: Sequence[Settlement], new: Sequence[bool]) -> set[int]:
    return {id(settlement) for settlement, first in zip(settlements, new, strict=True) if not first}


def held_of(token: str) -> Held | None:
    """Return what a token says that may be anything; None if this broker has given no such token to a worker."""
    if not TOKEN.fullmatch(token):
        return None
    key = _held(token)
    return key if all(0 <= number < 2**63 for number in key) else None


def _held(token: str) -> Held:
    lease, receipt, line, rank, seq = token.split(":")
    return int(line), int(rank, 16), int(seq, 16), int(lease), int(receipt)
