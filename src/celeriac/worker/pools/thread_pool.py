"""A pool of threads in the supervisor's process: for tests, for debugging, and where processes cannot be used.

A thread cannot be killed. At the hard time limit the pool gives the attempt up: it reports the outcome, replaces the
thread, and ignores what the old thread still reports. A task that kills the process kills the worker, and its messages
go to other workers as those of any lost worker.
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
from celeriac.worker.pools.child import state_outcome
from celeriac.worker.pools.coroutine_child import Interruptible, run_limited
from celeriac.worker.pools.pool import Active, ChildInfo, Pool, Reports, give_back
from celeriac.worker.pools.worker_thread import INTERRUPTS, WorkerThread

__all__ = ["ThreadPool"]

log = logging.getLogger("celeriac.worker")

TICK_SECONDS = 0.02  # between two checks of time limits
BLOCKED_SECONDS = 1.0  # a coroutine that goes on this long after its hard limit is given up


class _Coroutine(msgspec.Struct):
    """An attempt of a coroutine task."""

    delivery: Delivery
    since: float  # monotonic; when it was sent to the loop, then when it started
    interruptible: Interruptible | None = None  # None: not started

    def is_overdue(self, now: float) -> bool:
        """Return whether it ignores its hard limit or blocks the loop: it goes on `BLOCKED_SECONDS` after the limit."""
        limit = self.delivery.message.time_limit
        return self.interruptible is not None and limit is not None and now - self.since >= limit + BLOCKED_SECONDS


class ThreadPool(Pool):
    """A pool of threads: one for each plain slot, and one with an event loop for all coroutines."""

    kind = "threads"

    def __init__(self, app: Celeriac, options: WorkerOptions, reports: Reports,
                 main_thread: WorkerThread | None = None) -> None:  # fmt: skip
        super().__init__(app, options, reports)
        self._main_thread = main_thread  # the only one of a solo worker
        self._wanted = 1 if main_thread is not None else options.concurrency
        self._coroutine_slots = options.capacity[COROUTINE]
        self._threads: list[WorkerThread] = []
        self._coroutines: dict[str, _Coroutine] = {}  # by token
        self._coroutine_loop: asyncio.AbstractEventLoop | None = None
        self._coroutines_done = 0
        self._executor = Executor(app, options.name, self._report)
        self._ticking: asyncio.TimerHandle | None = None

    # --- Start ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        while len(self._threads) < self._wanted:
            self._add_thread()
        if self._coroutine_slots and self._coroutine_loop is None:
            self._add_loop()

    def _add_thread(self) -> None:
        thread = self._main_thread
        if thread is None:
            thread = WorkerThread()
            threading.Thread(target=thread.run, name="celeriac-plain", daemon=True).start()
        self._threads.append(thread)

    def _add_loop(self) -> None:
        self._coroutine_loop = loop = asyncio.new_event_loop()
        threading.Thread(target=self._run_loop, args=(loop,), name="celeriac-coroutines", daemon=True).start()

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run an event loop until it is stopped, then cancel what is left in it, and close it."""
        try:
            loop.run_forever()
        except BaseException:
            log.critical("The event loop for coroutines has failed; the tasks that ran on it are lost", exc_info=True)
            self._loop.call_soon_threadsafe(self._loop_failed, loop)
            return
        loop.run_until_complete(_end_all(asyncio.all_tasks(loop)))
        loop.close()

    def _loop_failed(self, loop: asyncio.AbstractEventLoop) -> None:
        """Replace a failed event loop, as a dead child is replaced."""
        if loop is not self._coroutine_loop:
            return  # it was being stopped
        lost = [Ending(delivery=run.delivery, lost="its event loop failed") for run in self._coroutines.values()]
        self._coroutines.clear()
        self._add_loop()
        self._reports.ended(lost)
        self._reports.freed()

    def _stop_loop(self) -> None:
        """Stop the event loop, as soon as nothing blocks it."""
        if self._coroutine_loop is not None:
            self._coroutine_loop.call_soon_threadsafe(self._coroutine_loop.stop)
            self._coroutine_loop = None

    # --- Work -----------------------------------------------------------------------------------------

    def free(self) -> dict[str, int]:
        plain = sum(thread.running is None for thread in self._threads)
        if not self._coroutine_slots:  # the receiver moves messages of that lane to the plain one
            return {PLAIN: plain, COROUTINE: plain}
        return {PLAIN: plain, COROUTINE: self._coroutine_slots - len(self._coroutines)}

    def dispatch(self, deliveries: Sequence[Delivery]) -> None:
        unassigned = []
        for delivery in deliveries:
            if delivery.message.lane == COROUTINE:
                started = self._dispatch_coroutine(delivery)
            else:
                started = self._dispatch_plain(delivery)
            if not started:
                unassigned.append(Ending(delivery=delivery, given_back=True))
        if unassigned:
            self._reports.ended(unassigned)
        self._keep_ticking()

    def _dispatch_plain(self, delivery: Delivery) -> bool:
        thread = next((thread for thread in self._threads if thread.running is None), None)
        if thread is None:
            return False
        thread.running, thread.since, thread.warned = delivery, time.monotonic(), False

        def job() -> None:
            """Run the task and report its outcome, whatever is raised from outside at any moment."""
            outcome: Outcome | None = None
            raised: CeleriacError = TaskRevoked()
            while True:
                try:
                    if thread.start_job():
                        outcome = self._executor.run(delivery.message, delivery.deliveries)
                    if outcome is None:
                        state = states.REVOKED if isinstance(raised, TaskRevoked) else states.FAILURE
                        outcome = self._outcome(delivery, raised, state, time.monotonic() - thread.since)
                    self._loop.call_soon_threadsafe(self._plain_ended, thread, delivery, outcome)
                    return
                except INTERRUPTS as error:  # before it started, or just after it ended; reporting twice is harmless
                    raised = error

        thread.put(job)
        return True

    def _plain_ended(self, thread: WorkerThread, delivery: Delivery, outcome: Outcome) -> None:
        if thread.running is not delivery or thread.retired:
            return
        thread.running = None
        thread.done += 1
        self._remove_surplus()
        if thread.abandoned:
            thread.abandoned = False
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
        def started(interruptible: Interruptible) -> None:
            run.interruptible, run.since = interruptible, time.monotonic()

        if self._coroutines.get(run.delivery.token) is not run:
            return  # it was given back while the loop was blocked
        outcome = await run_limited(self._executor, run.delivery.message, run.delivery.deliveries, started)
        self._loop.call_soon_threadsafe(self._coroutine_ended, run.delivery, outcome)

    def _coroutine_ended(self, delivery: Delivery, outcome: Outcome) -> None:
        if self._coroutines.pop(delivery.token, None) is not None:
            self._coroutines_done += 1
            self._reports.ended([Ending(delivery=delivery, outcome=outcome)])
            self._reports.freed()

    def _report(self, message: Message, state: str, value: bytes | None) -> None:
        self._loop.call_soon_threadsafe(self._reports.reported, state_outcome(message, state, value))

    # --- Time limits ----------------------------------------------------------------------------------

    def _keep_ticking(self) -> None:
        running = [delivery.message for delivery, _ in self._plain_running()]
        limited = any(message.time_limit is not None or message.soft_time_limit is not None for message in running)
        limited = limited or any(run.delivery.message.time_limit is not None for run in self._coroutines.values())
        if limited and self._ticking is None:
            self._ticking = self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        now = time.monotonic()
        for thread in list(self._threads):
            if thread.running is None or thread.abandoned:
                continue
            message, elapsed = thread.running.message, now - thread.since
            if message.time_limit is not None and elapsed >= message.time_limit:
                error = TimeLimitExceeded(f"The hard time limit of {message.time_limit:g} s has passed.")
                self._give_up(thread, self._outcome(thread.running, error, states.FAILURE, elapsed))
            elif message.soft_time_limit is not None and elapsed >= message.soft_time_limit and not thread.warned:
                thread.warned = True
                thread.raise_inside(SoftTimeLimitExceeded)
        overdue = [run for run in self._coroutines.values() if run.is_overdue(now)]
        if overdue:
            self._give_up_coroutines(overdue, now)
        self._keep_ticking()

    def _give_up(self, thread: WorkerThread, outcome: Outcome) -> None:
        """Report the outcome of an attempt that goes on, and raise an exception in its thread, which may end it."""
        delivery = thread.running
        if delivery is None:
            return
        thread.raise_inside(TimeLimitExceeded if outcome.state == states.FAILURE else TaskRevoked)
        if thread is self._main_thread:
            thread.abandoned = True  # there is only one main thread: it is free when the task has ended
        else:
            thread.retired = True
            thread.stop()
            self._threads.remove(thread)
            if len(self._threads) < self._wanted:
                self._add_thread()
        self._reports.ended([Ending(delivery=delivery, outcome=outcome)])
        self._reports.freed()

    def _give_up_coroutines(self, overdue: list[_Coroutine], now: float) -> None:
        """Report the outcomes of attempts that go on. If one blocks the loop, replace it and give back the others."""
        endings = []
        for run in overdue:
            limit = run.delivery.message.time_limit
            error = TimeLimitExceeded(f"The hard time limit of {limit:g} s has passed, and the coroutine did not end.")
            outcome = self._outcome(run.delivery, error, states.FAILURE, now - run.since)
            endings.append(Ending(delivery=run.delivery, outcome=outcome))
            del self._coroutines[run.delivery.token]
        if any(run.interruptible is not None and run.interruptible.verdict is None for run in overdue):
            # The timers of the loop have not run: it is blocked.
            endings += [give_back(run.delivery, run.interruptible is not None) for run in self._coroutines.values()]
            self._coroutines.clear()
            self._stop_loop()
            self._add_loop()
        self._reports.ended(endings)
        self._reports.freed()

    def _outcome(self, delivery: Delivery, error: CeleriacError, state: str, elapsed: float) -> Outcome:
        return Outcome.failed(delivery.message, error, state, time.time(), self._options.name, elapsed)

    # --- Remote control --------------------------------------------------------------------------------

    def active(self) -> list[Active]:
        wall = time.time() - time.monotonic()
        coroutines = [(run.delivery, run.since) for run in self._coroutines.values()]
        return [Active(delivery, os.getpid(), wall + since) for delivery, since in self._plain_running() + coroutines]

    def _plain_running(self) -> list[tuple[Delivery, float]]:
        """Return the running plain attempts that were not given up, and since when (monotonic) they run."""
        return [(thread.running, thread.since) for thread in self._threads
                if thread.running is not None and not thread.abandoned]  # fmt: skip

    def children(self) -> list[ChildInfo]:
        pid = os.getpid()
        found = [ChildInfo(pid, PLAIN, thread.done, int(thread.running is not None)) for thread in self._threads]
        if self._coroutine_slots:
            found.append(ChildInfo(pid, COROUTINE, self._coroutines_done, len(self._coroutines)))
        return found

    def terminate(self, ids: Collection[str]) -> None:
        error = TaskRevoked("The task was terminated.")
        for thread in list(self._threads):
            if thread.running is not None and not thread.abandoned and thread.running.message.id in ids:
                elapsed = time.monotonic() - thread.since
                self._give_up(thread, self._outcome(thread.running, error, states.REVOKED, elapsed))
        for run in self._coroutines.values():
            if run.delivery.message.id in ids and run.interruptible is not None and self._coroutine_loop is not None:
                self._coroutine_loop.call_soon_threadsafe(run.interruptible.interrupt, error)

    def capacity(self) -> dict[str, int]:
        return {PLAIN: self._wanted, COROUTINE: self._coroutine_slots}

    def resize(self, change: int) -> int:
        if self._main_thread is not None:
            return self._wanted  # there is only one main thread
        self._wanted = max(1, self._wanted + change)
        while len(self._threads) < self._wanted:
            self._add_thread()
        self._remove_surplus()
        self._reports.freed()
        return self._wanted

    def _remove_surplus(self) -> None:
        """Stop free threads beyond the wanted number."""
        surplus = max(0, len(self._threads) - self._wanted)
        for thread in [thread for thread in self._threads if thread.running is None][:surplus]:
            thread.stop()
            self._threads.remove(thread)

    # --- Stop -----------------------------------------------------------------------------------------

    def recall(self) -> None:
        """Do nothing: nothing is sent ahead."""

    async def stop(self, abandon: bool, leave_seconds: float = 0.0) -> None:
        endings = [give_back(active.delivery) for active in self.active()]
        for thread in self._threads:
            if abandon and thread.running is not None:
                thread.raise_inside(TaskRevoked)
            if abandon and thread is self._main_thread:
                thread.abandoned = thread.running is not None
                continue  # there is only one main thread: it stays in use
            thread.retired = True
            thread.stop()
        self._threads.clear()
        self._coroutines.clear()
        self._stop_loop()
        if endings and not abandon:
            self._reports.ended(endings)


async def _end_all(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
