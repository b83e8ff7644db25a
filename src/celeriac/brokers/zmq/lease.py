"""A worker's lease on the hub: receive, settle, renew, sweep.

Each `receive` has a number, under which the hub delivers: the receipt. A `receive` that is cancelled, or that fails
without an answer, is void: the hub is told at once, and again with the next one, and returns to their queues what it
took. So a receive has either given its messages to its caller, or taken none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from celeriac.brokers.dead_workers import tell_returned
from celeriac.drivers.zmq.frames import portions
from celeriac.drivers.zmq.server import Server
from celeriac.drivers.zmq.verbs import Advanced, Given, Settled
from celeriac.errors import LeaseLost
from celeriac.model.clock import Clock
from celeriac.model.gate import Unreadable
from celeriac.ports.broker import Action, Claim, Delivery, Lease, Settlement, Slots
from celeriac.ports.operations import unreadable, worker_of
from celeriac.ports.workflows import Advance

__all__ = ["HubLease"]

log = logging.getLogger("celeriac.zmq")

SETTLE_BATCH: Final = 1000
OVERDUE_SECONDS: Final = 60.0  # in one request: the hub holds it


class HubLease(Lease):
    """A lease, identified by its number in the hub's file."""

    def __init__(self, server: Server, clock: Clock, number: int, seconds: float, max_deliveries: int,
                 result_expires: float | None) -> None:  # fmt: skip
        self._server = server
        self._clock = clock
        self.name = str(number)
        self._number = number
        self._seconds = seconds
        self._max_deliveries = max_deliveries
        self._result_expires = result_expires
        self._receipts = 0
        self._void: set[int] = set()  # receipts of requests without an answer
        self._recover = False  # a sweep has failed: it may have taken over what nobody was given

    async def receive(self, queues: Sequence[str], slots: Slots, wait: float) -> list[Delivery]:
        deadline = self._clock.monotonic() + wait
        while True:
            left = max(0.0, deadline - self._clock.monotonic())
            given = await self._ask(queues, slots, left)
            deliveries = await self._deliveries(given, self._receipts)
            if deliveries or (not given and left <= 0):
                return deliveries
            if not given and deadline <= self._clock.monotonic():
                return []

    async def _ask(self, queues: Sequence[str], slots: Slots, wait: float) -> list[Given]:
        self._receipts += 1
        receipt, void = self._receipts, list(self._void)
        try:
            given: list[Given] = await self._server.ado(
                "leases.receive", self._number, receipt, void, list(queues), dict(slots), wait, wait=wait
            )
        except LeaseLost:
            raise
        except BaseException:
            self._give_up(receipt)
            raise
        self._void.difference_update(void)
        return given

    def _give_up(self, receipt: int) -> None:
        self._void.add(receipt)
        if not asyncio.get_running_loop().is_closed():
            self._server.post("leases.void", self._number, [receipt])

    async def _deliveries(self, given: Sequence[Given], receipt: int | None) -> list[Delivery]:
        """Return what was received under a receipt, or taken over. What cannot be read becomes a dead letter."""
        try:
            read = self._server.message
            return [Delivery(read(one.data, one.queue), one.token, one.deliveries, one.revoked, one.lost)
                    for one in given]  # fmt: skip
        except Unreadable:
            pass
        good: list[Delivery] = []
        bad: list[tuple[str, str, bytes]] = []
        for one in given:
            try:
                message = self._server.message(one.data, one.queue)
            except Unreadable as error:
                why = f"it cannot be read: {error}"
                letter = unreadable(one.data, one.queue, why).message
                bad.append((one.token, why, self._server.pack(letter)))
                log.error("A message in the queue %s is now the dead letter %s: %s", one.queue, letter.id, why)
            else:
                good.append(Delivery(message, one.token, one.deliveries, one.revoked, one.lost))
        try:
            await self._server.ado("leases.put_aside", self._number, bad)
        except BaseException:
            if receipt is not None:
                self._give_up(receipt)
            raise
        return good

    # --- Settle ---------------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        done: list[bool] = []
        for items in portions([self._settled(item) for item in settlements], _size, SETTLE_BATCH):
            done += await self._server.ado("leases.settle", self._number, items)
        return done

    def _settled(self, item: Settlement) -> Settled:
        pack, outcome = self._server.pack, item.outcome
        value = None if outcome is None else self._server.pack_outcome(outcome)
        if item.action is Action.ACKNOWLEDGE and not item.follow_ups:
            return Settled(item.delivery.token, item.action, value, [], None, item.leaves_pending)
        back = pack(item.message or item.delivery.message) if item.action is Action.RETURN else None
        return Settled(item.delivery.token, item.action, value, list(map(pack, item.follow_ups)), back,
                       item.leaves_pending, item.delay, item.deliveries, item.reason)  # fmt: skip

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        pack, pack_outcome = self._server.pack, self._server.pack_outcome
        items = [Advanced(one.pending, list(map(pack, one.messages)), list(map(pack_outcome, one.outcomes)),
                          list(one.joins)) for one in advances]  # fmt: skip
        done: list[bool] = await self._server.ado("leases.advance", self._number, items)
        return done

    # --- Renew, sweep, end ----------------------------------------------------------------------------

    async def renew(self) -> None:
        await self._server.ado("leases.renew", self._number, self._seconds)

    async def sweep(self) -> list[Delivery]:
        recover, self._recover = self._recover, True
        given, returned = await self._server.ado("leases.sweep", self._number, self._max_deliveries,
                                                 self._result_expires, recover)  # fmt: skip
        for info, found in returned:
            messages = []
            for one in found:
                try:
                    messages.append(self._server.message(one.data, one.queue))
                except Unreadable as error:
                    messages.append(unreadable(one.data, one.queue, str(error), id=one.id).message)
            tell_returned(worker_of(info, self._server.codec).name, messages, len(messages))
        deliveries = await self._deliveries(given, None)
        self._recover = False
        return deliveries

    async def until_sweep(self, pause: float) -> None:
        if self._recover:
            await asyncio.sleep(pause)
            return
        await self._server.ado("leases.overdue", self._number, self._result_expires, OVERDUE_SECONDS,
                               wait=OVERDUE_SECONDS)  # fmt: skip

    async def end(self) -> None:
        await self._server.ado("leases.end", self._number)

    # --- For other processes ---------------------------------------------------------------------------

    async def held(self, claims: Sequence[Claim]) -> dict[str, Delivery]:
        given: list[Given] = await self._server.ado("leases.held", self._number, list(claims))
        found: dict[str, Delivery] = {}
        for one in given:
            try:
                message = self._server.message(one.data, one.queue)
            except Unreadable:
                continue
            found[one.token] = Delivery(message, one.token, one.deliveries, one.revoked, one.lost)
        return found


def _size(item: Settled) -> int:
    """Return about how many bytes a settlement has."""
    size = len(item.outcome or b"") + len(item.message or b"")
    return size + sum(map(len, item.follow_ups)) if item.follow_ups else size
