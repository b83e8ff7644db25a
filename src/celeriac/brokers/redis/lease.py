"""A worker's lease on a Redis broker: receive, settle, renew, sweep. `books.py` says what becomes of lost answers.

Who has taken all that there was, and has slots left, waits: Redis will ring for it. That is so from the moment of the
receipt, so that the next `receive` need not ask again until it is rung for. If there is none, the lease leaves. While
one waits, a settlement that sends messages takes its request along, and brings back what there is: so a chain goes from
step to step in one round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from celeriac.brokers.redis.envelope import LANE_LETTERS, blob, decode, due
from celeriac.brokers.redis.receipts import Receipts
from celeriac.brokers.redis.requests import Queues, Request
from celeriac.brokers.redis.settlements import alike, each
from celeriac.drivers.redis import outcomes
from celeriac.drivers.redis.server import Server
from celeriac.errors import LeaseLost
from celeriac.model.clock import Clock
from celeriac.ports.broker import Delivery, Lease, Settlement, Slots
from celeriac.ports.workflows import Advance

__all__ = ["RedisLease"]

LOOK_SECONDS = 5.0  # who waits looks again after this, whether he was rung for or not
UNKNOWN_LIST = -1  # what `receive_from_list` replies if the queue list has to be registered
SETTLE_BATCH = 1000
SWEEP_BATCH = 1000
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
        self._books = Receipts(server, clock, name)
        self._queues = Queues(())
        self._turn = 0  # the position of the queue that is served first
        self._sweep_doubts: list[int] = []
        self._unsure: set[str] = set()  # tokens of settlements whose answer was lost
        self._hears: asyncio.AbstractEventLoop | None = None
        self._called = False  # rung for since the last request
        self._stirred = asyncio.Event()  # who waits in `receive` is to look what there is to do
        self._idle: dict[str, int] | None = None  # queues and slots of who waits in `receive`
        self._errand: Request | None = None  # the request that a settlement has taken along for him
        self._brought: tuple[Request, list[Delivery]] | None = None  # and what it has brought
        self._waiting: tuple[Queues, set[str]] | None = None  # queues and lanes for which Redis may ring for us
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
        if self._queues.names != list(queues):
            self._queues = Queues(queues)
        await self._books.recover()
        if self._rest is not None:
            self._rest.cancel()
        if wait > 0:
            await self._listen()
        if self._waiting is not None and self._waiting != (self._queues, set(lanes)):
            self._leave()
        try:
            while True:
                taken: list[Delivery] = []
                if self._brought is not None:
                    (_, taken), self._brought = self._brought, None
                elif self._errand is None and (wait <= 0 or self._may_be_more()):
                    taken = await self._take(self._request(lanes, wait > 0))
                if taken:
                    self._rest = asyncio.get_running_loop().call_later(REST_SECONDS, self._leave)
                    return taken
                left = deadline - self._clock.monotonic()
                if left <= 0 and self._errand is None:
                    self._leave()
                    return []
                await self._rest_until_stirred(lanes, left)
        except BaseException:
            self._give_up()
            raise

    def _may_be_more(self) -> bool:
        """Say whether there may be something to receive; else we wait, and will be rung for."""
        return (
            self._waiting is None
            or self._called
            or self._clock.now() >= self._due_at
            or self._clock.monotonic() - self._looked >= LOOK_SECONDS
        )

    async def _rest_until_stirred(self, lanes: dict[str, int], left: float) -> None:
        """Wait for the bell, for what an errand brings, or for the time to look again."""
        self._stirred.clear()
        if self._errand is not None:
            await self._stirred.wait()
        elif not self._called:
            left = max(0.0, min(left, self._due_at - self._clock.now(), LOOK_SECONDS))
            timer = asyncio.get_running_loop().call_later(left, self._stirred.set)
            self._idle = lanes
            try:
                await self._stirred.wait()
            finally:
                timer.cancel()
                self._idle = None

    def _give_up(self) -> None:
        """Wait no more; what is brought now goes back."""
        self._errand = None
        if self._brought is not None:
            (request, taken), self._brought = self._brought, None
            if taken:
                self._books.in_hand.difference_update([delivery.token for delivery in taken])
                self._books.doubt(request)
        self._leave()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        if self._hears is not loop:
            await self._server.hear(f"{self._server.prefix}:bell:{self._name}", self._ring)
            self._hears = loop

    def _ring(self, payload: bytes | None) -> None:
        self._called = True
        self._stirred.set()

    def _request(self, lanes: dict[str, int], waits: bool) -> Request:
        """Return a new request, which is served from another queue on each time."""
        self._turn = (self._turn + 1) % len(self._queues.names)
        return Request(self._queues, self._turn, lanes, self._waiting is not None, waits)

    async def _take(self, request: Request) -> list[Delivery]:
        """Return what there is."""
        self._sent(request)
        name = "receive_from_list" if request.queues.list else "receive"
        command = self._server.script(name, self._server.moment(self._clock), self._name, *request.arguments)
        try:
            reply = await self._server.ado(command, again=False)
            if reply == UNKNOWN_LIST:
                listing = self._server.script("list_queues", request.queues.list, *request.queues.names)
                _, reply = await self._server.ado_all([listing, command], again=False)
        except BaseException:
            self._books.doubt(request)
            raise
        finally:
            self._books.came(request.base)
        if reply == 0:
            raise LeaseLost
        return self._answered(request, reply)

    def _sent(self, request: Request) -> None:
        """Note that a request is on its way."""
        request.base = self._books.draw(sum(request.lanes.values()))
        self._called = False
        self._looked = self._clock.monotonic()
        if request.waits:  # before it is known what there was, we may be rung for
            self._waiting = (request.queues, set(request.lanes))

    def _answered(self, request: Request, reply: Any) -> list[Delivery]:
        """Return what was handed out for a request."""
        blobs, exceptions, due_in = reply
        self._due_at = self._clock.now() + float(due_in) if due_in else float("inf")
        taken = self._books.handed_out(request, blobs, exceptions)
        self._called = self._called or len(taken) < len(blobs)  # it took slots, which are free again
        filled = [LANE_LETTERS[delivery.message.lane] for delivery in taken]
        left = {lane for lane, free in request.lanes.items() if free > filled.count(lane)} if request.waits else set()
        self._waiting = (request.queues, left) if left else None
        return taken

    def _leave(self) -> None:
        """Ask to be rung for no more; what we were rung for, another is. Sent in order with our other requests."""
        if self._waiting is not None:
            queues, lanes = self._waiting
            self._waiting = None
            self._server.post(self._server.script("leave", self._name, len(lanes), *lanes, *queues.arguments))

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
            shortest = alike(settlements, self._name)
            if shortest is not None and await self._server.ado(
                self._server.script("acknowledge", self._server.moment(self._clock), self._name, self._kept, *shortest),
                again=False,
            ):
                done = [True] * len(tokens)
            else:
                done = await self._settle_each(settlements)
        except BaseException:
            self._unsure.update(tokens)
            raise
        if self._unsure:
            done = await self._less_doubt(tokens, done)
        self._books.in_hand.difference_update(tokens)
        return done

    async def _settle_each(self, settlements: Sequence[Settlement]) -> list[bool]:
        errand: Request | None = None
        if self._idle is not None and any(settlement.follow_ups for settlement in settlements):
            errand = self._errand = self._request(self._idle, waits=True)
            self._idle = None
            self._sent(errand)
        asked = errand.arguments if errand is not None else ()
        command = self._server.script("settle", self._server.moment(self._clock), self._name, self._kept,
                                      len(asked), *asked, *each(settlements, self._name))  # fmt: skip
        try:
            done, *handed_out = await self._server.ado(command, again=False)
        except BaseException:
            if errand is not None:
                self._came_back(errand, None)
                self._books.doubt(errand)
            raise
        if errand is not None:
            self._came_back(errand, handed_out[0] if handed_out else None)
        return [bool(good) for good in done]

    def _came_back(self, errand: Request, reply: Any) -> None:
        """Take what a request was answered that a settlement took along, to who waits for it; None: it was not."""
        self._books.came(errand.base)
        if self._errand is errand:
            self._errand = None
            if reply is None:
                self._called = True  # let him ask himself
            else:
                self._brought = (errand, self._answered(errand, reply))
            self._stirred.set()
        elif reply is not None and reply[0]:  # he waits no more, and has no slots for them
            self._books.doubt(errand)

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
        for receipt in await self._books.compare():
            self._sweep_doubts += (receipt - 1, receipt)

    async def sweep(self) -> list[Delivery]:
        taken: list[Delivery] = []
        more = True
        while more:
            base, doubts = self._books.draw(SWEEP_BATCH), list(self._sweep_doubts)
            command = self._server.script("sweep", self._server.moment(self._clock), self._name, base,
                                          self._max_deliveries, SWEEP_BATCH, self._expires, *doubts)  # fmt: skip
            try:
                reply = await self._server.ado(command, again=False)
            except BaseException:
                self._sweep_doubts += (base, base + SWEEP_BATCH)
                raise
            finally:
                self._books.came(base)
            if reply == 0:
                raise LeaseLost
            del self._sweep_doubts[: len(doubts)]
            more = bool(reply[0])
            for i in range(1, len(reply), 3):
                value, receipt, deliveries = reply[i : i + 3]
                token = f"{self._name}:-{receipt}:{deliveries}"
                try:
                    taken.append(Delivery(decode(value), token, deliveries, lost=True))
                except ValueError as error:
                    self._books.put_aside({-receipt: str(error)})
                    continue
                self._books.in_hand.add(token)
        return taken

    async def end(self) -> None:
        self._books.close()
        if self._rest is not None:
            self._rest.cancel()
        if self._hears is asyncio.get_running_loop():
            self._server.unhear(f"{self._server.prefix}:bell:{self._name}", self._ring)
            self._hears = None
        await self._server.ado(self._server.script("end", self._name))
