"""A worker's lease on an AMQP broker: its connection. It stands while the connection does.

The server takes back what was not acknowledged when the connection ends: at once when the process is killed, after its
missed heartbeats (`worker_lease_seconds` at the latest) when the machine is gone. A token is `lease:delivery tag`.

What goes back to a queue (RETURN) is sent anew, confirmed, and then acknowledged: a crash in between repeats, and never
loses. The server counts deliveries that ended with a connection; those that ended otherwise are counted in the parcel.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace
from pamqp import commands

from celeriac.brokers.amqp.background_jobs import PATIENCE, BackgroundJobs
from celeriac.brokers.amqp.consumers import Consumers
from celeriac.brokers.amqp.envelope import Envelope, bury, losses, unpack
from celeriac.brokers.amqp.journal import Journal
from celeriac.brokers.amqp.presence import Presence, enrol
from celeriac.brokers.amqp.sender import Sender
from celeriac.brokers.amqp.unacked import Held, Unacked
from celeriac.drivers.amqp.error_translation import ChannelClosed, silent
from celeriac.drivers.amqp.frames import Content, Publication
from celeriac.drivers.amqp.topology import Line
from celeriac.errors import BrokerUnavailable, LeaseLost
from celeriac.model.message import new_id
from celeriac.ports.broker import Action, Delivery, Lease, Settlement, Slots
from celeriac.ports.operations import WorkerInfo, unreadable

__all__ = ["AmqpLease"]

log = logging.getLogger("celeriac.amqp")

LOOK_SECONDS = 5.0  # who waits looks again after this, whether anything came or not
SURPLUS_SECONDS = 0.1  # what was pushed to us and is not received goes back after this
EARLY_SECONDS = 0.5  # what comes earlier than this before its time waits once more
SYNC_TRIES = 40
ENDED = "it has ended"
TAKE_SECONDS = 0.1  # for a message that is said to be there to come


class AmqpLease(Lease):
    """A lease."""

    def __init__(self, sender: Sender, worker: WorkerInfo, seconds: float, max_deliveries: int) -> None:
        self.name = new_id()
        self._sender = sender
        self._server = sender.server
        self._clock = sender.clock
        self._worker = worker
        self._seconds = seconds
        self._max_deliveries = max_deliveries
        self._lost: str | None = None
        self._ended = False
        self._unacked = Unacked(self.name)
        self._inherited: list[Delivery] = []
        self._slots: Slots = {}  # of the receive that is under way
        self._stirred = asyncio.Event()
        self._looking_for_surplus: asyncio.TimerHandle | None = None
        self._errands = BackgroundJobs(lambda: self._lost is None, lambda: self.connection.abandon(), self._stirred.set)

    # --- The beginning --------------------------------------------------------------------------------

    async def enter(self) -> None:
        """Connect, read the journal, and let oneself be counted. Raises `BrokerUnavailable`."""
        self._topology = await self._server.learn()
        name = f"celeriac worker {self._worker.name}"
        self.connection = await self._server.open(max(1.0, self._seconds / 2), name)
        try:
            async with asyncio.timeout(self._server.timeout):
                self._work = await self.connection.channel()
                self._work.on_content = self._take
                self._work.on_cancel = self._cancelled
                self._work.on_failure = self._failed
                sight = await self.connection.channel()
                self.journal = Journal(self._server, self._clock, self._stirred.set, self._errands.begin)
                self._consumers = Consumers(self._sender, self._topology, self.journal, self._work, sight,
                                  self.connection.channel, self._call)  # fmt: skip
                self.connection.on_lost = self._connection_lost
                await self.journal.follow(self.connection)
                await enrol(self.connection, self._topology, self._presence, self._sender.broadcast,
                            self._errands.begin)  # fmt: skip
        except BaseException as error:
            self.connection.close()
            if isinstance(error, OSError):
                raise silent(error, self._server.address, self._server.timeout) from error
            if isinstance(error, ChannelClosed) and error.passes:
                raise BrokerUnavailable(str(error)) from error
            raise
        self._stamp()

    def _presence(self) -> Presence:
        return Presence(self._worker, self._unacked.by_queue())

    # --- Receive --------------------------------------------------------------------------------------

    async def receive(self, queues: Sequence[str], slots: Slots, wait: float) -> list[Delivery]:
        deadline = time.monotonic() + wait
        tries = SYNC_TRIES
        self._slots = slots
        try:
            while True:
                self._prove()
                taken = self._receive(queues, slots)
                if taken:
                    return taken
                self._stirred.clear()
                expected, pause = await self._consumers.fit(queues, slots, counting=wait <= 0)
                left = deadline - time.monotonic()
                if self._stirred.is_set() and not expected:
                    continue
                if left > 0:
                    await self._stirring(min(left, pause or LOOK_SECONDS))
                elif (expected or pause) and tries:
                    tries -= 1
                    if not expected:
                        await self._stirring(pause)
                    while self._buffered() < expected and await self._stirring(TAKE_SECONDS):
                        self._stirred.clear()
                else:
                    await self._settle_down()
                    return self._receive(queues, slots)
        finally:
            self._slots = {}
            self._watch_surplus()

    def _receive(self, queues: Sequence[str], slots: Slots) -> list[Delivery]:
        """Take from what was pushed."""
        free = dict(slots)
        taken: list[Delivery] = []
        for consumer in sorted(self._consumers, key=lambda consumer: -(consumer.line.priority or 0)):
            lane = consumer.line.lane
            if consumer.line.queue not in queues or consumer.line.queue in self.journal.paused:
                continue
            while consumer.buffer and free.get(lane, 0) > 0:
                free[lane] -= 1
                taken.append(consumer.buffer.popleft().delivery)
        return taken

    def _buffered(self) -> int:
        return sum(len(consumer.buffer) for consumer in self._consumers)

    async def _stirring(self, seconds: float) -> bool:
        """Wait until something happens; say whether it did."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        return self._stirred.is_set()

    async def _settle_down(self) -> None:
        """Wait until what the server has pushed has come, and jobs are done."""
        await self._errands.finished(self._server.timeout)
        await self._call(self._sync())

    async def _sync(self) -> Any:
        return await self._work.call(commands.Basic.Qos(prefetch_count=1))

    # --- What the server pushes -----------------------------------------------------------------------

    def _take(self, content: Content) -> None:
        consumer = self._consumers.source(content.consumer_tag)
        if consumer is None:
            return
        if content.consumer_tag == consumer.consumer_tag:
            consumer.unsettled += 1
        try:
            parcel = unpack(content.body)
        except ValueError as error:
            self._put_aside(content, consumer.line, f"it cannot be read: {error}")
            return
        message, now = parcel.message, self._clock.now()
        lost = self._lost_before(content, message.id)
        count = parcel.deliveries + lost
        again = parcel.again or content.redelivered
        delivery = Delivery(message, self._unacked.token(content.tag), count + 1, again=again,
                            revoked=self.journal.revoked.get(message.id, 0.0) > now)  # fmt: skip
        held = Held(content.tag, consumer.line, content.consumer_tag, delivery, count, again, time.monotonic())
        self._unacked.add(held)
        if lost and (not message.acks_late or count >= self._max_deliveries):
            held.delivery = replace(delivery, deliveries=count, lost=True)
            self._inherited.append(held.delivery)
        elif message.due_at is not None and message.due_at > now + EARLY_SECONDS:
            self._errands.begin(partial(self._give_back, [held]))  # there is no delay as long as its
        elif lost and losses(content) is None:  # the server would only say that it was lost, not how often
            self._errands.begin(partial(self._give_back, [held]))
        else:
            consumer.buffer.append(held)
            if self._looking_for_surplus is None:
                self._watch_surplus()
        self._stirred.set()

    def _lost_before(self, content: Content, id: str) -> int:
        """Return how often the message was lost with its worker, as far as the server counts."""
        looks = self.journal.looks.get(id, 0)
        counted = losses(content)
        if looks and not counted:
            self.journal.forget_looks(id)  # from now on, that it comes again means that it was lost
        return (0 if looks else 1) if counted is None else max(0, counted - looks)

    def _put_aside(self, content: Content, line: Line, why: str) -> None:
        """Bury what cannot be read. It is held until that is confirmed, so that nothing acknowledges it sooner."""
        letter = unreadable(content.body, line.queue, why, self._clock.now())
        delivery = Delivery(letter.message, self._unacked.token(content.tag), lost=True)
        held = Held(content.tag, line, content.consumer_tag, delivery, 0, False, time.monotonic())
        self._unacked.add(held)

        async def bury_it() -> None:
            await self._sender.send((), [bury(letter.message, letter.reason, letter.at, self._topology)], PATIENCE)
            self._acknowledge([held])

        self._errands.begin(bury_it)

    def _watch_surplus(self) -> None:
        if self._looking_for_surplus is None and any(consumer.buffer for consumer in self._consumers):
            loop = asyncio.get_running_loop()
            self._looking_for_surplus = loop.call_later(SURPLUS_SECONDS, self._look_for_surplus)

    def _look_for_surplus(self) -> None:
        """Give back what nobody has received; the consumer it came through is closed first, or as much would follow."""
        self._looking_for_surplus = None
        if self._lost is not None or self._ended:
            return
        surplus: list[Held] = []
        oldest = time.monotonic() - SURPLUS_SECONDS / 2
        for consumer in self._consumers:
            closed = consumer.line.queue in self.journal.paused or not self._slots.get(consumer.line.lane)
            if consumer.buffer and consumer.buffer[0].heard < oldest and closed:
                consumer.set(0)
                surplus += consumer.buffer
                consumer.buffer.clear()
        if surplus:
            self._errands.begin(partial(self._give_back, surplus))
        self._watch_surplus()

    async def _give_back(self, surplus: Sequence[Held]) -> None:
        """Send deliveries back to their lines as they were, and acknowledge them. Done again, it says so."""
        parcels = [Envelope(held.delivery.message, held.count, held.again) for held in surplus]
        for held in surplus:
            held.again = True
        await self._sender.send(parcels, (), PATIENCE)
        self._acknowledge(surplus)

    def _cancelled(self, consumer_tag: str) -> None:
        """The server has ended a consumer: its queue was deleted, or its node is gone."""
        log.warning("RabbitMQ has cancelled the consumer %s: its queue was deleted, or its node failed", consumer_tag)
        self._server.declared.clear()
        for consumer in self._consumers:
            if consumer.consumer_tag == consumer_tag:
                consumer.cancelled()
        self._stirred.set()

    def _failed(self, error: Exception) -> None:
        if self._lost is None and self.connection.lost is None:
            log.error("The worker's channel was closed: %s", error)
            self._server.declared.clear()  # whatever was deleted, is made again
            self.connection.abandon()

    def _connection_lost(self) -> None:
        self._lost = self._lost or str(self.connection.lost)
        self._unacked.clear()
        self._inherited.clear()
        self._consumers.clear()
        self._stirred.set()

    # --- Settle ---------------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        parcels: list[Envelope] = []
        letters: list[Publication] = []
        settled: dict[str, Held] = {}
        done: list[bool] = []
        now = self._clock.now()
        for settlement in settlements:
            delivery = settlement.delivery
            held = self._unacked.of(delivery.token)
            good = held is not None and delivery.token not in settled
            done.append(good)
            if not good or held is None:
                continue
            settled[delivery.token] = held
            parcels += [Envelope(follow, again=held.again) for follow in settlement.follow_ups]
            if settlement.action is Action.RETURN:
                parcels.append(Envelope(settlement.message or delivery.message, settlement.deliveries, held.again))
            elif settlement.action is Action.BURY:
                letters.append(bury(delivery.message, settlement.reason, now, self._topology))
        if parcels or letters:
            await self._sender.send(parcels, letters)
        if self._lost is not None:
            return [False] * len(done)
        self._acknowledge(list(settled.values()))
        return done

    def _acknowledge(self, settled: Sequence[Held]) -> None:
        if self._lost is not None:
            return
        dropped, acknowledgements = self._unacked.drop(settled, self._work.number)
        for held in dropped:
            consumer = self._consumers.of(held.line)
            if consumer is not None:
                consumer.settled(held.consumer_tag)
            self.journal.forget_looks(held.delivery.message.id)
        self._work.tell(acknowledgements)

    # --- Renew, sweep, end ----------------------------------------------------------------------------

    async def renew(self) -> None:
        self._prove()
        self._stamp()

    def _stamp(self) -> None:
        now = self._clock.now()
        self._worker = replace(self._worker, renewed_at=now, expires_at=now + self._seconds)

    async def sweep(self) -> list[Delivery]:
        """Unacked out what came back from dead workers and must not be run; the server has swept the rest."""
        self._prove()
        now = self._clock.now()
        self.journal.revoked = {id: until for id, until in self.journal.revoked.items() if until > now}
        taken, self._inherited = self._inherited, []
        return taken

    async def end(self) -> None:
        if self._lost is not None:
            return
        self._ended = True
        consumers = list(self._consumers)  # a lost connection clears them
        for consumer in consumers:
            consumer.set(0)
        try:
            async with asyncio.timeout(self._server.timeout):
                for consumer in consumers:
                    await consumer.begun()
                await self._sync()  # nothing is pushed after this
                await self._errands.finished()  # what they give back, we must not
                kept = [held for held in self._unacked.all() if not held.delivery.lost]
                # Perhaps one of them was just being settled: its outcome may be stored.
                await self._sender.send([Envelope(held.delivery.message, held.count, again=True) for held in kept])
                self._acknowledge(kept)
                await self._work.call(commands.Channel.Close(200, "", 0, 0))
        except OSError as error:
            raise silent(error, self._server.address, self._server.timeout) from error
        finally:
            self._lost = self._lost or ENDED
            self.connection.close()

    def _prove(self) -> None:
        if self._lost is not None or self._ended:
            why = self._lost or ENDED
            raise LeaseLost(f"The worker's connection has ended ({why}), and its messages were given to others.")

    async def _call(self, work: Any) -> Any:
        """Await an answer on our connection; without the connection there is no lease."""
        try:
            async with asyncio.timeout(self._server.timeout):
                return await work
        except ChannelClosed:
            raise
        except OSError as error:
            self.connection.abandon()
            raise LeaseLost(f"The worker's connection has ended ({error}).") from error
