"""Leases: receive, settle, renew, sweep, by the SQLite broker's own lease.

The number of a `receive`, which its client gives, is the receipt of all that it takes: so if the hub was restarted
before the answer came, the repeated request finds the same rows, and is answered alike.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, cast

from celeriac.brokers.sqlite.lease import RELEASE, SETTLE, SQLiteLease, held_of
from celeriac.brokers.sqlite.rows import queue_of
from celeriac.brokers.sqlite.unreadable import put_aside
from celeriac.drivers.sqlite.opening import Connection
from celeriac.drivers.zmq.frames import FRAME_BYTES
from celeriac.drivers.zmq.parcels import Parcel, parcel_of, parcel_of_outcome
from celeriac.drivers.zmq.verbs import Advanced, Found, Given, Settled
from celeriac.hub.database import HubDatabase, finish
from celeriac.hub.turn import Turn
from celeriac.model.clock import Clock, Steps
from celeriac.model.gate import Unreadable
from celeriac.ports.broker import Claim, Delivery

__all__ = ["HubLease", "Leases", "found_of", "given_of", "published"]

MANY: Final = 1 << 40
KNOWN: Final = 10_000  # leases that are remembered
OF_RECEIPT: Final = "SELECT line, rank, seq, receipt, CAST(deliveries AS INTEGER), message FROM active WHERE lease = ?"
TAKEN_OVER: Final = f"{OF_RECEIPT} AND receipt < 0"
STANDS: Final = "SELECT 1 FROM leases WHERE lease = ?"


class HubLease(SQLiteLease):
    """A lease whose receipts are given by its client. What it takes at once fits into a frame."""

    _most = MANY  # messages to take at once
    _left = 0  # bytes that still fit into the answer

    def set(self, seconds: float | None = None, max_deliveries: int | None = None,
            result_expires: float | None = None) -> None:  # fmt: skip
        """Take what the client says about the lease."""
        self._seconds = self._seconds if seconds is None else seconds
        self._max_deliveries = self._max_deliveries if max_deliveries is None else max_deliveries
        self._result_expires = result_expires

    def may_take(self, queues: Sequence[str], slots: Mapping[str, int]) -> bool:
        """Return whether there may be a message to take. Only reads."""
        return self._database.read(lambda connection: self._due_in(connection, queues, slots)) <= 0

    def take(self, receipt: int, queues: Sequence[str], slots: Mapping[str, int], lined_up: bool) -> list[Delivery]:
        """Take messages under a receipt. `lined_up`: nothing has to be moved to its line before."""
        self._receipts = receipt - 1
        take = self._take_ready if lined_up else self._take
        slots = {lane: min(free, self._most) for lane, free in slots.items()}

        def work(connection: Connection) -> list[Delivery]:
            self._left = FRAME_BYTES
            return take(connection, queues, slots)

        taken = self._database.write(work)
        self._most = MANY if self._left else 2 * len(taken)  # so that large ones are not read in vain
        return taken

    def _fitting(self, rows: list[Any]) -> list[Any]:
        size = sum([len(row[3]) for row in rows])
        if size > self._left:
            sizes = accumulate(len(row[3]) for row in rows)
            fits = next(place for place, size in enumerate(sizes) if size > self._left)
            rows = rows[: max(fits, int(self._left == FRAME_BYTES))]  # one that is larger, alone
            size = self._left
        self._left -= size
        return rows

    def taken(self, receipt: int | None) -> list[Given]:
        """Return what was taken under a receipt before; None: what was taken over from dead workers."""
        query, values = (TAKEN_OVER, ()) if receipt is None else (f"{OF_RECEIPT} AND receipt = ?", (receipt,))

        def work(connection: Connection) -> list[Given]:
            found = []
            for line, rank, seq, of, count, data in connection.execute(query, (self._number, *values)).fetchall():
                token = f"{self.name}:{of}:{line}:{rank:x}:{seq:x}"
                found.append(Given(data, queue_of(connection, line), token, count, False, receipt is None))
            return found

        return self._database.read(work)

    def release(self, receipts: Sequence[int]) -> None:
        """Return to their queues what was taken under some receipts and never arrived: it does not count."""
        values = [(1, self._number, receipt) for receipt in receipts]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(f"{RELEASE} WHERE lease = ? AND receipt = ?", values)
            connection.executemany("DELETE FROM active WHERE lease = ? AND receipt = ?", [row[1:] for row in values])

        self._database.write(work)

    def put_aside(self, letters: Sequence[tuple[str, str, bytes]]) -> None:
        """Replace messages, by their tokens, by dead letters that say why they cannot be read."""

        def work(connection: Connection) -> None:
            for token, why, data in letters:
                key = held_of(token.replace(":-", ":", 1))
                held = None if key is None else (*key[:4], -key[4] if ":-" in token else key[4])
                if held is not None and connection.execute(SETTLE, held).rowcount:
                    put_aside(connection, cast(Any, parcel_of(data)), why, self._clock.now())

        self._database.write(work)

    def is_overdue(self) -> bool:
        """Return whether there is anything to sweep. Only reads."""
        return self._is_overdue(self._clock.now())

    def sweep_now(self) -> tuple[list[Delivery], list[tuple[bytes, list[Any]]]]:
        """Return what this lease takes over, and what returned to the queues, by the infos of dead workers."""
        now = self._clock.now()
        if not self._is_overdue(now):
            return [], []
        self._receipts = time.time_ns() // 1000  # above those of earlier sweeps; below 0 they are no client's
        return self._database.write(lambda connection: self._sweep(connection, now))


class Leases:
    """The verbs `leases.*`, but for waiting (`polls.py`)."""

    def __init__(self, turn: Turn, database: HubDatabase, clock: Clock) -> None:
        self._turn = turn
        self._database = database
        self._clock = clock
        self._known: dict[int, HubLease] = {}
        self._steps = Steps(clock)

    def of(self, number: int) -> HubLease:
        """Return a lease, whether it stands or not."""
        lease = self._known.get(number)
        if lease is None:
            if len(self._known) >= KNOWN:
                self._known.clear()
            lease = self._known[number] = HubLease(self._database, self._clock, number, 60.0, 3, None, self._steps)
        return lease

    def void(self, lease: int, receipts: list[int]) -> None:
        """Return what was taken under receipts whose client does not wait any more."""
        if receipts:
            self.of(lease).release(receipts)
            self._turn.look_everywhere()

    def settle(self, lease: int, items: list[Settled]) -> list[bool]:
        """Carry out settlements. One that is repeated after a restart was carried out if its token is stale."""
        now = self._clock.now()
        for item in items:
            if item.outcome is not None:
                item.outcome = parcel_of_outcome(item.outcome)
            if item.follow_ups:
                item.follow_ups = published(item.follow_ups, now)
            if item.message is not None:
                item.message = parcel_of(item.message)
                if item.delay is not None:
                    item.message.due_at = now + item.delay
        held = self.of(lease)
        done = finish(held.settle(cast(Any, items)))
        if self._turn.repeated and not all(done) and self._stands(lease):
            return [True] * len(done)
        return done

    def _stands(self, lease: int) -> bool:
        found = self._database.read(lambda connection: connection.execute(STANDS, (lease,)).fetchone())
        return found is not None

    def put_aside(self, lease: int, letters: list[tuple[str, str, bytes]]) -> None:
        """Make dead letters of messages that their client cannot read."""
        self.of(lease).put_aside(letters)

    def advance(self, lease: int, items: list[Advanced]) -> list[bool]:
        """Advance workflows, and publish their messages."""
        now = self._clock.now()
        for item in items:
            item.messages = published(item.messages, now)
            item.outcomes = [parcel_of_outcome(data) for data in item.outcomes]
        return finish(self.of(lease).advance(cast(Any, items)))

    def renew(self, lease: int, seconds: float) -> None:
        """Renew a lease. Raises `LeaseLost`."""
        held = self.of(lease)
        held.set(seconds=seconds)
        finish(held.renew())

    def sweep(self, lease: int, max_deliveries: int, result_expires: float | None,
              recover: bool) -> tuple[list[Given], list[tuple[bytes, list[Found]]]]:  # fmt: skip
        """Sweep; to `recover`, return also what earlier sweeps took over whose answers were lost."""
        held = self.of(lease)
        held.set(max_deliveries=max_deliveries, result_expires=result_expires)
        deliveries, returned = held.sweep_now()
        self._turn.look_everywhere()
        given = [given_of(one) for one in deliveries]
        if recover or self._turn.repeated:
            tokens = {one.token for one in given}
            given += [one for one in held.taken(None) if one.token not in tokens]
        return given, [(info, [found_of(message) for message in messages]) for info, messages in returned]

    def is_overdue(self, lease: int, result_expires: float | None) -> bool:
        """Return whether there is anything to sweep."""
        held = self.of(lease)
        held.set(result_expires=result_expires)
        return held.is_overdue()

    def end(self, lease: int) -> None:
        """End a lease."""
        finish(self.of(lease).end())
        self._known.pop(lease, None)
        self._turn.look_everywhere()

    def held(self, lease: int, claims: list[Claim]) -> list[Given]:
        """Return the deliveries of those claims that are true."""
        return [given_of(one) for one in finish(self.of(lease).held(claims)).values()]


def given_of(delivery: Delivery) -> Given:
    """Return a delivery as it is sent."""
    parcel = cast(Parcel, delivery.message)
    return Given(parcel.data, parcel.queue, delivery.token, delivery.deliveries, delivery.revoked, delivery.lost)


def found_of(message: Any, **fields: Any) -> Found:
    """Return a message as front ends get it; one without a head is its bytes."""
    data = message.data if isinstance(message, Parcel) else message.body
    return Found(message.id, message.queue, data, **fields)


def published(values: Sequence[bytes], now: float) -> list[Any]:
    """Return messages that are published; countdowns begin, by the clock of the hub."""
    parcels = []
    for value in values:
        try:
            parcel = parcel_of(value)
        except Unreadable as error:
            raise ValueError(f"a message cannot be read: {error}") from None
        if parcel.countdown is not None and parcel.due_at is not None:
            parcel.due_at = now + parcel.countdown
        parcels.append(parcel)
    return parcels
