"""Children as threads of the supervisor's own process: for tests, for debugging, and where processes cannot be had.

What a thread runs cannot be killed. At the hard time limit the attempt is given up: its outcome is recorded, another
thread takes the place, and what the old one still says is not heard. The promises about killed children do not arise
here; a task that takes the process down takes the worker down, and its messages go to others as those of any lost
worker.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from celeriac import states
from celeriac.app.app import Celeriac
from celeriac.errors import CeleriacError, SoftTimeLimitExceeded, TaskRevoked, TimeLimitExceeded
from celeriac.model.message import COROUTINE, PLAIN, Message
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery
from celeriac.tasks.execution import Executor
from celeriac.worker.decide import Ending
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pools.child import told
from celeriac.worker.pools.coroutine_child import Interruptible, run_limited
from celeriac.worker.pools.pool import Active, ChildInfo, Pool, Reports, given_back
from celeriac.worker.pools.worker_thread import INTERRUPTS, WorkerThread

__all__ = ["ThreadPool"]

log = logging.getLogger("celeriac.worker")

TICK_SECONDS = 0.02
BLOCKED_SECONDS = 1.0  # a coroutine that has not ended so long after its hard limit never may


class _Coroutine(msgspec.Struct):
    """An attempt of a coroutine task, on the loop."""

    delivery: Delivery
    since: float  # monotonic; when it was sent to the loop, then when it began
    begun: Interruptible | None = None

    def is_overdue(self, now: float) -> bool:
        """Say whether it goes on so long after its hard limit that it takes no notice of it, or blocks the loop."""
        limit = self.delivery.message.time_limit
        return self.begun is not None and limit is not None and now - self.since >= limit + BLOCKED_SECONDS


class ThreadPool(Pool):
    """A pool of threads: one for each plain slot, and one event loop for all coroutines."""

    kind = "threads"

    def __init__(self, app: Celeriac, options: WorkerOptions, reports: Reports,
                 seat: WorkerThread | None = None) -> None:  # fmt: skip
        super().__init__(app, options, reports)
        self._own_seat = seat
        self._wanted = 1 if seat is not None else options.concurrency
        self._coroutine_slots = options.capacity[COROUTINE]
        self._seats: list[WorkerThread] = []
        self._coroutines: dict[str, _Coroutine] = {}  # by token
        self._coroutine_loop: asyncio.AbstractEventLoop | None = None
        self._coroutines_done = 0
        self._executor = Executor(app, options.name, self._tell)
        self._ticking: asyncio.TimerHandle | None = None

    # --- Start ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        while len(self._seats) < self._wanted:
            self._add_seat()
        if self._coroutine_slots and self._coroutine_loop is None:
            self._add_loop()

    def _add_seat(self) -> None:
        seat = self._own_seat
        if seat is None:
            seat = WorkerThread()
            threading.Thread(target=seat.occupy, name="celeriac-plain", daemon=True).start()
        self._seats.append(seat)

    def _add_loop(self) -> None:
        self._coroutine_loop = loop = asyncio.new_event_loop()
        threading.Thread(target=self._run_loop, args=(loop,), name="celeriac-coroutines", daemon=True).start()

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run a loop until it is stopped, then end what is left in it, and close it."""
        try:
            loop.run_forever()
        except BaseException:
            log.critical("The loop has broken: what runs on it is lost", exc_info=True)
            self._loop.call_soon_threadsafe(self._loop_broke, loop)
            return
        loop.run_until_complete(_end_all(asyncio.all_tasks(loop)))
        loop.close()

    def _loop_broke(self, loop: asyncio.AbstractEventLoop) -> None:
        """Replace a loop, as a child that has died is replaced."""
        if loop is not self._coroutine_loop:
            return  # it was to be stopped
        lost = [Ending(delivery=run.delivery, lost="its loop has broken") for run in self._coroutines.values()]
        self._coroutines.clear()
        self._add_loop()
        self._reports.ended(lost)
        self._reports.freed()

    def _leave_loop(self) -> None:
        """Stop the loop, as soon as nothing blocks it."""
        if self._coroutine_loop is not None:
            self._coroutine_loop.call_soon_threadsafe(self._coroutine_loop.stop)
            self._coroutine_loop = None

    # --- Work -----------------------------------------------------------------------------------------

    def free(self) -> dict[str, int]:
        plain = sum(seat.running is None for seat in self._seats)
        if not self._coroutine_slots:  # what is in that lane has another now, which the receiver gives it
            return {PLAIN: plain, COROUTINE: plain}
        return {PLAIN: plain, COROUTINE: self._coroutine_slots - len(self._coroutines)}

    def dispatch(self, deliveries: Sequence[Delivery]) -> None:
        homeless = []
        for delivery in deliveries:
            if delivery.message.lane == COROUTINE:
                taken = self._dispatch_coroutine(delivery)
            else:
                taken = self._dispatch_plain(delivery)
            if not taken:
                homeless.append(Ending(delivery=delivery, given_back=True))
        if homeless:
            self._reports.ended(homeless)
        self._keep_ticking()

    def _dispatch_plain(self, delivery: Delivery) -> bool:
        seat = next((seat for seat in self._seats if seat.running is None), None)
        if seat is None:
            return False
        seat.running, seat.since, seat.warned = delivery, time.monotonic(), False

        def job() -> None:
            """Run the task, and say how it ended, whatever is raised from outside, and when."""
            outcome: Outcome | None = None
            raised: CeleriacError = TaskRevoked()
            while True:
                try:
                    if seat.take():
                        outcome = self._executor.run(delivery.message, delivery.deliveries)
                    if outcome is None:
                        state = states.REVOKED if isinstance(raised, TaskRevoked) else states.FAILURE
                        outcome = self._verdict(delivery, raised, state, time.monotonic() - seat.since)
                    self._loop.call_soon_threadsafe(self._plain_ended, seat, delivery, outcome)
                    return
                except INTERRUPTS as error:  # before it had begun, or as it had ended; telling twice does no harm
                    raised = error

        seat.put(job)
        return True

    def _plain_ended(self, seat: WorkerThread, delivery: Delivery, outcome: Outcome) -> None:
        if seat.running is not delivery or seat.given_up:
            return
        seat.running = None
        seat.done += 1
        self._dismiss()
        if seat.disowned:
            seat.disowned = False
        else:
            self._reports.ended([Ending(delivery=delivery, outcome=outcome)])
        self._reports.freed()

    def _dispatch_coroutine(self, delivery: Delivery) -> bool:
        if self._coroutine_loop is None or len(self._coroutines) >= self._coroutine_slots:
            return False
        run = self._coroutines[delivery.token] = _Coroutine(delivery, time.monotonic())
        asyncio.run_coroutine_threadsafe(self._run_coroutine(run), self._coroutine_loop)
        return True

    async def _run_coroutine(self, run: _Coroutine) -> None:
        def begun(interruptible: Interruptible) -> None:
            run.begun, run.since = interruptible, time.monotonic()

        if self._coroutines.get(run.delivery.token) is not run:
            return  # the loop was blocked, and it was given back
        outcome = await run_limited(self._executor, run.delivery.message, run.delivery.deliveries, begun)
        self._loop.call_soon_threadsafe(self._coroutine_ended, run.delivery, outcome)

    def _coroutine_ended(self, delivery: Delivery, outcome: Outcome) -> None:
        if self._coroutines.pop(delivery.token, None) is not None:
            self._coroutines_done += 1
            self._reports.ended([Ending(delivery=delivery, outcome=outcome)])
            self._reports.freed()

    def _tell(self, message: Message, state: str, meta: Any) -> None:
        self._loop.call_soon_threadsafe(self._reports.told, told(message, state, meta))

    # --- Watch ----------------------------------------------------------------------------------------

    def _keep_ticking(self) -> None:
        running = [seat.running.message for seat in self._seats if seat.running is not None and not seat.disowned]
        limited = any(message.time_limit is not None or message.soft_time_limit is not None for message in running)
        limited = limited or any(run.delivery.message.time_limit is not None for run in self._coroutines.values())
        if limited and self._ticking is None:
            self._ticking = self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        now = time.monotonic()
        for seat in list(self._seats):
            if seat.running is None or seat.disowned:
                continue
            message, elapsed = seat.running.message, now - seat.since
            if message.time_limit is not None and elapsed >= message.time_limit:
                error = TimeLimitExceeded(f"The hard time limit of {message.time_limit:g} s has passed.")
                self._give_up(seat, self._verdict(seat.running, error, states.FAILURE, elapsed))
            elif message.soft_time_limit is not None and elapsed >= message.soft_time_limit and not seat.warned:
                seat.warned = True
                seat.raise_inside(SoftTimeLimitExceeded)
        overdue = [run for run in self._coroutines.values() if run.is_overdue(now)]
        if overdue:
            self._give_up_coroutines(overdue, now)
        self._keep_ticking()

    def _give_up(self, seat: WorkerThread, outcome: Outcome) -> None:
        """Record how an attempt ended that goes on; if it can be ended at all, that is by the exception."""
        delivery = seat.running
        if delivery is None:
            return
        seat.raise_inside(TimeLimitExceeded if outcome.state == states.FAILURE else TaskRevoked)
        if seat is self._own_seat:
            seat.disowned = True  # there is but one main thread: it is free when the exception has done its work
        else:
            seat.given_up = True
            seat.leave()
            self._seats.remove(seat)
            if len(self._seats) < self._wanted:
                self._add_seat()
        self._reports.ended([Ending(delivery=delivery, outcome=outcome)])
        self._reports.freed()

    def _give_up_coroutines(self, overdue: list[_Coroutine], now: float) -> None:
        """Record how attempts ended that go on; if one blocks the loop, those that share it begin again on another."""
        endings = []
        for run in overdue:
            limit = run.delivery.message.time_limit
            error = TimeLimitExceeded(f"The hard time limit of {limit:g} s has passed; the coroutine went on.")
            outcome = self._verdict(run.delivery, error, states.FAILURE, now - run.since)
            endings.append(Ending(delivery=run.delivery, outcome=outcome))
            del self._coroutines[run.delivery.token]
        if any(run.begun is not None and run.begun.verdict is None for run in overdue):  # the loop's timers are late
            endings += [given_back(run.delivery, run.begun is not None) for run in self._coroutines.values()]
            self._coroutines.clear()
            self._leave_loop()
            self._add_loop()
        self._reports.ended(endings)
        self._reports.freed()

    def _verdict(self, delivery: Delivery, error: CeleriacError, state: str, elapsed: float) -> Outcome:
        return Outcome.failed(delivery.message, error, state, time.time(), self._options.name, elapsed)

    # --- Look and operate -----------------------------------------------------------------------------

    def active(self) -> list[Active]:
        wall = time.time() - time.monotonic()
        plain = [(seat.running, seat.since) for seat in self._seats if seat.running is not None and not seat.disowned]
        coroutines = [(run.delivery, run.since) for run in self._coroutines.values()]
        return [Active(delivery, os.getpid(), wall + since) for delivery, since in plain + coroutines]

    def children(self) -> list[ChildInfo]:
        found = [ChildInfo(os.getpid(), PLAIN, seat.done, int(seat.running is not None)) for seat in self._seats]
        if self._coroutine_slots:
            found.append(ChildInfo(os.getpid(), COROUTINE, self._coroutines_done, len(self._coroutines)))
        return found

    def terminate(self, ids: Collection[str]) -> None:
        error = TaskRevoked("The task was terminated.")
        for seat in list(self._seats):
            if seat.running is not None and not seat.disowned and seat.running.message.id in ids:
                elapsed = time.monotonic() - seat.since
                self._give_up(seat, self._verdict(seat.running, error, states.REVOKED, elapsed))
        for run in self._coroutines.values():
            if run.delivery.message.id in ids and run.begun is not None and self._coroutine_loop is not None:
                self._coroutine_loop.call_soon_threadsafe(run.begun.interrupt, error)

    def capacity(self) -> dict[str, int]:
        return {PLAIN: self._wanted, COROUTINE: self._coroutine_slots}

    def resize(self, change: int) -> int:
        if self._own_seat is not None:
            return self._wanted  # there is but one main thread
        self._wanted = max(1, self._wanted + change)
        while len(self._seats) < self._wanted:
            self._add_seat()
        self._dismiss()
        self._reports.freed()
        return self._wanted

    def _dismiss(self) -> None:
        """Let go of seats that are too many, as soon as they are free."""
        for seat in [seat for seat in self._seats if seat.running is None][: max(0, len(self._seats) - self._wanted)]:
            seat.leave()
            self._seats.remove(seat)

    # --- Stop -----------------------------------------------------------------------------------------

    def call_back(self) -> None:
        """Do nothing: nothing is sent ahead."""

    async def stop(self, abandon: bool) -> None:
        endings = [given_back(active.delivery) for active in self.active()]
        for seat in self._seats:
            if abandon and seat.running is not None:
                seat.raise_inside(TaskRevoked)
            if abandon and seat is self._own_seat:
                seat.disowned = seat.running is not None
                continue  # there is but one main thread: it stays for what comes
            seat.given_up = True
            seat.leave()
        self._seats.clear()
        self._coroutines.clear()
        self._leave_loop()
        if endings and not abandon:
            self._reports.ended(endings)


async def _end_all(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
