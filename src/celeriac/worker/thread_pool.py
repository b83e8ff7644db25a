"""Children as threads of the supervisor's own process: for tests, for debugging, and where processes cannot be had.

What a thread runs cannot be killed. At the hard time limit the attempt is given up: its outcome is recorded, another
thread takes the place, and what the old one still says is not heard. The promises about killed children do not arise
here; a task that takes the process down takes the worker down, and its messages go to others as those of any lost
worker.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from celeriac import states
from celeriac.app import Celeriac
from celeriac.brokers.base import Delivery
from celeriac.errors import CeleriacError, SoftTimeLimitExceeded, TaskRevoked, TimeLimitExceeded
from celeriac.execution import Executor
from celeriac.message import COROUTINE, PLAIN, Message
from celeriac.outcome import Outcome
from celeriac.worker.child import told
from celeriac.worker.coroutine_child import Interruptible, run_limited
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pool import Active, ChildInfo, Pool, Reports
from celeriac.worker.settle import Ending

__all__ = ["Seat", "ThreadPool"]

log = logging.getLogger("celeriac.worker")

TICK_SECONDS = 0.02
INTERRUPTS = (SoftTimeLimitExceeded, TimeLimitExceeded, TaskRevoked)
"""What `Seat.raise_inside` raises."""

Job = Callable[[], None]


class Seat:
    """A place where one plain task at a time is run: a thread that waits for jobs."""

    def __init__(self) -> None:
        self.thread_id = 0
        self.done = 0
        self.running: Delivery | None = None
        self.since = 0.0
        self.warned = False
        self.given_up = False
        self.disowned = False  # what it runs belongs to another worker: how that ends is of no interest
        self.left = threading.Event()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def occupy(self) -> None:
        """Do jobs in this thread, until `leave`."""
        self.thread_id = threading.get_ident()
        while True:
            try:
                job = self._jobs.get()
                if job is None:
                    self.left.set()
                    return
                job()
            except INTERRUPTS:
                pass  # meant for a job that had just ended

    def put(self, job: Job) -> None:
        """Give the seat a job."""
        self._jobs.put(job)

    def leave(self) -> None:
        """Let the seat's thread go, when it has done its job."""
        self._jobs.put(None)

    def raise_inside(self, kind: type[BaseException]) -> None:
        """Raise an exception in the thread, as soon as it runs Python code."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread_id), ctypes.py_object(kind))


class ThreadPool(Pool):
    """A pool of threads: one for each plain slot, and one event loop for all coroutines."""

    kind = "threads"

    def __init__(self, app: Celeriac, options: WorkerOptions, reports: Reports, seat: Seat | None = None) -> None:
        super().__init__(app, options, reports)
        self._own_seat = seat
        self._wanted = 1 if seat is not None else options.concurrency
        self._coroutine_slots = options.capacity[COROUTINE]
        self._seats: list[Seat] = []
        self._coroutines: dict[str, tuple[Delivery, float, Interruptible | None]] = {}  # by token
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
            seat = Seat()
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
        lost = [Ending(delivery=delivery, lost="its loop has broken") for delivery, _, _ in self._coroutines.values()]
        self._coroutines.clear()
        self._add_loop()
        self._reports.ended(lost)
        self._reports.freed()

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
            outcome = None
            try:
                outcome = self._executor.run(delivery.message, delivery.deliveries)
            except INTERRUPTS as error:
                # Raised from outside, at the very moment when the task had ended.
                state = states.REVOKED if isinstance(error, TaskRevoked) else states.FAILURE
                outcome = outcome or self._verdict(delivery, error, state, time.monotonic() - seat.since)
            while True:
                try:
                    self._loop.call_soon_threadsafe(self._plain_ended, seat, delivery, outcome)
                    return
                except INTERRUPTS:
                    pass  # raised from outside, too late; to say it twice does no harm

        seat.put(job)
        return True

    def _plain_ended(self, seat: Seat, delivery: Delivery, outcome: Outcome) -> None:
        if seat.running is not delivery or seat.given_up:
            return
        seat.running = None
        seat.done += 1
        if seat.disowned:
            seat.disowned = False
        else:
            self._reports.ended([Ending(delivery=delivery, outcome=outcome)])
        self._reports.freed()

    def _dispatch_coroutine(self, delivery: Delivery) -> bool:
        if self._coroutine_loop is None or len(self._coroutines) >= self._coroutine_slots:
            return False
        self._coroutines[delivery.token] = (delivery, time.monotonic(), None)
        asyncio.run_coroutine_threadsafe(self._run_coroutine(delivery), self._coroutine_loop)
        return True

    async def _run_coroutine(self, delivery: Delivery) -> None:
        def begun(interruptible: Interruptible) -> None:
            entry = self._coroutines.get(delivery.token)
            if entry is not None:
                self._coroutines[delivery.token] = (*entry[:2], interruptible)

        outcome = await run_limited(self._executor, delivery.message, delivery.deliveries, begun)
        self._loop.call_soon_threadsafe(self._coroutine_ended, delivery, outcome)

    def _coroutine_ended(self, delivery: Delivery, outcome: Outcome) -> None:
        if self._coroutines.pop(delivery.token, None) is not None:
            self._coroutines_done += 1
            self._reports.ended([Ending(delivery=delivery, outcome=outcome)])
            self._reports.freed()

    def _tell(self, message: Message, state: str, meta: Any) -> None:
        self._loop.call_soon_threadsafe(self._reports.told, told(message, state, meta))

    # --- Watch ----------------------------------------------------------------------------------------

    def _keep_ticking(self) -> None:
        limited = any(
            seat.running is not None
            and (seat.running.message.time_limit is not None or seat.running.message.soft_time_limit is not None)
            for seat in self._seats
        )
        if limited and self._ticking is None:
            self._ticking = self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        now = time.monotonic()
        for seat in list(self._seats):
            if seat.running is None:
                continue
            message, elapsed = seat.running.message, now - seat.since
            if message.time_limit is not None and elapsed >= message.time_limit:
                error = TimeLimitExceeded(f"The hard time limit of {message.time_limit:g} s has passed.")
                self._give_up(seat, self._verdict(seat.running, error, states.FAILURE, elapsed))
            elif message.soft_time_limit is not None and elapsed >= message.soft_time_limit and not seat.warned:
                seat.warned = True
                seat.raise_inside(SoftTimeLimitExceeded)
        self._keep_ticking()

    def _give_up(self, seat: Seat, outcome: Outcome) -> None:
        """Record how an attempt ended that goes on; if it can be ended at all, that is by the exception."""
        delivery = seat.running
        if delivery is None:
            return
        seat.raise_inside(TimeLimitExceeded if outcome.state == states.FAILURE else TaskRevoked)
        if seat is self._own_seat:
            return  # there is but one main thread: it ends when the exception does its work
        seat.given_up = True
        seat.leave()
        self._seats.remove(seat)
        self._add_seat()
        self._reports.ended([Ending(delivery=delivery, outcome=outcome)])
        self._reports.freed()

    def _verdict(self, delivery: Delivery, error: CeleriacError, state: str, elapsed: float) -> Outcome:
        return Outcome.failed(delivery.message, error, state, time.time(), self._options.name, elapsed)

    # --- Look and operate -----------------------------------------------------------------------------

    def active(self) -> list[Active]:
        wall = time.time() - time.monotonic()
        plain = [(seat.running, seat.since) for seat in self._seats if seat.running is not None]
        coroutines = [(delivery, since) for delivery, since, _ in self._coroutines.values()]
        return [Active(delivery, os.getpid(), wall + since) for delivery, since in plain + coroutines]

    def children(self) -> list[ChildInfo]:
        found = [ChildInfo(os.getpid(), PLAIN, seat.done, int(seat.running is not None)) for seat in self._seats]
        if self._coroutine_slots:
            found.append(ChildInfo(os.getpid(), COROUTINE, self._coroutines_done, len(self._coroutines)))
        return found

    def terminate(self, ids: Collection[str]) -> None:
        error = TaskRevoked("The task was terminated.")
        for seat in list(self._seats):
            if seat.running is not None and seat.running.message.id in ids:
                elapsed = time.monotonic() - seat.since
                self._give_up(seat, self._verdict(seat.running, error, states.REVOKED, elapsed))
        for delivery, _, interruptible in list(self._coroutines.values()):
            if delivery.message.id in ids and interruptible is not None and self._coroutine_loop is not None:
                self._coroutine_loop.call_soon_threadsafe(interruptible.interrupt, error)

    def resize(self, change: int) -> None:
        if self._own_seat is not None:
            return
        self._wanted = max(1, self._wanted + change)
        while len(self._seats) < self._wanted:
            self._add_seat()
        for seat in [seat for seat in self._seats if seat.running is None][: len(self._seats) - self._wanted]:
            seat.leave()
            self._seats.remove(seat)
        self._reports.freed()

    # --- Stop -----------------------------------------------------------------------------------------

    def call_back(self) -> None:
        """Do nothing: nothing is sent ahead."""

    async def stop(self, abandon: bool) -> None:
        endings = []
        for active in self.active():
            if active.delivery.message.acks_late:
                endings.append(Ending(delivery=active.delivery, given_back=True))
            else:
                endings.append(Ending(delivery=active.delivery, lost="stopped with its worker"))
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
        if self._coroutine_loop is not None:
            self._coroutine_loop.call_soon_threadsafe(self._coroutine_loop.stop)
            self._coroutine_loop = None
        if endings and not abandon:
            self._reports.ended(endings)


async def _end_all(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
