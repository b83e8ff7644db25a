"""A worker's lease on a queue server: its connection. The lease stands while the connection does.

When the connection ends, the server puts back what was not acknowledged: at once if the process was killed, after its
missed heartbeats (`worker_lease_seconds` at the latest) if the machine is gone. A token is `lease:tag`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from msgspec.structs import replace

from celeriac.brokers.queue_server.background_jobs import BackgroundJobs
from celeriac.brokers.queue_server.consumer import Held
from celeriac.brokers.queue_server.consumers import Consumers
from celeriac.brokers.queue_server.delays import as_broker_error
from celeriac.brokers.queue_server.envelope import Envelope, Parcel, encode_dead, returned
from celeriac.brokers.queue_server.intake import Intake
from celeriac.brokers.queue_server.journal import Journal
from celeriac.brokers.queue_server.mover import Mover
from celeriac.brokers.queue_server.presence import Presence, answer_roll_calls
from celeriac.brokers.queue_server.sender import Sender
from celeriac.brokers.queue_server.unacked import Unacked
from celeriac.errors import BackendError, BrokerError, LeaseLost
from celeriac.model.message import new_id
from celeriac.ports.broker import Action, Delivery, Lease, Settlement, Slots
from celeriac.ports.operations import WorkerInfo

__all__ = ["QueueServerLease"]

log = logging.getLogger("celeriac.brokers")

LOOK_SECONDS = 5.0  # after which a waiting receive looks again, whether anything came or not; sooner if lines starve:
STARVING_SECONDS = 0.02  # at first, then ever later; another worker may have got what was counted, or it was a guess
SYNC_TRIES = 40
TAKE_SECONDS = 0.1  # for a message to arrive that was counted
ENDED = "the worker has ended it"


class QueueServerLease(Lease):
    """A lease."""

    def __init__(self, sender: Sender, worker: WorkerInfo, seconds: float, max_deliveries: int) -> None:
        self.name = new_id()
        self._sender = sender
        self._transport = sender.transport
        self._clock = sender.clock
        self._worker = worker
        self._seconds = seconds
        self._max_deliveries = max_deliveries
        self._lost: str | None = None
        self._ended = False
        self._changed = asyncio.Event()
        self._unacked = Unacked(self.name)
        self._mover: Mover | None = None
        self._jobs = BackgroundJobs(lambda: self._lost is None, lambda: self.connection.abandon(), self._changed.set)

    # --- The beginning --------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Connect, read the journal, and be counted as a worker. Raises `BrokerUnavailable`."""
        await self._transport.learn()
        self.connection = await self._transport.connect_worker(self._seconds, f"celeriac worker {self._worker.name}")
        self.journal = Journal(self._transport, self._clock, self._changed.set, self._jobs.start)
        self._consumers = Consumers(self._sender, self.journal, self.connection, self._call)
        self._intake = Intake(self._sender, self._unacked, self.journal, self._consumers, self.connection, self._jobs,
                              self._max_deliveries, self._changed.set)  # fmt: skip
        self.connection.listen(self._intake.deliver, self._cancelled, self._disconnected)
        try:
            async with self._transport.answering():
                await self.journal.follow(self.connection)
                await answer_roll_calls(self.connection, self._presence, self._sender, self._jobs.start)
        except BaseException:
            self._ended = True
            self.connection.close()
            raise
        self._stamp()
        store = await self._sender.delays.for_moving()
        if store is not None:
            self._mover = Mover(self._sender, self._sender.delays, store, self._seconds)
            self._mover.start()

    def _presence(self) -> Presence:
        return Presence(self._worker, self._unacked.by_queue())

    def _cancelled(self, consumer_tag: str) -> None:
        log.warning("%s has ended the consumer %s: its queue was deleted, or its node has failed. The worker declares "
                    "the queue again.", self._transport, consumer_tag)  # fmt: skip
        self._transport.declared.clear()
        self._consumers.cancelled(consumer_tag)
        self._changed.set()

    def _disconnected(self) -> None:
        if self._lost is None and not self._ended:
            log.error("The worker's connection has ended (%s): %s", self._transport, self.connection.lost)
        self._lost = self._lost or str(self.connection.lost)
        if self._mover is not None:
            self._mover.abandon()
        self._unacked.clear()
        self._intake.stopped = True
        self._intake.inherited.clear()
        self._consumers.clear()
        self._changed.set()

    # --- Receive --------------------------------------------------------------------------------------

    async def receive(self, queues: Sequence[str], slots: Slots, wait: float) -> list[Delivery]:
        deadline = time.monotonic() + wait
        tries, moved, soon = SYNC_TRIES, False, STARVING_SECONDS
        intake = self._intake
        intake.slots = slots
        try:
            while True:
                self._check_stands()
                taken = self._take(queues, slots)
                if taken:
                    return taken
                self._changed.clear()
                expected, pause, starves = await self._consumers.fit(queues, slots, counting=wait <= 0)
                left = deadline - time.monotonic()
                if self._changed.is_set() and not expected:
                    continue
                if left > 0:
                    if not await self._change(min(left, pause or (soon if starves else LOOK_SECONDS))):
                        soon = min(2 * soon, LOOK_SECONDS)
                elif (expected or pause) and tries:
                    tries -= 1
                    if not expected:
                        await self._change(pause)
                    while self._buffered() < expected and await self._change(TAKE_SECONDS):
                        self._changed.clear()
                elif wait <= 0 and not moved:
                    moved = True
                    await self._move_due()
                else:
                    await self._settle_down()
                    return self._take(queues, slots)
        finally:
            intake.slots = {}
            intake.watch_surplus()

    async def _move_due(self) -> None:
        """Return when what is due now, and is kept in a store, has been moved to its lines."""
        if self._mover is not None and self._sender.delays.is_used():
            try:
                await self._mover.move()
            except BackendError as error:
                raise as_broker_error(error) from error

    def _take(self, queues: Sequence[str], slots: Slots) -> list[Delivery]:
        """Take deliveries from the buffers."""
        ready = self._consumers.ready
        if not ready:
            return []
        wanted = self._consumers.wanted(queues)
        free = dict(slots)
        taken: list[Delivery] = []
        for consumer in sorted(ready, key=lambda consumer: -(consumer.line.priority or 0)):
            lane, room = consumer.line.lane, free.get(consumer.line.lane, 0)
            if room <= 0 or consumer.line.queue not in wanted:
                continue
            buffer = consumer.buffer
            number = min(room, len(buffer))
            taken += [buffer.popleft().delivery for _ in range(number)]
            free[lane] = room - number
            del ready[consumer]
            if buffer:
                ready[consumer] = None  # behind the others
            self._consumers.touched.add(consumer)
        return taken

    def _buffered(self) -> int:
        return sum(len(consumer.buffer) for consumer in self._consumers.ready)

    async def _change(self, seconds: float) -> bool:
        """Wait until something changes; say whether it did."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        return self._changed.is_set()

    async def _settle_down(self) -> None:
        """Wait until all that the server has pushed has arrived, and jobs have ended."""
        await self._jobs.finished(self._transport.timeout)
        await self._call(self.connection.sync())

    # --- Settle ---------------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        envelopes: list[Envelope] = []
        letters: list[Parcel] = []
        settled: dict[str, Held] = {}
        done: list[bool] = []
        for settlement in settlements:
            delivery = settlement.delivery
            held = self._unacked.of(delivery.token)
            good = held is not None and delivery.token not in settled
            done.append(good)
            if not good or held is None:
                continue
            settled[delivery.token] = held
            envelopes += [Envelope(follow, again=held.again) for follow in settlement.follow_ups]
            if settlement.action is Action.RETURN:
                message = settlement.message or delivery.message
                envelopes.append(returned(message, settlement.deliveries, held.again, settlement.delay))
            elif settlement.action is Action.BURY:
                letter = encode_dead(delivery.message, settlement.reason, self._clock.now(), self._transport.codec)
                letters.append(Parcel(self._transport.topology.dead(delivery.message.queue), letter))
        if envelopes or letters:
            for held in settled.values():
                held.again = True  # if this fails, it may have been sent all the same
            await self._intake.swap(list(settled.values()), envelopes, letters)
        else:
            self._intake.acknowledge(list(settled.values()))
        return done if self._lost is None else [False] * len(done)

    # --- Renew, sweep, end ----------------------------------------------------------------------------

    async def renew(self) -> None:
        self._check_stands()
        self._stamp()
        self.connection.renew(self._begin_again)

    def _begin_again(self) -> None:
        if not self._ended:
            self._consumers.begin_again()
            self._changed.set()

    def _stamp(self) -> None:
        now = self._clock.now()
        self._worker = replace(self._worker, renewed_at=now, expires_at=now + self._seconds)

    async def sweep(self) -> list[Delivery]:
        """Return what dead workers held and must not be run again; the server has put back the rest."""
        self._check_stands()
        now = self._clock.now()
        self.journal.revoked = {id: until for id, until in self.journal.revoked.items() if until > now}
        taken = self._intake.inherited[:]
        self._intake.inherited.clear()
        return taken

    async def end(self) -> None:
        if self._lost is not None:
            return
        self._ended = self._intake.stopped = True
        if self._mover is not None:
            await self._mover.stop()
        consumers = list(self._consumers)  # a lost connection clears them
        for consumer in consumers:
            consumer.set(0)
        try:
            async with self._transport.answering():
                for consumer in consumers:
                    await consumer.begun()
                self.connection.ending()
                await self.connection.sync()  # nothing is pushed after this
                await self._jobs.finished()  # they send back messages that must not be sent back twice
                kept = [held for held in self._unacked.all() if not held.delivery.lost]
                # One of them may just have been settled, and its outcome stored: so they are marked.
                await self._sender.send([Envelope(held.delivery.message, held.count, True, 0.0) for held in kept])
                self._intake.acknowledge(kept)
                await self.connection.stop()
        finally:
            self._lost = self._lost or ENDED
            self.connection.close()

    def _check_stands(self) -> None:
        if self._lost is not None or self._ended:
            raise self._no_lease(self._lost or ENDED)

    def _no_lease(self, why: object) -> BrokerError:
        """Return the error after the end of the connection; that of missing rights, if these have ended it."""
        return self.connection.refusal or LeaseLost(
            f"The worker's connection has ended ({why}), and the broker has returned its messages to their queues."
        )

    async def _call(self, work: Awaitable[Any]) -> Any:
        """Await an answer on the worker's connection, without which there is no lease."""
        try:
            async with asyncio.timeout(self._transport.timeout):
                return await work
        except OSError as error:
            self.connection.abandon(str(error) or "it did not answer")
            raise self._no_lease(error) from error
