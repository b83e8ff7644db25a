"""Receiving: takes from the broker what free slots can start, looks it through, and hands it to the pool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace as _replace

from celeriac import states
from celeriac.app.app import Celeriac
from celeriac.errors import BackendError, BrokerError, LeaseLost, TaskExpired, TaskRevoked
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery, Lease, Slots
from celeriac.worker.decide import Ending
from celeriac.worker.heartbeat import FIRST_PAUSE, Heartbeat, longer
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pools.pool import Pool
from celeriac.worker.rates import RateLimits

__all__ = ["Receiver"]

log = logging.getLogger("celeriac.worker")

WAIT_SECONDS = 30.0


class Receiver:
    """Receives until it is stopped."""

    def __init__(self, app: Celeriac, options: WorkerOptions, pool: Pool, report: Callable[[Sequence[Ending]], None],
                 heartbeat: Heartbeat) -> None:  # fmt: skip
        self.queues = list(options.queues)
        self.rates: dict[str, float | None] = {}  # by task; set by control commands, over the tasks' own
        self.limits: dict[str, tuple[float | None, float | None]] = {}  # by task: soft and hard, likewise
        self._app = app
        self._options = options
        self._pool = pool
        self._report = report
        self._heartbeat = heartbeat
        self._freed = asyncio.Event()
        self._waits: tuple[asyncio.Task[Any], list[str], Slots] | None = None  # who, for which queues and slots
        self._cut_short = False  # the wait, for there are slots in other lanes
        self._hopes = True  # there may be more at once: the last receipt filled a lane
        self._joined = app.broker.joins(app.backend)
        self._rate_limits = RateLimits()

    async def run(self) -> None:
        """Receive, for ever."""
        pause = FIRST_PAUSE
        while True:
            lease = self._heartbeat.lease
            try:
                deliveries = await self._receive(lease)
                pause = FIRST_PAUSE
            except LeaseLost:
                self._heartbeat.lost(lease)
                await asyncio.sleep(pause)
                continue
            except BrokerError as error:
                log.warning("Cannot receive, trying again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                pause = longer(pause)
                continue
            if deliveries:
                await self.accept(deliveries)

    def freed(self) -> None:
        """Take note that there may be free slots, or that the queues are others."""
        self._freed.set()
        if self._waits is not None and not self._cut_short:
            task, queues, slots = self._waits
            if self._could_receive_more(queues, slots):
                self._cut_short = True
                task.cancel()

    def _could_receive_more(self, queues: Sequence[str], slots: Slots) -> bool:
        """Say whether a lane that had no free slot has one, or the queues are others."""
        if queues != self.queues:
            return True
        return not all(slots.values()) and any(free and not slots[lane] for lane, free in self._pool.free().items())

    async def _receive(self, lease: Lease) -> list[Delivery]:
        """Receive what there is; else wait for a message, or for free slots in other lanes."""
        self._freed.clear()
        slots = self._pool.free()
        if not self.queues or not any(slots.values()):
            await self._freed.wait()
            return []
        deliveries = await lease.receive(list(self.queues), slots, 0.0) if self._hopes else []
        if not deliveries:
            deliveries = await self._wait(lease, slots)
        self._hopes = bool(deliveries) and len(deliveries) in slots.values()
        return deliveries

    async def _wait(self, lease: Lease, slots: Slots) -> list[Delivery]:
        task, queues = asyncio.current_task(), list(self.queues)
        assert task is not None
        if self._could_receive_more(queues, slots):
            return []
        self._waits = (task, queues, slots)
        try:
            return await lease.receive(queues, slots, WAIT_SECONDS)
        except asyncio.CancelledError:
            # That is safe by the port's promise: it has taken its messages, or none.
            if not self._cut_short or task.uncancel():
                raise
            return []
        finally:
            self._waits, self._cut_short = None, False

    # --- Looking deliveries through -------------------------------------------------------------------

    async def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Do as `take`, but for what was handed out before and has ended: that is settled, and not run again.

        So a worker that died between storing an outcome and acknowledging its message has done no harm, where broker
        and backend are two servers that cannot do both at once.
        """
        doubtful = [] if self._joined else [one for one in deliveries if one.deliveries > 1 or one.again or one.lost]
        if doubtful:
            ended = await self._ended_before([one.message.id for one in doubtful])
            self._report([Ending(delivery=one, outcome=ended[one.message.id]) for one in doubtful
                          if one.message.id in ended])  # fmt: skip
            deliveries = [one for one in deliveries if one.message.id not in ended]
        self.take(deliveries)

    async def _ended_before(self, ids: Sequence[str]) -> dict[str, Outcome]:
        """Return the final outcomes of tasks, however long it takes: without the backend nothing can be settled."""
        pause = FIRST_PAUSE
        while True:
            try:
                found = await self._app.backend.afetch(ids)
                return {id: outcome for id, outcome in found.items() if outcome.ready}
            except (BrokerError, BackendError) as error:
                log.warning("Cannot ask the backend what has ended, trying again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                pause = longer(pause)

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Hand to the pool what can run; report the rest as ended."""
        now = self._app.clock.now()
        start: list[Delivery] = []
        endings: list[Ending] = []
        free: dict[str, str | None] = {}  # by task: its lane, where the task itself lets every message start
        for delivery in deliveries:
            message = delivery.message
            if message.task not in free:
                free[message.task] = self._free_lane(message.task)
            if (
                free[message.task] == message.lane
                and message.expires_at is None
                and not delivery.revoked
                and not delivery.lost
            ):
                start.append(delivery)
                continue
            ending = self._refuse(delivery, now)
            if ending is not None:
                endings.append(ending)
            else:
                start.append(self._limited(delivery))
        if start:
            self._pool.dispatch(start)
        if endings:
            self._report(endings)

    def _free_lane(self, name: str) -> str | None:
        """Return the lane of a task that is known here and has no limits to be looked at; else None."""
        task = self._app.tasks.get(name)
        if task is None or name in self.limits or self.rates.get(name, task.rate) is not None:
            return None
        return task.lane

    def _refuse(self, delivery: Delivery, now: float) -> Ending | None:
        """Return how a delivery ends that is not to be run now; None where it is."""
        message = delivery.message
        if delivery.lost:
            return Ending(delivery=delivery, lost="lost with its worker")
        if delivery.revoked:
            return self._ended(delivery, TaskRevoked(), now)
        if message.expires_at is not None and message.expires_at <= now:
            return self._ended(delivery, TaskExpired(), now)
        task = self._app.tasks.get(message.task) or self._app.builtin_tasks.get(message.task)
        if task is None:
            log.warning("Nobody here knows the task %s[%s]; it goes back to its queue. Is another app using this "
                        "broker_url?", message.task, message.id)  # fmt: skip
            return Ending(delivery=delivery, unknown=True)
        if task.lane != message.lane:
            # Sent by somebody who did not know the function.
            return Ending(delivery=delivery, given_back=True, lane=task.lane)
        rate = self.rates.get(message.task, task.rate)
        if rate is not None:
            due_at = self._rate_limits.admit(message.id, message.task, rate, now)
            if due_at is not None:
                return Ending(delivery=delivery, given_back=True, due_at=due_at)
        return None

    def _ended(self, delivery: Delivery, error: TaskRevoked, now: float) -> Ending:
        outcome = Outcome.failed(delivery.message, error, states.REVOKED, now, self._options.name)
        return Ending(delivery=delivery, outcome=outcome)

    def _limited(self, delivery: Delivery) -> Delivery:
        """Return the delivery with the time limits that a control command has set."""
        message = delivery.message
        if message.task not in self.limits:
            return delivery
        soft, hard = self.limits[message.task]
        message = _replace(message, soft_time_limit=soft, time_limit=hard)
        return _replace(delivery, message=message)
