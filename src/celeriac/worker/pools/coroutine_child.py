"""A child that runs coroutines, many at a time, on one event loop.

It is a process forked by the fork server. It enforces time limits itself: it raises `SoftTimeLimitExceeded` or
`TimeLimitExceeded` where the coroutine awaits. A coroutine that blocks the loop cannot be interrupted: the supervisor
kills the child. The thread pool runs its coroutines with `run_limited` too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, NoReturn

from celeriac import signals, states
from celeriac.app.app import Celeriac
from celeriac.errors import CeleriacError, SoftTimeLimitExceeded, TaskRevoked, TimeLimitExceeded
from celeriac.model.message import COROUTINE, Message
from celeriac.model.outcome import Outcome
from celeriac.tasks.execution import Executor
from celeriac.worker.pools.child import exit_fork, state_outcome
from celeriac.worker.pools.frames import (
    NO_RUN,
    PERMIT,
    FrameDecoder,
    Interrupt,
    Ran,
    Ready,
    Run,
    StateReport,
    frame,
    parse_to_child,
)

__all__ = ["CoroutineChild", "Interruptible", "run_limited"]

log = logging.getLogger("celeriac.worker")

TERMINATED = "The task was terminated."
LINGER_SECONDS = 5.0  # at the exit: for asyncio tasks that the tasks have left on the loop

CANCELLING: Final[dict[type[CeleriacError], type[BaseException]]] = {
    kind: type(kind.__name__, (kind, asyncio.CancelledError),
               {"__module__": kind.__module__, "__qualname__": kind.__qualname__})
    for kind in (SoftTimeLimitExceeded, TimeLimitExceeded, TaskRevoked)
}  # fmt: skip
"""Interruptions that are also `CancelledError`s: a `TaskGroup` cancels its tasks at no other exception."""


class Interruptible:
    """An awaitable around a coroutine, into which an exception can be raised where the coroutine awaits.

    It cancels the asyncio task, and replaces the `CancelledError` by the exception.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.verdict: CeleriacError | None = None  # how the attempt ends, whatever the coroutine does
        self._reason: CeleriacError | None = None
        self._task: asyncio.Task[Any] | None = None

    def interrupt(self, reason: CeleriacError) -> None:
        """Raise `reason` where the coroutine awaits; if it has not started, instead of starting it."""
        if not isinstance(reason, SoftTimeLimitExceeded):
            self.verdict = reason
        if self._task is None:
            self._reason = reason
        elif not self._task.done():
            self._reason = reason
            self._task.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        self._task = asyncio.current_task()
        step: Callable[[Any], Any] = self._coroutine.send
        argument: Any = None
        if self._reason is not None:
            step, argument, self._reason = self._coroutine.throw, self._reason, None
        while True:
            try:
                awaited = step(argument)
            except StopIteration as stop:
                return stop.value
            try:
                argument = yield awaited
                step = self._coroutine.send
            except asyncio.CancelledError as cancelled:
                reason, self._reason = self._reason, None
                if reason is not None and self._task is not None:
                    self._task.uncancel()
                step = self._coroutine.throw
                argument = cancelled if reason is None else CANCELLING[type(reason)](*reason.args)
            except BaseException as error:  # noqa: BLE001 - what it awaited failed: the coroutine handles that
                step, argument = self._coroutine.throw, error


async def run_limited(executor: Executor, message: Message, deliveries: int,
                      started: Callable[[Interruptible], None]) -> Outcome:  # fmt: skip
    """Run a coroutine task within its time limits. Calls `started` with the means to interrupt it."""
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []
    interruptibles: list[Interruptible] = []

    def drive(coroutine: Coroutine[Any, Any, Any]) -> Interruptible:
        interruptible = Interruptible(coroutine)
        for limit, kind, name in (
            (message.soft_time_limit, SoftTimeLimitExceeded, "soft"),
            (message.time_limit, TimeLimitExceeded, "hard"),
        ):
            if limit is not None:
                reason = kind(f"The {name} time limit of {limit:g} s has passed.")
                timers.append(loop.call_later(limit, interruptible.interrupt, reason))
        interruptibles.append(interruptible)
        started(interruptible)
        return interruptible

    try:
        outcome = await executor.arun(message, deliveries, drive)
    finally:
        for timer in timers:
            timer.cancel()
    for interruptible in interruptibles:
        if interruptible.verdict is not None:
            state = states.REVOKED if isinstance(interruptible.verdict, TaskRevoked) else states.FAILURE
            verdict = Outcome.failed(message, interruptible.verdict, state, time.time(), outcome.worker,
                                     outcome.runtime)  # fmt: skip
            verdict.trace = outcome.trace
            return verdict
    return outcome


class CoroutineChild(asyncio.Protocol):
    """The main loop of a coroutine child."""

    def __init__(self, app: Celeriac, worker: str, sock: socket.socket, permits: int, reports_memory: bool) -> None:
        self._executor = Executor(app, worker, self._report)
        self._app = app
        self._worker = worker
        self._socket = sock
        self._permits = permits
        self._reports_memory = reports_memory
        self._decoder = FrameDecoder()
        self._runs: deque[Run] = deque()  # without a permit yet
        self._permitted: deque[int] = deque()  # permits whose runs have not come yet
        self._running: dict[int, tuple[asyncio.Task[None], Interruptible | None]] = {}
        self._indices: dict[int, int] = {}  # by `id(message)`: two runs may have the same task id
        self._interrupted: set[int] = set()
        self._outbox: list[bytes] = []
        self._pid = os.getpid()
        self._permits_closed = False  # there will be no more permits

    def work(self) -> None:
        """Run until the supervisor closes the pipe of permits."""
        runner = asyncio.Runner()  # never closed: closing waits for threads that tasks have left behind
        try:
            runner.run(self._work())
        except BaseException:  # noqa: BLE001 - to return would cancel the running tasks, which are not at fault
            self._die("The event loop of a child has failed; the tasks that ran on it are lost")

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        self._disconnected = asyncio.Event()
        self._transport, _ = await self._loop.create_unix_connection(lambda: self, sock=self._socket)
        self._loop.add_reader(self._permits, self._permits_came)
        signals.worker_process_init.send(self._worker, lane=COROUTINE)
        self._send(frame(Ready()))
        await self._done.wait()
        self._flush()
        self._transport.close()  # after everything is written
        await self._disconnected.wait()
        signals.worker_process_shutdown.send(self._worker, pid=self._pid, exitcode=0, lane=COROUTINE)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=LINGER_SECONDS)
        self._app.tracing.flush()

    def _end_if_done(self) -> None:
        """Exit when there will be no more permits, and every permitted run has ended."""
        if self._permits_closed and not self._running and not self._permitted:
            self._done.set()

    # --- Receiving ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take frames from the supervisor."""
        for content in self._decoder.feed(data):
            request = parse_to_child(content)
            if isinstance(request, Interrupt):
                self._interrupt(request.index)
            else:
                self._runs.extend(request.runs)
        self._start()

    def connection_lost(self, error: Exception | None) -> None:
        """Exit at once if the supervisor is gone: other workers will run these messages."""
        if error is not None or not self._done.is_set():
            os._exit(1)
        self._disconnected.set()

    def _permits_came(self) -> None:
        self._loop.remove_reader(self._permits)
        self._take_permit()

    def _take_permit(self) -> None:
        """Take one permit; take the next after the coroutine that it starts has had its first turn.

        So behind a coroutine that blocks from the start wait only permits, which the supervisor can recall.
        """
        try:
            data = os.read(self._permits, PERMIT.size)
        except BlockingIOError:
            self._loop.add_reader(self._permits, self._permits_came)
            return
        if not data:
            self._permits_closed = True
            self._end_if_done()
            return
        (index,) = PERMIT.unpack(data)
        if index != NO_RUN:
            self._permitted.append(index)
            self._start()
        self._loop.call_soon(self._take_permit)

    def _start(self) -> None:
        """Start every run that has come and is permitted."""
        while self._permitted and (run := self._run_of(self._permitted[0])) is not None:
            self._permitted.popleft()
            self._running[run.index] = (self._loop.create_task(self._run(run)), None)

    def _run_of(self, index: int) -> Run | None:
        """Return the run of a permit, if it has come. Both come in order: the runs before it were recalled."""
        while self._runs and self._runs[0].index <= index:
            run = self._runs.popleft()
            if run.index == index:
                return run
        return None

    # --- Running --------------------------------------------------------------------------------------

    async def _run(self, run: Run) -> None:
        index, identity = run.index, id(run.message)
        self._indices[identity] = index

        def started(interruptible: Interruptible) -> None:
            self._running[index] = (self._running[index][0], interruptible)
            if index in self._interrupted:
                interruptible.interrupt(TaskRevoked(TERMINATED))

        try:
            outcome = await run_limited(self._executor, run.message, run.deliveries, started)
            if os.getpid() != self._pid:
                exit_fork(outcome)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if self._reports_memory else 0
            self._send(frame(Ran(index, outcome, memory)))
        except BaseException:  # noqa: BLE001 - nothing awaits this asyncio task: an ending would be lost
            self._die("A child exits: it cannot report the outcome of %s[%s]", run.message.task, run.message.id)
        del self._running[index], self._indices[identity]
        self._interrupted.discard(index)
        self._end_if_done()

    def _die(self, why: str, *names: str) -> NoReturn:
        """Log the exception that is being handled, and exit. The runs of this child are lost."""
        log.critical(why, *names, exc_info=True)
        self._flush()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def _report(self, message: Message, state: str, value: bytes | None) -> None:
        index = self._indices.get(id(message))
        if index is None:
            return  # the task has ended, and left a thread behind
        data = frame(StateReport(index, state_outcome(message, state, value)))
        if threading.current_thread() is threading.main_thread():
            self._send(data)
        else:
            self._loop.call_soon_threadsafe(self._send, data)

    def _interrupt(self, index: int) -> None:
        interruptible = self._running.get(index, (None, None))[1]
        if interruptible is not None:
            interruptible.interrupt(TaskRevoked(TERMINATED))
        elif index in self._running or index in self._permitted:
            self._interrupted.add(index)  # it has not started yet

    # --- Sending --------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        if not self._outbox:
            self._loop.call_soon(self._flush)  # everything sent in this iteration of the loop goes in one write
        self._outbox.append(data)

    def _flush(self) -> None:
        if self._outbox:
            self._transport.write(b"".join(self._outbox))
            self._outbox.clear()
