"""Receives as many messages as there are free slots, filters them, and dispatches them to the pool.

Messages that must not run now (revoked, expired, unknown task, over the rate limit) end here: they are reported as
endings. Called by the supervisor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace as _replace

from celeriac import signals, states
from celeriac.app.app import Celeriac
from celeriac.errors import (
    AccessRefused,
    BackendError,
    BrokerError,
    LeaseLost,
    NotRegistered,
    TaskExpired,
    TaskRevoked,
    closest,
)
from celeriac.metrics.counts import RECEIVED, RECOVERED, UNKNOWN_TASK
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery, Lease, Slots
from celeriac.ports.history import Counted
from celeriac.tasks.builtin_names import WEBHOOK, sends_callbacks
from celeriac.worker.decide import Ending
from celeriac.worker.ending_signals import request_of
from celeriac.worker.heartbeat import FIRST_PAUSE, Heartbeat, next_pause
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pools.pool import Pool
from celeriac.worker.rates import RateLimits

__all__ = ["Receiver"]

RECEIVE, LOOK = "receive", "look which tasks have ended"  # duties, for `Outages`
WAIT_SECONDS = 30.0  # for a message, in one request
MOST_UNKNOWN = 1000  # names of unknown tasks that are remembered


class Receiver:
    """Receives until cancelled."""

    def __init__(self, app: Celeriac, options: WorkerOptions, heartbeat: Heartbeat,
                 ended: Callable[[Sequence[Ending]], None], is_crowded: Callable[[], bool]) -> None:  # fmt: skip
        self.pool: Pool  # set by the supervisor: the pool itself needs `freed`
        self.queues = list(options.queues)
        self.rates: dict[str, float | None] = {}  # by task; set by remote control, overrides the task's own
        self.limits: dict[str, tuple[float | None, float | None]] = {}  # by task: soft and hard, likewise
        self._app = app
        self._options = options
        self._heartbeat = heartbeat
        self._ended = ended
        self._is_crowded = is_crowded  # whether too many endings wait to be settled
        self._freed = asyncio.Event()
        self._waiting: tuple[asyncio.Task[Any], list[str], Slots] | None = None  # a request in progress
        self._cut_short = False  # the wait was cancelled, because other queues or lanes can be received now
        self._filled = True  # the last request filled a lane, so there may be more messages at once
        self._joined = app.broker.joins(app.backend)
        self._rate_limits = RateLimits()
        self._elsewhere = () if sends_callbacks(app) else (WEBHOOK,)  # built-in tasks of workers configured for them
        self._counted: dict[tuple[str, str], Counted] = {}  # by task and queue: what their deliveries count as
        self._unknown: dict[str, NotRegistered] = {}  # by name, because comparing it with all names takes long

    async def run(self) -> None:
        """Receive until cancelled."""
        pause = FIRST_PAUSE
        while True:
            lease = self._heartbeat.lease
            try:
                deliveries = await self._receive(lease)
                pause = FIRST_PAUSE
            except LeaseLost:
                self._heartbeat.outages.worked(RECEIVE)
                self._heartbeat.lost(lease)
                await asyncio.sleep(pause)
                continue
            except AccessRefused:
                raise
            except BrokerError as error:
                self._heartbeat.outages.failed(RECEIVE, error)
                self._filled = True  # look before waiting: the end of the outage is told when there is a reply
                await asyncio.sleep(pause)
                pause = next_pause(pause)
                continue
            if deliveries:
                await self.accept(deliveries)

    def freed(self) -> None:
        """Call this when slots may have become free, or the queues have changed."""
        self._freed.set()
        if self._waiting is not None and not self._cut_short:
            task, queues, slots = self._waiting
            if self._could_receive_more(queues, slots):
                self._cut_short = True
                task.cancel()

    def _could_receive_more(self, queues: Sequence[str], slots: Slots) -> bool:
        """Return whether a lane that had no free slot has one now, or the queues have changed."""
        if queues != self.queues:
            return True
        return not all(slots.values()) and any(free and not slots[lane] for lane, free in self.pool.free().items())

    async def _receive(self, lease: Lease) -> list[Delivery]:
        """Receive what is ready; else wait for a message, or for free slots in other lanes."""
        self._freed.clear()
        slots = self.pool.free()
        if not self.queues or not any(slots.values()) or self._is_crowded():
            await self._freed.wait()
            return []
        deliveries: list[Delivery] = []
        if self._filled:
            deliveries = await lease.receive(list(self.queues), slots, 0.0)
            self._heartbeat.outages.worked(RECEIVE)
        if not deliveries:
            deliveries = await self._wait(lease, slots)
        self._filled = bool(deliveries) and len(deliveries) in slots.values()
        return deliveries

    async def _wait(self, lease: Lease, slots: Slots) -> list[Delivery]:
        task, queues = asyncio.current_task(), list(self.queues)
        assert task is not None
        if self._could_receive_more(queues, slots):
            return []
        self._waiting = (task, queues, slots)
        try:
            return await lease.receive(queues, slots, WAIT_SECONDS)
        except asyncio.CancelledError:
            # No message is lost: `receive` is cancel-safe, it has taken its messages or none.
            if not self._cut_short or task.uncancel():
                raise
            return []
        finally:
            self._waiting, self._cut_short = None, False

    # --- Filtering ------------------------------------------------------------------------------------

    async def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Dispatch deliveries to the pool; report those that must not run now as ended."""
        start, endings = await self.admit(deliveries)
        if start:
            self.pool.dispatch(start)
        if endings:
            self._ended(endings)

    async def admit(self, deliveries: Sequence[Delivery]) -> tuple[list[Delivery], list[Ending]]:
        """Return the deliveries that can run, and the endings of the others.

        Redelivered ones whose outcome is already stored have ended: on two servers, a worker may die between storing an
        outcome and acknowledging its message. Such a message does not run again.
        """
        doubtful = [] if self._joined else list(filter(_may_have_ended, deliveries))
        if not doubtful:
            return self._sorted(deliveries)
        stored = await self._stored_outcomes([one.message.id for one in doubtful])
        ended = [Ending(delivery=one, outcome=stored[one.message.id]) for one in doubtful if one.message.id in stored]
        start, endings = self._sorted([one for one in deliveries if one.message.id not in stored])
        return start, ended + endings

    async def _stored_outcomes(self, ids: Sequence[str]) -> dict[str, Outcome]:
        """Return the final outcomes of tasks. Retries without end: without the backend nothing can be settled."""
        pause = FIRST_PAUSE
        while True:
            try:
                found = await self._app.backend.afetch(ids)
                self._heartbeat.outages.worked(LOOK)
                return {id: outcome for id, outcome in found.items() if outcome.ready}
            except AccessRefused:
                raise
            except (BrokerError, BackendError) as error:
                self._heartbeat.outages.failed(LOOK, error)
                await asyncio.sleep(pause)
                pause = next_pause(pause)

    def _sorted(self, deliveries: Sequence[Delivery]) -> tuple[list[Delivery], list[Ending]]:
        """Return what can run, and the endings of the rest."""
        now = self._app.clock.now()
        start: list[Delivery] = []
        endings: list[Ending] = []
        lanes: dict[str, str | None] = {}  # by task: its lane, if the task puts no limit on its messages
        received: dict[tuple[str, str], int] = {}
        recovered = 0
        task, queue, lane, row = "", "", None, 0  # a row of messages of one task and queue is looked up once
        for delivery in deliveries:
            message = delivery.message
            if message.task != task or message.queue != queue:
                received[task, queue] = received.get((task, queue), 0) + row
                task, queue, row = message.task, message.queue, 0
                if task not in lanes:
                    lanes[task] = self._unlimited_lane(task)
                lane = lanes[task]
            row += 1
            if delivery.deliveries > 1:
                recovered += 1
            if lane == message.lane and message.expires_at is None and not delivery.revoked and not delivery.lost:
                start.append(delivery)
                continue
            ending = self._refuse(delivery, now)
            if ending is not None:
                endings.append(ending)
            else:
                start.append(self._with_limits(delivery))
        received[task, queue] = received.get((task, queue), 0) + row
        received.pop(("", ""), None)  # the row before the first
        self._count(received, recovered)
        if signals.task_received.receivers:
            for delivery in start:
                self._tell_received(delivery)
        return start, endings

    def _tell_received(self, delivery: Delivery) -> None:
        request = request_of(self._app, delivery, self._options.name)
        signals.task_received.send(self._options.name, request=request)

    def _count(self, received: dict[tuple[str, str], int], recovered: int) -> None:
        counters = self._heartbeat.counters
        for kind, count in received.items():
            counted = self._counted.get(kind)
            if counted is None:
                task, queue = kind
                known = task in self._app.tasks or task in self._app.builtin_tasks
                if len(self._counted) >= MOST_UNKNOWN:
                    self._counted.clear()
                counted = self._counted[kind] = Counted(RECEIVED, task if known else UNKNOWN_TASK, queue)
            counters.count(counted, count)
        if recovered:
            counters.add(RECOVERED, recovered)

    def _unlimited_lane(self, name: str) -> str | None:
        """Return the lane of a task that is registered here and has no limits to check; else None."""
        task = self._app.tasks.get(name)
        if task is None or name in self.limits or self.rates.get(name, task.rate) is not None:
            return None
        return task.lane

    def _refuse(self, delivery: Delivery, now: float) -> Ending | None:
        """Return the ending of a delivery that must not run now; None if it may run."""
        message = delivery.message
        over = self._over(delivery, now)
        if over is not None:
            return over
        task = self._app.tasks.get(message.task) or self._app.builtin_tasks.get(message.task)
        if task is None or message.task in self._elsewhere:
            return self._unregistered(delivery, self._app.tasks)
        if task.lane != message.lane:
            # The sender did not know whether the function is plain or a coroutine.
            return Ending(delivery=delivery, given_back=True, lane=task.lane)
        return self._too_early(delivery, self.rates.get(message.task, task.rate), now)

    def _over(self, delivery: Delivery, now: float) -> Ending | None:
        """Return the ending of a delivery that must never run again; None if it may."""
        message = delivery.message
        if delivery.lost:
            return Ending(delivery=delivery, lost="lost with its worker")
        if delivery.revoked:
            return self._revoked(delivery, TaskRevoked(), now)
        if message.expires_at is not None and message.expires_at <= now:
            return self._revoked(delivery, TaskExpired(), now)
        return None

    def _too_early(self, delivery: Delivery, rate: float | None, now: float) -> Ending | None:
        """Return the ending of a delivery that comes too early for the rate limit of its task; else None."""
        message = delivery.message
        due_at = self._rate_limits.admit(message.id, message.task, rate, now) if rate is not None else None
        return Ending(delivery=delivery, given_back=True, due_at=due_at) if due_at is not None else None

    def _unregistered(self, delivery: Delivery, known: Iterable[str]) -> Ending:
        """Return the ending of a delivery whose task is not registered here; the error has the most similar name."""
        message, name = delivery.message, delivery.message.task
        if name not in self._unknown:
            if len(self._unknown) >= MOST_UNKNOWN:
                self._unknown.clear()
            self._unknown[name] = NotRegistered(name, filter(None, [closest(name, known)]))
        unknown = self._unknown[name]
        signals.task_unknown.send(self._options.name, message=message, name=name, id=message.id, exc=unknown)
        return Ending(delivery=delivery, unknown=unknown)

    def _revoked(self, delivery: Delivery, error: TaskRevoked, now: float) -> Ending:
        outcome = Outcome.failed(delivery.message, error, states.REVOKED, now, self._options.name)
        return Ending(delivery=delivery, outcome=outcome)

    def _with_limits(self, delivery: Delivery) -> Delivery:
        """Return the delivery with the time limits that remote control has set for its task."""
        message = delivery.message
        if message.task not in self.limits:
            return delivery
        soft, hard = self.limits[message.task]
        message = _replace(message, soft_time_limit=soft, time_limit=hard)
        return _replace(delivery, message=message)


def _may_have_ended(delivery: Delivery) -> bool:
    return delivery.deliveries > 1 or delivery.again or delivery.message.again or delivery.lost
