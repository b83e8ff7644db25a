"""Moves messages from the store in which they wait to their lines, when they are due. Each lease has one `Mover`.

The order is: take, send, and remove when the server has confirmed. A worker that dies in between leaves what it took to
the others, which take it again when its hold ends. They mark it as sent again, so that a worker asks the backend before
it runs such a message, as it does after a redelivery.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence

from celeriac.brokers.queue_server.delays import Delays
from celeriac.brokers.queue_server.envelope import Envelope, Parcel, encode_dead
from celeriac.brokers.queue_server.sender import Sender
from celeriac.errors import BackendError, BrokerError, BrokerUnavailable
from celeriac.ports.delays import DelayStore, Taken
from celeriac.ports.operations import unreadable

__all__ = ["Mover"]

log = logging.getLogger("celeriac.brokers")

BATCH = 1000  # messages that are taken at once
SPREAD_SECONDS = 0.02  # workers that know the same time do not all look at the same moment
UNUSED_SECONDS = 5.0  # between looks into a store that messages are not kept in at present
PAUSE = 1.0  # seconds after a failure
STOP_SECONDS = 2.0  # for a worker that stops to finish a batch


class Mover:
    """Moves what is due."""

    def __init__(self, sender: Sender, delays: Delays, store: DelayStore, seconds: float) -> None:
        self._sender = sender
        self._delays = delays
        self._store = store
        self._seconds = seconds  # for which taken messages are held
        self._failing = ""  # how, as it was told
        self._sent: list[Taken] = []  # to be removed
        self._moving = asyncio.Lock()
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Move what is due from now on."""
        self._task = asyncio.ensure_future(self.run())

    async def stop(self) -> None:
        """Move nothing more; return when what was begun is finished, unless that takes too long."""
        self._stopped = True
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._moving.acquire()
            self._task.cancel()

    def abandon(self) -> None:
        """Move nothing more. What was begun goes on by itself: it does not need the worker's connection."""
        self._stopped = True
        if self._task is not None and not self._moving.locked():
            self._task.cancel()

    async def run(self) -> None:
        """Move what is due, until stopped."""
        while not self._stopped:
            try:
                _, soonest = await self.move()
                if self._failing:
                    self._failing = ""
                    log.warning("Delayed messages are moved to their queues again")
                await self._wait(soonest)
            except Exception as error:  # a fault of Celeriac's, too; it must not end this duty
                fault = _fault(error)
                how = "fault" if fault is not None else "outage"
                if self._failing != how:
                    self._failing = how
                    log.warning("Delayed messages cannot be moved to their queues, trying again every %g s: %s", PAUSE,
                                error, exc_info=fault)  # fmt: skip
                await asyncio.sleep(PAUSE)

    async def _wait(self, soonest: float | None) -> None:
        """Wait until the next message is due, or one may have been kept that is due sooner."""
        if not self._delays.is_used():
            await asyncio.sleep(UNUSED_SECONDS if soonest is None else min(soonest, UNUSED_SECONDS))
            return
        spread = random.random() * SPREAD_SECONDS  # noqa: S311
        await self._store.changed(self._store.poll if soonest is None else soonest + spread)

    async def move(self) -> tuple[int, float | None]:
        """Move all that is due. Return how many messages that were; and in how many seconds the next will be due.

        None instead of seconds: no other is kept.
        """
        moved = 0
        while True:
            async with self._moving:
                await self._remove()  # what could not be removed before
                taken_at = time.monotonic()
                taken, soonest = await self._store.take_due(BATCH, self._seconds)
                if taken:
                    await self._move(taken, taken_at)
            moved += len(taken)
            if len(taken) < BATCH or self._stopped:
                return moved, soonest

    async def _move(self, taken: Sequence[Taken], taken_at: float, again: bool = False) -> None:
        """Send messages to their lines, and remove them. `again`: they may have been sent before."""
        left = taken_at + self._seconds * 2 / 3 - time.monotonic()
        if left <= 0:
            return  # this process stood still: others may have taken them
        try:
            envelopes, letters = self._read(taken, again)
            await self._sender.send(envelopes, letters, min(left, self._sender.transport.timeout))
        except BrokerUnavailable:
            await self._store.release(taken)  # some may have been sent: all are marked when they are taken again
            raise
        except Exception as error:  # one of them may be at fault, and must hold up no other
            if len(taken) > 1:
                for one in taken:
                    await self._move([one], taken_at, again=True)
                return
            log.error("The delayed message %s cannot be moved to the queue %r, and is tried again in %g s: %s",
                      taken[0].id, taken[0].queue, self._seconds, error,
                      exc_info=_fault(error))  # fmt: skip
            return
        self._sent += taken
        await self._remove()

    def _read(self, taken: Sequence[Taken], again: bool) -> tuple[list[Envelope], list[Parcel]]:
        """Return what is to be sent: messages, and dead letters of those that are unreadable."""
        envelopes: list[Envelope] = []
        letters: list[Parcel] = []
        for one in taken:
            try:
                envelope = self._delays.read(one)
                envelopes.append(envelope._replace(again=True) if again else envelope)
            except ValueError as error:
                letters.append(self._letter(one, str(error)))
        return envelopes, letters

    async def _remove(self) -> None:
        """Remove what was sent."""
        if self._sent:
            await self._store.remove(self._sent)
            self._sent.clear()

    def _letter(self, taken: Taken, why: str) -> Parcel:
        """Return a dead letter. Raises `NotSupported` for a name that no queue can have."""
        transport = self._sender.transport
        transport.topology.check(taken.queue)
        letter = unreadable(taken.data, taken.queue, f"it cannot be read: {why}", self._sender.clock.now(), id=taken.id)
        body = encode_dead(letter.message, letter.reason, letter.at, transport.codec)
        return Parcel(transport.topology.dead(taken.queue), body)


def _fault(error: Exception) -> Exception | None:
    """Return an error that nobody expects, to be logged with where it was raised; None for an outage or a refusal."""
    return None if isinstance(error, BrokerError | BackendError) else error
