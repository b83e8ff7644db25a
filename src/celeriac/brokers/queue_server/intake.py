"""Turns the messages that the server pushes into deliveries, and sends back those that must not be delivered.

`Intake.deliver` is called by the connection for each message; the lease takes deliveries from the consumers' buffers.
A message goes back to its line by being sent again, confirmed, and then acknowledged: a crash in between duplicates
it, and never loses it. A server that does both in one step duplicates nothing. The server counts deliveries that ended
with a connection; those that ended otherwise are counted in the envelope.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from msgspec.structs import replace

from celeriac.brokers.dead_workers import tell_received
from celeriac.brokers.queue_server.background_jobs import PATIENCE, BackgroundJobs
from celeriac.brokers.queue_server.consumer import Consumer, Held
from celeriac.brokers.queue_server.consumers import Consumers
from celeriac.brokers.queue_server.envelope import Envelope, Parcel, encode_dead, unpack
from celeriac.brokers.queue_server.journal import Journal
from celeriac.brokers.queue_server.sender import Sender
from celeriac.brokers.queue_server.transport import Pushed, WorkerConnection
from celeriac.brokers.queue_server.unacked import Unacked
from celeriac.errors import BrokerError, BrokerUnavailable
from celeriac.model.message import Message
from celeriac.ports.broker import Delivery, Slots
from celeriac.ports.operations import unreadable

__all__ = ["Intake"]

SURPLUS_SECONDS = 0.1  # after which messages go back that were pushed and not received; those of a consumer that …
ENDED_SECONDS = 0.01  # … has ended, after this time
TELL_SECONDS = 0.5  # in which the messages of a dead worker are collected, to be logged in one line
EARLY_SECONDS = 0.5  # a message that arrives earlier than this before its time is delayed again


class Intake:
    """The incoming messages of a lease."""

    def __init__(self, sender: Sender, unacked: Unacked, journal: Journal, consumers: Consumers,
                 connection: WorkerConnection, jobs: BackgroundJobs, max_deliveries: int,
                 changed: Callable[[], None]) -> None:  # fmt: skip
        self.inherited: list[Delivery] = []  # lost with another worker, and not to be run again
        self.slots: Slots = {}  # of the receive that is waiting
        self.stopped = False
        self._sender = sender
        self._clock = sender.clock
        self._unacked = unacked
        self._journal = journal
        self._consumers = consumers
        self._connection = connection
        self._losses = sender.transport.losses
        self._jobs = jobs
        self._max_deliveries = max_deliveries
        self._changed = changed
        self._surplus_timer: asyncio.TimerHandle | None = None
        self._left_behind: list[Message] = []  # by workers that died; not logged yet

    # --- Messages that are pushed ---------------------------------------------------------------------

    def deliver(self, pushed: Pushed) -> None:
        """Buffer a message for the next receive, or send it where it has to go instead."""
        consumer_tag = pushed.consumer_tag
        consumer = self._consumers.source(consumer_tag)
        if consumer is None:
            return
        if consumer_tag == consumer.tag:
            consumer.unsettled += 1
        try:
            envelope = unpack(pushed.body, consumer.line.queue, self._sender.transport.codec)
        except ValueError as error:
            self._put_aside(pushed, consumer, f"it cannot be read: {error}")
            return
        message, now = envelope.message, self._clock.now()
        counted = self._losses(pushed)
        lost = self._lost_before(counted, message.id)
        count = envelope.deliveries + lost
        again = envelope.again or pushed.redelivered
        tag = pushed.tag
        delivery = Delivery(message, self._unacked.token(tag), count + 1, again=again,
                            revoked=self._journal.revoked.get(message.id, 0.0) > now)  # fmt: skip
        held = Held(tag, consumer, consumer_tag, delivery, count, again, time.monotonic())
        self._unacked.add(held)
        if lost:
            self._tell_soon(message)
        if lost and (not message.acks_late or count >= self._max_deliveries):
            held.delivery = replace(delivery, deliveries=count, lost=True)
            self.inherited.append(held.delivery)
        elif message.due_at is not None and not delivery.revoked and (early := self._early(message, now)) is not None:
            self._jobs.start(partial(self._send_back, [held], early))
        elif lost and counted is None:  # only an envelope can count the losses of this queue
            self._jobs.start(partial(self._send_back, [held]))
        elif counted is None and not message.acks_late:
            self._jobs.start(partial(self._buffer_when_told, held))
        else:
            self._buffer(held)
            return
        self._consumers.touched.add(consumer)  # it has less room, and no receive will find out
        self._changed()

    def _buffer(self, held: Held) -> None:
        consumer = held.consumer
        if not consumer.buffer:
            self._consumers.ready[consumer] = None
        consumer.buffer.append(held)
        if self._surplus_timer is None:
            self.watch_surplus(SURPLUS_SECONDS if consumer.tag else ENDED_SECONDS)
        self._changed()

    async def _buffer_when_told(self, held: Held) -> None:
        """Buffer a message that was put back before, when all know that another redelivery means that it was lost.

        It may run once: if this worker died before they know, another one would run it again.
        """
        await self._journal.forgotten([held.delivery.message.id])
        if not self.stopped:
            self._buffer(held)

    def _early(self, message: Message, now: float) -> Message | None:
        """Return the message as it has to wait longer; None if its time has come.

        A duration was waited for by the server, as far as it can count. Only an instant is compared with a clock.
        """
        if message.countdown is None:
            return message if message.due_at is not None and message.due_at > now + EARLY_SECONDS else None
        left = message.countdown - self._sender.transport.topology.longest_delay
        return replace(message, countdown=left) if left > 0 else None

    def _tell_soon(self, message: Message) -> None:
        """Log soon that a message was lost with another worker: its other messages come now, too."""
        self._left_behind.append(message)
        if len(self._left_behind) == 1:
            asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell)

    def _tell(self) -> None:
        tell_received(self._left_behind)
        self._left_behind.clear()

    def _lost_before(self, counted: int | None, id: str) -> int:
        """Return how often the message was lost with its worker, as far as the server counts."""
        looks = self._journal.looks.get(id, 0)
        if looks and not counted:
            self._journal.forget_looks(id)  # another redelivery after this one means that it was lost
        return (0 if looks else 1) if counted is None else max(0, counted - looks)

    def _put_aside(self, pushed: Pushed, consumer: Consumer, why: str) -> None:
        """Make a dead letter of an unreadable message, which is held until the server has confirmed the letter."""
        queue = consumer.line.queue
        letter = unreadable(pushed.body, queue, why, self._clock.now())
        delivery = Delivery(letter.message, self._unacked.token(pushed.tag), lost=True)
        held = Held(pushed.tag, consumer, pushed.consumer_tag, delivery, 0, False, time.monotonic())
        self._unacked.add(held)
        self._consumers.touched.add(consumer)
        transport = self._sender.transport
        body = encode_dead(letter.message, letter.reason, letter.at, transport.codec)
        parcel = Parcel(transport.topology.dead(queue), body)

        self._jobs.start(lambda: self.swap([held], (), [parcel], PATIENCE))

    # --- Messages that are not received ---------------------------------------------------------------

    def watch_surplus(self, seconds: float = SURPLUS_SECONDS) -> None:
        """Look for surplus after a while, if there is anything in the buffers."""
        if self._surplus_timer is None and self._consumers.ready:
            self._surplus_timer = asyncio.get_running_loop().call_later(seconds, self._find_surplus)

    def _find_surplus(self) -> None:
        """Send back what was not received in time; the consumer ends first, or as many messages would follow."""
        self._surplus_timer = None
        if self.stopped:
            return
        surplus: list[Held] = []
        oldest = time.monotonic() - SURPLUS_SECONDS / 2
        for consumer in list(self._consumers.ready):
            refused = consumer.line.queue in self._journal.paused or not self.slots.get(consumer.line.lane)
            if refused and (not consumer.tag or consumer.buffer[0].received_at < oldest):
                consumer.set(0)
                surplus += consumer.buffer
                consumer.buffer.clear()
                del self._consumers.ready[consumer]
                self._consumers.touched.add(consumer)
        if surplus:
            self._jobs.start(partial(self._put_back, surplus))
        self.watch_surplus()

    async def _put_back(self, surplus: Sequence[Held]) -> None:
        """Let the server take messages back, or send them back."""
        try:
            done = await self._connection.put_back([held.tag for held in surplus])
        except BrokerUnavailable:  # it has no room for the note, perhaps: this worker can still start them
            for held in surplus:
                if not self.stopped:
                    self._buffer(held)
            return
        if not done:
            await self._send_back(surplus)
            return
        for held in self._unacked.drop(surplus):
            held.consumer.settled(held.consumer_tag)
            self._consumers.touched.add(held.consumer)

    async def _send_back(self, surplus: Sequence[Held], early: Message | None = None) -> None:
        """Send messages back to their lines as they were, and acknowledge them. A repetition is marked as one.

        `early` replaces a single message, which waits as long as it says.
        """
        if early is not None:
            # Seconds from now, and no instant: a store that goes by another clock would find it due at once.
            delay = None if early.countdown is not None or early.due_at is None else early.due_at - self._clock.now()
            envelopes = [Envelope(early, held.count, held.again, delay, returns=True) for held in surplus]
        else:
            envelopes = [Envelope(held.delivery.message, held.count, held.again, 0.0) for held in surplus]
        for held in surplus:
            held.again = True
        await self.swap(surplus, envelopes, (), PATIENCE)

    # --- The end of a delivery ------------------------------------------------------------------------

    async def swap(self, settled: Sequence[Held], envelopes: Sequence[Envelope], parcels: Sequence[Parcel],
                   within: float | None = None) -> None:  # fmt: skip
        """Send what takes the place of deliveries, and acknowledge them: in one step, where the server can do that.

        Within the time-out, or so many seconds. Where the connection is lost, the lease is.
        """
        sending = await self._sender.sending(envelopes, parcels)
        if sending is not None:
            transport = self._sender.transport
            try:
                async with asyncio.timeout(transport.timeout if within is None else within):
                    moved = await self._connection.move(sending, [held.tag for held in settled])
            except OSError as error:
                # What was done is unknown: the server puts back what was not.
                self._connection.abandon(f"{str(error) or 'it did not answer'} (while messages were settled)")
                if isinstance(error, BrokerError):
                    raise
                return
            if not moved:
                await transport.ado(sending, within)
        self.acknowledge(settled)

    def acknowledge(self, settled: Sequence[Held]) -> None:
        """Acknowledge deliveries; those that are not held any more are acknowledged already, or lost."""
        if self._connection.lost is not None:
            return
        touched = self._consumers.touched
        dropped = self._unacked.drop(settled)
        for held in dropped:
            held.consumer.settled(held.consumer_tag)
            touched.add(held.consumer)
            self._journal.forget_looks(held.delivery.message.id)
        if dropped:
            self._connection.acknowledge(sorted([held.tag for held in dropped]), self._unacked.oldest)
