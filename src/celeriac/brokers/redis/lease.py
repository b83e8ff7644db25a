"""A worker's lease on a Redis broker: receive, settle, renew, sweep.

A token is `lease:receipt:deliveries`; Redis holds `receipt:deliveries` under the lease and the message's id, and what
differs is stale. Neither leases nor the receipts of one are used twice. A receipt below 0 marks what was taken over.

A request whose answer does not come (a lost connection, a cancelled wait) may have been carried out, or may be yet: its
receipts are in doubt. `recover` gives back what was handed out for them, and puts up a fence that refuses such a
request if it comes later; so a receive has either given its messages to its caller, or taken none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from celeriac.brokers.base import Action, Delivery, Lease, Settlement, Slots
from celeriac.brokers.redis.blobs import LANE_LETTERS, blob, decode, due
from celeriac.clock import Clock
from celeriac.drivers.redis import outcomes
from celeriac.drivers.redis.server import Server
from celeriac.errors import BrokerError, LeaseLost

__all__ = ["RedisLease"]

LOOK_SECONDS = 5.0  # who waits looks again after this, whether he was rung for or not
SETTLE_BATCH = 500
SWEEP_BATCH = 1000
RECOVER_PAUSE = 0.5  # seconds


class RedisLease(Lease):
    """A lease, by its name."""

    def __init__(self, server: Server, clock: Clock, name: str, seconds: float, max_deliveries: int,
                 result_expires: float | None) -> None:  # fmt: skip
        self._server = server
        self._clock = clock
        self._name = name
        self._seconds = seconds
        self._max_deliveries = max_deliveries
        self._kept = outcomes.milliseconds(result_expires)
        self._receipts = 0
        self._turn = 0
        self._doubts: list[int] = []  # pairs: receipts after the first, up to the second
        self._sweep_doubts: list[int] = []
        self._unsure: set[str] = set()  # tokens of settlements whose answer was lost
        self._recovering: asyncio.Task[None] | None = None
        self._rung = asyncio.Event()
        self._hears: asyncio.AbstractEventLoop | None = None
        self._waits = False  # Redis may ring for us

    # --- Receive --------------------------------------------------------------------------------------

    async def receive(self, queues: Sequence[str], slots: Slots, wait: float) -> list[Delivery]:
        deadline = self._clock.monotonic() + wait
        lanes = {LANE_LETTERS[lane]: free for lane, free in slots.items() if free > 0}
        if not lanes or not queues:
            await asyncio.sleep(wait)
            return []
        if self._doubts:
            await self._recover()
        if wait > 0:
            await self._listen()
        while True:
            self._rung.clear()
            taken, due_in = await self._take(self._turned(queues), lanes, wait > 0)
            left = deadline - self._clock.monotonic()
            if taken or left <= 0:
                if self._waits:
                    self._leave(queues, lanes)
                return taken
            try:
                async with asyncio.timeout(min(left, max(0.0, due_in), LOOK_SECONDS)):
                    await self._rung.wait()
            except TimeoutError:
                pass
            except BaseException:
                self._leave(queues, lanes)
                raise

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        if self._hears is not loop:
            await self._server.hear(f"{self._server.prefix}:bell:{self._name}", self._ring)
            self._hears = loop

    def _ring(self, payload: bytes | None) -> None:
        self._rung.set()

    def _turned(self, queues: Sequence[str]) -> list[str]:
        """Return the queues, starting with another each time."""
        self._turn = (self._turn + 1) % len(queues)
        return [*queues[self._turn :], *queues[: self._turn]]

    async def _take(self, queues: Sequence[str], lanes: dict[str, int], waits: bool) -> tuple[list[Delivery], float]:
        """Return what there is; and in how many seconds there may be more."""
        base = self._receipts
        self._receipts += sum(lanes.values())
        slots = [part for lane in lanes.items() for part in lane]
        # Before it is known whether there was something, we may be rung for.
        flags = int(self._waits) + (2 if waits else 0)
        self._waits = self._waits or waits
        command = self._server.script("receive", self._server.moment(self._clock), self._name, base, flags, len(lanes),
                                      *slots, *queues)  # fmt: skip
        try:
            reply = await self._server.ado(command, again=False)
        except BaseException:
            self._doubts += (base, self._receipts)
            self._recover_soon()
            raise
        if reply == 0:
            raise LeaseLost
        blobs, exceptions, due_in = reply
        self._waits = waits and not blobs
        taken = [
            Delivery(decode(value), f"{self._name}:{receipt}:1") for receipt, value in enumerate(blobs, start=base + 1)
        ]
        for i in range(0, len(exceptions), 3):
            index, deliveries, revoked = exceptions[i : i + 3]
            token = f"{self._name}:{base + 1 + index}:{deliveries}"
            taken[index] = replace(taken[index], token=token, deliveries=deliveries, revoked=bool(revoked))
        return taken, float(due_in) if due_in else float("inf")

    def _leave(self, queues: Sequence[str], lanes: dict[str, int]) -> None:
        """Ask to be rung for no more; what we were rung for, another is. Sent in order with our other requests."""
        self._waits = False
        self._server.post(self._server.script("leave", self._name, len(lanes), *lanes, *queues))

    # --- Doubts ---------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        doubts = list(self._doubts)
        if doubts:
            await self._server.ado(self._server.script("recover", self._name, self._receipts, *doubts))
            del self._doubts[: len(doubts)]

    def _recover_soon(self) -> None:
        if self._recovering is None or self._recovering.done():
            with contextlib.suppress(RuntimeError):  # the loop is closing
                self._recovering = asyncio.ensure_future(self._keep_recovering())

    async def _keep_recovering(self) -> None:
        while self._doubts:
            try:
                await self._recover()
            except BrokerError:
                await asyncio.sleep(RECOVER_PAUSE)

    # --- Settle ---------------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        done: list[bool] = []
        for start in range(0, len(settlements), SETTLE_BATCH):
            done += await self._settle(settlements[start : start + SETTLE_BATCH])
        return done

    async def _settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        parts: list[Any] = []
        for settlement in settlements:
            parts += self._item(settlement)
        for number, settlement in enumerate(settlements, start=1):
            for message in settlement.follow_ups:
                parts += (number, message.queue, message.id, blob(message), due(message))
        command = self._server.script("settle", self._server.moment(self._clock), self._name, self._kept,
                                      len(settlements), *parts)  # fmt: skip
        tokens = [settlement.delivery.token for settlement in settlements]
        try:
            reply = await self._server.ado(command, again=False)
        except BaseException:
            self._unsure.update(tokens)
            raise
        done = [bool(good) for good in reply]
        if self._unsure:
            mine = [token in self._unsure for token in tokens]
            if any(was_sent and not good for was_sent, good in zip(mine, done, strict=True)):
                # Stale by what we ourselves had sent, whose answer was lost; or by a sweep, which ends the lease.
                with contextlib.suppress(LeaseLost):
                    await self.renew()
                    done = [was_sent or good for was_sent, good in zip(mine, done, strict=True)]
            self._unsure.difference_update(tokens)
        return done

    def _item(self, settlement: Settlement) -> tuple[Any, ...]:
        delivery, outcome, action = settlement.delivery, settlement.outcome, settlement.action
        message = delivery.message
        lease, _, proof = delivery.token.partition(":")
        if lease != self._name:
            proof = ""
        if outcome is None:
            value, channel = b"", 0
        else:
            value, channel = outcomes.encode(outcome), outcomes.channel_of(outcome.id)
        item = (message.queue, message.id, proof, action.value, value, channel)
        if action is Action.ACKNOWLEDGE:
            return item
        if action is Action.BURY:
            return (*item, settlement.reason)
        back = settlement.message or message
        return (*item, back.queue, blob(back), due(back), settlement.deliveries)

    # --- Renew, sweep, end ----------------------------------------------------------------------------

    async def renew(self) -> None:
        command = self._server.script("renew", self._server.moment(self._clock), self._name, repr(self._seconds))
        if not await self._server.ado(command):
            raise LeaseLost

    async def sweep(self) -> list[Delivery]:
        taken: list[Delivery] = []
        more = True
        while more:
            base, doubts = self._receipts, list(self._sweep_doubts)
            self._receipts += SWEEP_BATCH
            command = self._server.script("sweep", self._server.moment(self._clock), self._name, base,
                                          self._max_deliveries, SWEEP_BATCH, *doubts)  # fmt: skip
            try:
                reply = await self._server.ado(command, again=False)
            except BaseException:
                self._sweep_doubts += (base, self._receipts)
                raise
            if reply == 0:
                raise LeaseLost
            del self._sweep_doubts[: len(doubts)]
            more = bool(reply[0])
            for i in range(1, len(reply), 3):
                value, receipt, deliveries = reply[i : i + 3]
                token = f"{self._name}:-{receipt}:{deliveries}"
                taken.append(Delivery(decode(value), token, deliveries, lost=True))
        return taken

    async def end(self) -> None:
        if self._recovering is not None:
            self._recovering.cancel()
        if self._hears is asyncio.get_running_loop():
            self._server.unhear(f"{self._server.prefix}:bell:{self._name}", self._ring)
            self._hears = None
        await self._server.ado(self._server.script("end", self._name))
