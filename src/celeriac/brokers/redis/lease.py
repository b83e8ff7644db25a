"""A worker's lease on a Redis broker: receive, settle, renew, sweep.

A token is `lease:receipt:deliveries`; Redis holds `receipt:deliveries` under the lease and the message's id, and what
differs is stale. Neither leases nor the receipts of one are used twice. A receipt below 0 marks what was taken over.

A request whose answer does not come (a lost connection, a cancelled wait) may have been carried out, or may be yet: its
receipts are in doubt. `recover` gives back what was handed out for them, and puts up a fence that refuses such a
request if it comes later; so a receive has either given its messages to its caller, or taken none.

Who has taken all that there was, and has slots left, waits: Redis will ring for it. That is so from the moment of the
receipt, so that the next `receive` need not ask again until it is rung for. If there is none, the lease leaves.

A server that comes back may be some moments younger than it was: a replica that was promoted before it had everything,
or one whose last writes were not on disk. What had been settled in those moments is held again, and nobody would ever
settle it. So after each new connection the lease compares what it holds there with what it has handed out here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from celeriac.backends.base import Advance
from celeriac.brokers.base import Action, Delivery, Lease, Settlement, Slots
from celeriac.brokers.redis.blobs import LANE_LETTERS, blob, decode, due
from celeriac.clock import Clock
from celeriac.drivers.redis import outcomes
from celeriac.drivers.redis.server import Server
from celeriac.errors import BrokerError, LeaseLost

__all__ = ["RedisLease"]

LOOK_SECONDS = 5.0  # who waits looks again after this, whether he was rung for or not
SETTLE_BATCH = 1000
SWEEP_BATCH = 1000
RECOVER_PAUSE = 0.5  # seconds
REST_SECONDS = 0.05  # within which the next receive begins, or the lease waits no more


class RedisLease(Lease):
    """A lease, by its name."""

    def __init__(self, server: Server, clock: Clock, name: str, seconds: float, expires: bytes, max_deliveries: int,
                 result_expires: float | None) -> None:  # fmt: skip
        self._server = server
        self._clock = clock
        self._name = name
        self._seconds = seconds
        self._expires = expires  # by the server's clock, as it said last
        self._max_deliveries = max_deliveries
        self._kept = outcomes.milliseconds(result_expires)
        self._receipts = 0
        self._turn = 0
        self._doubts: set[tuple[int, int]] = set()  # receipts after the first, up to the second
        self._sweep_doubts: list[int] = []
        self._unsure: set[str] = set()  # tokens of settlements whose answer was lost
        self._in_hand: set[str] = set()  # tokens of what was handed out and is not settled
        self._asking: set[int] = set()  # receipts after which requests that are on their way hand out more
        self._compared = server.connections()  # how many there had been when the two sides were compared
        self._recovering: asyncio.Task[None] | None = None
        self._rung = asyncio.Event()
        self._hears: asyncio.AbstractEventLoop | None = None
        self._waiting: tuple[set[str], set[str]] | None = None  # queues and lanes for which Redis may ring for us
        self._looked = 0.0  # when we asked last; monotonic
        self._due_at = 0.0  # when a message will be due that was there then
        self._rest: asyncio.TimerHandle | None = None

    # --- Receive --------------------------------------------------------------------------------------

    async def receive(self, queues: Sequence[str], slots: Slots, wait: float) -> list[Delivery]:
        deadline = self._clock.monotonic() + wait
        lanes = {LANE_LETTERS[lane]: free for lane, free in slots.items() if free > 0}
        if not lanes or not queues:
            await asyncio.sleep(wait)
            return []
        if self._doubts:
            await self._recover()
        if self._rest is not None:
            self._rest.cancel()
        if wait > 0:
            await self._listen()
        if self._waiting is not None and self._waiting != (set(queues), set(lanes)):
            self._leave()
        try:
            while True:
                if wait <= 0 or self._may_be_more():
                    self._rung.clear()
                    taken = await self._take(self._turned(queues), lanes, wait > 0)
                    if taken:
                        self._rest = asyncio.get_running_loop().call_later(REST_SECONDS, self._leave)
                        return taken
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    self._leave()
                    return []
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, max(0.0, self._due_at - self._clock.now()), LOOK_SECONDS)):
                        await self._rung.wait()
        except BaseException:
            self._leave()
            raise

    def _may_be_more(self) -> bool:
        """Say whether there may be something to receive; else we wait, and will be rung for."""
        return (
            self._waiting is None
            or self._rung.is_set()
            or self._clock.now() >= self._due_at
            or self._clock.monotonic() - self._looked >= LOOK_SECONDS
        )

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

    async def _take(self, queues: Sequence[str], lanes: dict[str, int], waits: bool) -> list[Delivery]:
        """Return what there is."""
        base = self._receipts
        last = self._receipts = base + sum(lanes.values())
        slots = [part for lane in lanes.items() for part in lane]
        flags = int(self._waiting is not None) + (2 if waits else 0)
        self._looked = self._clock.monotonic()
        if waits:  # before it is known what there was, we may be rung for
            self._waiting = (set(queues), set(lanes))
        command = self._server.script("receive", self._server.moment(self._clock), self._name, base, flags, len(lanes),
                                      *slots, *queues)  # fmt: skip
        self._asking.add(base)
        try:
            reply = await self._server.ado(command, again=False)
        except BaseException:
            self._doubts.add((base, last))
            self._recover_soon()
            raise
        finally:
            self._asking.remove(base)
        if reply == 0:
            raise LeaseLost
        blobs, exceptions, due_in = reply
        self._due_at = self._clock.now() + float(due_in) if due_in else float("inf")
        taken = [
            Delivery(decode(value), f"{self._name}:{receipt}:1") for receipt, value in enumerate(blobs, start=base + 1)
        ]
        for i in range(0, len(exceptions), 3):
            index, deliveries, revoked = exceptions[i : i + 3]
            token = f"{self._name}:{base + 1 + index}:{deliveries}"
            taken[index] = replace(taken[index], token=token, deliveries=deliveries, revoked=bool(revoked))
        self._in_hand.update([delivery.token for delivery in taken])
        filled = Counter([LANE_LETTERS[delivery.message.lane] for delivery in taken])
        left = {lane for lane, free in lanes.items() if free > filled[lane]} if waits else set()
        self._waiting = (set(queues), left) if left else None
        return taken

    def _leave(self) -> None:
        """Ask to be rung for no more; what we were rung for, another is. Sent in order with our other requests."""
        if self._waiting is not None:
            queues, lanes = self._waiting
            self._waiting = None
            self._server.post(self._server.script("leave", self._name, len(lanes), *lanes, *queues))

    # --- Doubts ---------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        doubts = set(self._doubts)
        if doubts:
            ranges = itertools.chain.from_iterable(doubts)
            await self._server.ado(self._server.script("recover", self._name, self._receipts, *ranges))
            self._doubts -= doubts

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
            try:
                done += await self._settle(settlements[start : start + SETTLE_BATCH])
            except BaseException:
                self._unsure.update(settlement.delivery.token for settlement in settlements[:start])
                raise
        return done

    async def _settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        tokens = [settlement.delivery.token for settlement in settlements]
        try:
            if await self._acknowledge(settlements):
                done = [True] * len(tokens)
            else:
                done = await self._settle_each(settlements)
        except BaseException:
            self._unsure.update(tokens)
            raise
        if self._unsure:
            done = await self._less_doubt(tokens, done)
        self._in_hand.difference_update(tokens)
        return done

    async def _acknowledge(self, settlements: Sequence[Settlement]) -> bool:
        """Settle in the shortest way, if they all allow it and their tokens are good; else do nothing."""
        queue, mine = settlements[0].delivery.message.queue, len(self._name) + 1
        ids, proofs, values, places = [], [], [], []
        for settlement in settlements:
            delivery, outcome = settlement.delivery, settlement.outcome
            message = delivery.message
            if settlement.action is not Action.ACKNOWLEDGE or settlement.follow_ups or message.queue != queue:
                return False
            if outcome is None:
                values.append(b"")
                places.append("")
            elif outcome.place is None:
                values.append(outcomes.addressed(outcome))
                places.append("")
            elif settlement.due:
                return False
            else:
                values.append(outcomes.addressed(outcome))
                places.append(outcomes.place(outcome.place))
            ids.append(message.id)
            proofs.append(delivery.token[mine:] if delivery.token.startswith(self._name) else "")
        if len(set(ids)) < len(ids):
            return False
        command = self._server.script("acknowledge", self._server.moment(self._clock), self._name, self._kept, queue,
                                      len(ids), *ids, *proofs, *values, *(places if any(places) else ()))  # fmt: skip
        return bool(await self._server.ado(command, again=False))

    async def _settle_each(self, settlements: Sequence[Settlement]) -> list[bool]:
        parts: list[Any] = []
        for settlement in settlements:
            parts += self._item(settlement)
        ending = [(number, item) for number, item in enumerate(settlements, start=1) if item.ends_node]
        parts.append(len(ending))
        for number, item in ending:
            if item.outcome is not None:
                parts += (number, *outcomes.end_parts(item.outcome, item.due)[3:])
        for number, settlement in enumerate(settlements, start=1):
            for message in settlement.follow_ups:
                parts += (number, message.queue, message.id, blob(message), due(message))
        command = self._server.script("settle", self._server.moment(self._clock), self._name, self._kept,
                                      len(settlements), *parts)  # fmt: skip
        if any(settlement.follow_ups for settlement in settlements):
            self._rung.set()  # who waits asks right behind this request, and need not hear the bell first
        return [bool(good) for good in await self._server.ado(command, again=False)]

    async def _less_doubt(self, tokens: Sequence[str], done: list[bool]) -> list[bool]:
        """Return what was settled, some of it by requests of ours whose answer was lost."""
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

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        now, commands = self._server.moment(self._clock), []
        for item in advances:
            parts = outcomes.advance_parts(item)
            for message in item.messages:
                parts += (message.queue, message.id, blob(message), due(message))
            commands.append(self._server.script("advance", now, self._kept, *parts))
        return [bool(done) for done in await self._server.ado_all(commands)] if commands else []

    # --- Renew, sweep, end ----------------------------------------------------------------------------

    async def renew(self) -> None:
        command = self._server.script("renew", self._server.moment(self._clock), self._name, repr(self._seconds))
        expires = await self._server.ado(command)
        if expires == 0:
            raise LeaseLost
        self._expires = expires
        if self._compared != self._server.connections():
            await self._compare()

    async def _compare(self) -> None:
        """Have what the server says we hold, and we do not, run by somebody; see the top of this file."""
        connections = self._server.connections()
        last = min(self._asking, default=self._receipts)
        proofs = [token.partition(":")[2] for token in self._in_hand]
        taken = await self._server.ado(self._server.script("compare", self._name, last, *proofs))
        if taken == 0:
            raise LeaseLost
        for receipt in taken:
            self._sweep_doubts += (receipt - 1, receipt)
        self._compared = connections

    async def sweep(self) -> list[Delivery]:
        taken: list[Delivery] = []
        more = True
        while more:
            base, doubts = self._receipts, list(self._sweep_doubts)
            self._receipts += SWEEP_BATCH
            self._asking.add(base)
            command = self._server.script("sweep", self._server.moment(self._clock), self._name, base,
                                          self._max_deliveries, SWEEP_BATCH, self._expires, *doubts)  # fmt: skip
            try:
                reply = await self._server.ado(command, again=False)
            except BaseException:
                self._sweep_doubts += (base, base + SWEEP_BATCH)
                raise
            finally:
                self._asking.remove(base)
            if reply == 0:
                raise LeaseLost
            del self._sweep_doubts[: len(doubts)]
            more = bool(reply[0])
            for i in range(1, len(reply), 3):
                value, receipt, deliveries = reply[i : i + 3]
                token = f"{self._name}:-{receipt}:{deliveries}"
                taken.append(Delivery(decode(value), token, deliveries, lost=True))
                self._in_hand.add(token)
        return taken

    async def end(self) -> None:
        if self._recovering is not None:
            self._recovering.cancel()
        if self._rest is not None:
            self._rest.cancel()
        if self._hears is asyncio.get_running_loop():
            self._server.unhear(f"{self._server.prefix}:bell:{self._name}", self._ring)
            self._hears = None
        await self._server.ado(self._server.script("end", self._name))
