"""A worker's lease on a Redis broker: receive, settle, renew, sweep. `receipts.py` deals with lost replies.

A lease that has received all there was and still has free slots *waits*: Redis wakes it when there is a message. It
waits from the moment Redis carries out its request, so the next `receive` need not ask again before it is woken. If no
`receive` follows soon, the lease stops waiting. While a `receive` waits, a settlement that publishes messages carries a
request for messages along, and its reply brings them: so a chain goes from step to step in one round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from celeriac.brokers.dead_workers import NAMED, tell_returned
from celeriac.brokers.redis.envelope import LANE_LETTERS, blob, due, shown, unpack, worker_of
from celeriac.brokers.redis.receipts import Receipts
from celeriac.brokers.redis.requests import Queues, Request
from celeriac.brokers.redis.settlements import alike, each
from celeriac.drivers.redis import outcomes
from celeriac.drivers.redis.server import Command, Server
from celeriac.errors import LeaseLost
from celeriac.model.clock import Clock
from celeriac.ports.broker import Claim, Delivery, Lease, Settlement, Slots
from celeriac.ports.workflows import Advance

__all__ = ["RedisLease"]

ASK_SECONDS = 5.0  # a waiting lease asks again after this, even if it was not woken
LEAVE_SECONDS = 0.05  # if no `receive` begins within this, the lease stops waiting
UNKNOWN_LIST = -1  # the reply of `receive_from_list` if the queue list has to be registered
REFUSED = -1  # the reply of `sweep` if a later request has put up a fence before it
SETTLE_BATCH = 1000
SWEEP_BATCH = 1000


class RedisLease(Lease):
    """A lease, identified by its name."""

    def __init__(self, server: Server, clock: Clock, name: str, seconds: float, expires: bytes, max_deliveries: int,
                 result_expires: float | None, asked_at: float = 0.0, adopted: bool = False) -> None:  # fmt: skip
        self._server = server
        self._clock = clock
        self.name = name
        self._name = name
        self._seconds = seconds
        self._expires = float(expires)  # by the server's clock, as last replied
        self._asked_to_renew_at = asked_at  # steady; the server has replied to this
        self._no_sweep_until = float("-inf")  # steady
        self._max_deliveries = max_deliveries
        self._result_ttl = outcomes.milliseconds(result_expires)
        self._receipts = Receipts(server, clock, name)
        self._adopted = adopted  # another process has opened it
        self._queues = Queues(())
        self._turn = 0  # the position of the queue that is served first
        self._sweep_doubts: list[int] = []  # ranges of receipts of sweeps that have failed
        self._unanswered: set[str] = set()  # tokens of settlements whose reply was lost
        self._listening: asyncio.AbstractEventLoop | None = None  # the loop that is subscribed to this lease's bell
        self._rung = False  # Redis has woken this lease since the last request
        self._wake_up = asyncio.Event()  # makes a waiting `receive` look at the state below
        self._idle: dict[str, int] | None = None  # slots by lane, while a `receive` waits
        self._carried: Request | None = None  # the request of a waiting `receive` that a settlement carries
        self._brought: tuple[Request, list[Delivery]] | None = None  # the messages that such a reply has brought
        self._waiting: tuple[Queues, set[str]] | None = None  # queues and lanes for which Redis may wake this lease
        self._asked_at = 0.0  # when the last request was sent; monotonic
        self._due_at = 0.0  # when the next scheduled message becomes due, as last replied
        self._leave_timer: asyncio.TimerHandle | None = None

    # --- Receive --------------------------------------------------------------------------------------

    async def receive(self, queues: Sequence[str], slots: Slots, wait: float) -> list[Delivery]:
        deadline = self._clock.monotonic() + wait
        lanes = {LANE_LETTERS[lane]: free for lane, free in slots.items() if free > 0}
        if not lanes or not queues:
            await asyncio.sleep(wait)
            return []
        if self._queues.names != list(queues):
            self._queues = Queues(queues)
        await self._receipts.recover()
        if self._leave_timer is not None:
            self._leave_timer.cancel()
        if wait > 0:
            await self._listen()
        if self._waiting is not None and self._waiting != (self._queues, set(lanes)):
            self._leave()
        try:
            while True:
                deliveries: list[Delivery] = []
                if self._brought is not None:
                    (_, deliveries), self._brought = self._brought, None
                elif self._carried is None and (wait <= 0 or self._should_ask()):
                    deliveries = await self._ask(self._request(lanes, wait > 0))
                if deliveries:
                    self._leave_timer = asyncio.get_running_loop().call_later(LEAVE_SECONDS, self._leave)
                    return deliveries
                left = deadline - self._clock.monotonic()
                if left <= 0 and self._carried is None:
                    self._leave()
                    return []
                await self._wait(lanes, left)
        except BaseException:
            self._give_up()
            raise

    def _should_ask(self) -> bool:
        """Return whether there may be a message; if not, the lease is waiting and will be woken."""
        return (
            self._waiting is None
            or self._rung
            or self._clock.now() >= self._due_at
            or self._clock.monotonic() - self._asked_at >= ASK_SECONDS
        )

    async def _wait(self, lanes: dict[str, int], left: float) -> None:
        """Wait for the bell, for the reply to a carried request, or for the time to ask again."""
        self._wake_up.clear()
        if self._carried is not None:
            await self._wake_up.wait()
        elif not self._rung:
            left = max(0.0, min(left, self._due_at - self._clock.now(), ASK_SECONDS))
            timer = asyncio.get_running_loop().call_later(left, self._wake_up.set)
            self._idle = lanes
            try:
                await self._wake_up.wait()
            finally:
                timer.cancel()
                self._idle = None

    def _give_up(self) -> None:
        """Stop waiting. Messages that a carried request brings go back."""
        self._carried = None
        if self._brought is not None:
            (request, deliveries), self._brought = self._brought, None
            if deliveries:
                self._receipts.held.difference_update([delivery.token for delivery in deliveries])
                self._receipts.doubt(request)
        self._leave()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        if self._listening is not loop:
            await self._server.hear(f"{self._server.prefix}:bell:{self._name}", self._ring)
            self._listening = loop

    def _ring(self, payload: bytes | None) -> None:
        self._rung = True
        self._wake_up.set()

    def _request(self, lanes: dict[str, int], waits: bool) -> Request:
        """Return a new request. Each is served from another queue on."""
        self._turn = (self._turn + 1) % len(self._queues.names)
        return Request(self._queues, self._turn, lanes, self._waiting is not None, waits)

    async def _ask(self, request: Request) -> list[Delivery]:
        """Send a request; return its messages."""
        self._prepare(request)
        name = "receive_from_list" if request.queues.list else "receive"
        command = self._server.script(name, self._server.moment(self._clock), self._name, *request.arguments)
        try:
            reply = await self._server.ado(command, again=False)
            if reply == UNKNOWN_LIST:
                listing = self._server.script("list_queues", request.queues.list, *request.queues.names)
                _, reply = await self._server.ado_all([listing, command], again=False)
        except BaseException:
            self._receipts.doubt(request)
            raise
        finally:
            self._receipts.finish(request.base)
        if reply == 0:
            raise LeaseLost
        return self._accept(request, reply)

    def _prepare(self, request: Request) -> None:
        """Number a request that is about to be sent."""
        request.base = self._receipts.start(sum(request.lanes.values()))
        self._rung = False
        self._asked_at = self._clock.monotonic()
        if request.waits:  # Redis may wake this lease before the reply is here
            self._waiting = (request.queues, set(request.lanes))

    def _accept(self, request: Request, reply: Any) -> list[Delivery]:
        """Return the deliveries of a reply."""
        blobs, exceptions, due_in, runs = reply
        self._due_at = self._clock.now() + float(due_in) if due_in else float("inf")
        deliveries = self._receipts.deliveries(request, blobs, exceptions, runs)
        # An unreadable message has taken a slot, which is free again: ask once more.
        self._rung = self._rung or len(deliveries) < len(blobs)
        filled = [LANE_LETTERS[delivery.message.lane] for delivery in deliveries]
        left = {lane for lane, free in request.lanes.items() if free > filled.count(lane)} if request.waits else set()
        self._waiting = (request.queues, left) if left else None
        return deliveries

    def _leave(self) -> None:
        """Stop waiting. Redis wakes another lease for what it woke this one for. Sent in order with other requests."""
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
                self._unanswered.update(settlement.delivery.token for settlement in settlements[:start])
                raise
        return done

    async def _settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        tokens = [settlement.delivery.token for settlement in settlements]
        try:
            shortest, now = alike(settlements, self._name, self._server.codec), self._server.moment(self._clock)
            if shortest is not None and await self._server.ado(
                self._server.script("acknowledge", now, self._name, self._result_ttl, *shortest), again=False
            ):
                done = [True] * len(tokens)
            else:
                done = await self._settle_each(settlements)
        except BaseException:
            self._unanswered.update(tokens)
            raise
        if self._unanswered:
            done = await self._with_unanswered(tokens, done)
        self._receipts.held.difference_update(tokens)
        return done

    async def _settle_each(self, settlements: Sequence[Settlement]) -> list[bool]:
        request: Request | None = None
        if self._idle is not None and any(settlement.follow_ups for settlement in settlements):
            request = self._carried = self._request(self._idle, waits=True)
            self._idle = None
            self._prepare(request)
        asked = request.arguments if request is not None else ()
        parts = each(settlements, self._name, self._server.codec)
        command = self._server.script("settle", self._server.moment(self._clock), self._name, self._result_ttl,
                                      len(asked), *asked, *parts)  # fmt: skip
        try:
            done, *replies = await self._server.ado(command, again=False)
        except BaseException:
            if request is not None:
                self._bring(request, None)
                self._receipts.doubt(request)
            raise
        if request is not None:
            self._bring(request, replies[0] if replies else None)
        return [bool(good) for good in done]

    def _bring(self, request: Request, reply: Any) -> None:
        """Pass the reply to a carried request to the waiting `receive`. None: the request was not carried out."""
        self._receipts.finish(request.base)
        if self._carried is request:
            self._carried = None
            if reply is None:
                self._rung = True  # the `receive` has to ask itself
            else:
                self._brought = (request, self._accept(request, reply))
            self._wake_up.set()
        elif reply is not None and reply[0]:  # the `receive` was cancelled: nobody has slots for these messages
            self._receipts.doubt(request)

    async def _with_unanswered(self, tokens: Sequence[str], done: list[bool]) -> list[bool]:
        """Return what was settled, including by earlier requests whose reply was lost."""
        unanswered = [token in self._unanswered for token in tokens]
        if any(was_sent and not good for was_sent, good in zip(unanswered, done, strict=True)):
            # A token is stale because the lost request was carried out, or because of a sweep, which ends the lease.
            with contextlib.suppress(LeaseLost):
                await self.renew()
                done = [was_sent or good for was_sent, good in zip(unanswered, done, strict=True)]
        self._unanswered.difference_update(tokens)
        return done

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        now, commands, codec = self._server.moment(self._clock), [], self._server.codec
        for item in advances:
            parts = outcomes.advance_parts(item, codec)
            for message in item.messages:
                parts += (message.queue, message.id, blob(message, codec), due(message))
            commands.append(self._server.script("advance", now, self._result_ttl, *parts))
        return [bool(done) for done in await self._server.ado_all(commands)] if commands else []

    # --- Renew, sweep, end ----------------------------------------------------------------------------

    async def renew(self) -> None:
        command = self._server.script("renew", self._server.moment(self._clock), self._name, repr(self._seconds))
        asked_at = self._clock.steady()
        expires = await self._server.ado(command)
        if expires == 0:
            raise LeaseLost
        if float(expires) - self._seconds > self._latest():
            self._no_sweep_until = self._clock.steady() + self._seconds
        self._expires, self._asked_to_renew_at = float(expires), asked_at
        if self._adopted:
            return  # what it has received is known to the other process
        for receipt in await self._receipts.compare():
            self._sweep_doubts += (receipt - 1, receipt)

    def _latest(self) -> float:
        """Return the latest time that the server's clock can show now, unless it was set forward too far.

        Workers renew their leases three times in their length, so that a third of it is not too far.
        """
        return self._expires - self._seconds * 2 / 3 + self._clock.steady() - self._asked_to_renew_at

    def _sweeps_until(self) -> float:
        """Return until when, by the server's clock, other leases may be found to have expired.

        If its clock was set forward, all may seem so, until their workers have renewed them.
        """
        return min(self._expires, self._latest()) if self._clock.steady() >= self._no_sweep_until else 0.0

    async def sweep(self) -> list[Delivery]:
        deliveries: list[Delivery] = []
        given: list[int] = []  # ranges of the receipts of these
        more, codec = True, self._server.codec
        while more:
            base, doubts = self._receipts.start(SWEEP_BATCH), list(self._sweep_doubts)
            command = self._server.script("sweep", self._server.moment(self._clock), self._name, base,
                                          self._max_deliveries, SWEEP_BATCH, repr(self._sweeps_until()), NAMED,
                                          *doubts)  # fmt: skip
            try:
                reply = await self._server.ado(command, again=False)
            except BaseException:
                self._sweep_doubts += (*given, base, base + SWEEP_BATCH)
                raise
            finally:
                self._receipts.finish(base)
            if reply == 0:
                raise LeaseLost
            if reply == REFUSED:  # it has not looked for what is in doubt
                return deliveries
            del self._sweep_doubts[: len(doubts)]
            given += (*doubts, base, base + SWEEP_BATCH)
            more = bool(reply[0])
            for info, number, *blobs in reply[1]:
                messages = [shown(value, None, codec) for value in blobs]
                tell_returned(worker_of(info, codec)[1].name, messages, number)
            for i in range(2, len(reply), 4):
                value, receipt, count, queue = reply[i : i + 4]
                token = f"{self._name}:-{receipt}:{count}"
                try:
                    message = unpack(value, queue.decode(), codec)
                except ValueError as error:
                    self._receipts.bury({-receipt: str(error)})
                    continue
                deliveries.append(Delivery(message, token, count, lost=True))
                self._receipts.held.add(token)
        return deliveries

    async def end(self) -> None:
        self.leave()
        await self._server.ado(self._server.script("end", self._name))

    # --- For other processes ---------------------------------------------------------------------------

    async def held(self, claims: Sequence[Claim]) -> dict[str, Delivery]:
        commands: list[Command] = []
        for claim in claims:
            keys = f"{self._server.prefix}:{{{claim.queue}}}"
            commands += [("HGET", f"{keys}:held:{self._name}", claim.id), ("HGET", f"{keys}:messages", claim.id)]
        replies = await self._server.ado_all(commands) if commands else []
        found: dict[str, Delivery] = {}
        for claim, proof, value in zip(claims, replies[::2], replies[1::2], strict=True):
            lease, _, told = claim.token.partition(":")
            if lease != self._name or proof is None or value is None or proof.decode().rstrip(" ") != f"{told}:":
                continue
            with contextlib.suppress(ValueError):
                message = unpack(value, claim.queue, self._server.codec)
                if message.id == claim.id:
                    found[claim.token] = Delivery(message, claim.token, int(told.partition(":")[2]))
        return found

    def leave(self) -> None:
        self._receipts.close()
        if self._leave_timer is not None:
            self._leave_timer.cancel()
        if self._listening is asyncio.get_running_loop():
            self._server.unhear(f"{self._server.prefix}:bell:{self._name}", self._ring)
            self._listening = None
