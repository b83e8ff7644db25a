"""A child that runs coroutines, many at a time, on one event loop.

Time limits are kept here: at the soft one `SoftTimeLimitExceeded` is raised where the coroutine waits, at the hard one
`TimeLimitExceeded`. A coroutine that blocks the loop cannot be interrupted from inside: the supervisor kills the child.
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
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, NoReturn

from celeriac import signals, states
from celeriac.app.app import Celeriac
from celeriac.errors import CeleriacError, SoftTimeLimitExceeded, TaskRevoked, TimeLimitExceeded
from celeriac.model.message import COROUTINE, Message
from celeriac.model.outcome import Outcome
from celeriac.tasks.execution import Executor
from celeriac.worker.pools.child import leave, told
from celeriac.worker.pools.frames import (
    NOTHING,
    PERMIT,
    Frames,
    Interrupt,
    Ran,
    Ready,
    Run,
    Told,
    frame,
    parse_to_child,
)

__all__ = ["CoroutineChild", "Interruptible", "run_limited"]

log = logging.getLogger("celeriac.worker")

TERMINATED = "The task was terminated."
LINGER_SECONDS = 5.0  # so long may what tasks have left behind on the loop take to end, when the child is to end

CANCELLING: Final[dict[type[CeleriacError], type[BaseException]]] = {
    kind: type(kind.__name__, (kind, asyncio.CancelledError),
               {"__module__": kind.__module__, "__qualname__": kind.__qualname__})
    for kind in (SoftTimeLimitExceeded, TimeLimitExceeded, TaskRevoked)
}  # fmt: skip
"""Interruptions that `asyncio` takes for cancellations too: a `TaskGroup` ends its tasks at no other exception."""


class Interruptible:
    """A coroutine into which an exception can be raised where it waits.

    Cancelling its asyncio task would raise `CancelledError` there; this puts another exception in its place.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.verdict: CeleriacError | None = None  # how it has ended, whatever it makes of the interruption
        self._reason: CeleriacError | None = None
        self._task: asyncio.Task[Any] | None = None

    def interrupt(self, reason: CeleriacError) -> None:
        """Raise `reason` inside the coroutine, at its next chance; before it has begun, in place of beginning."""
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
                waits_for = step(argument)
            except StopIteration as stop:
                return stop.value
            try:
                argument = yield waits_for
                step = self._coroutine.send
            except asyncio.CancelledError as cancelled:
                reason, self._reason = self._reason, None
                if reason is not None and self._task is not None:
                    self._task.uncancel()
                step = self._coroutine.throw
                argument = cancelled if reason is None else CANCELLING[type(reason)](*reason.args)
            except BaseException as error:  # noqa: BLE001 - what it waited for failed: that is the coroutine's to handle
                step, argument = self._coroutine.throw, error


async def run_limited(executor: Executor, message: Message, deliveries: int,
                      begun: Callable[[Interruptible], None]) -> Outcome:  # fmt: skip
    """Run a coroutine task within its time limits; `begun` is handed what can interrupt it."""
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
        begun(interruptible)
        return interruptible

    try:
        outcome = await executor.arun(message, deliveries, drive)
    finally:
        for timer in timers:
            timer.cancel()
    for interruptible in interruptibles:
        if interruptible.verdict is not None:
            state = states.REVOKED if isinstance(interruptible.verdict, TaskRevoked) else states.FAILURE
            return Outcome.failed(message, interruptible.verdict, state, time.time(), outcome.worker, outcome.runtime)
    return outcome


class CoroutineChild(asyncio.Protocol):
    """The loop of a coroutine child."""

    def __init__(self, app: Celeriac, worker: str, link: socket.socket, permits: int, reports_memory: bool) -> None:
        self._executor = Executor(app, worker, self._tell)
        self._socket = link
        self._permits = permits
        self._reports_memory = reports_memory
        self._frames = Frames()
        self._sent: dict[int, Run] = {}  # runs whose permits were not taken yet
        self._claimed: list[int] = []  # permits whose runs did not come yet
        self._running: dict[int, tuple[asyncio.Task[None], Interruptible | None]] = {}
        self._indices: dict[int, int] = {}  # of what runs, by the message object: a task may run twice at once
        self._interrupted: set[int] = set()
        self._out: list[bytes] = []
        self._pid = os.getpid()
        self._hung_up = False  # there will be no more permits

    def work(self) -> None:
        """Run what comes, until the supervisor hangs up."""
        runner = asyncio.Runner()  # never closed: that would wait for threads which tasks have left behind
        try:
            runner.run(self._work())
        except BaseException:  # noqa: BLE001 - to go on would cancel what runs, which then had ended by its own fault
            self._die("The loop has broken: what runs on it is lost")

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        self._disconnected = asyncio.Event()
        self._transport, _ = await self._loop.create_unix_connection(lambda: self, sock=self._socket)
        self._loop.add_reader(self._permits, self._permits_came)
        signals.worker_process_init.send(self, lane=COROUTINE)
        self._send(frame(Ready()))
        await self._done.wait()
        self._flush()
        self._transport.close()  # after what is still to be written
        await self._disconnected.wait()
        signals.worker_process_shutdown.send(self, lane=COROUTINE)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=LINGER_SECONDS)

    def _end_if_done(self) -> None:
        """End when there will be no more permits, and all that was claimed has come and ended."""
        if self._hung_up and not self._running and not self._claimed:
            self._done.set()

    # --- In -------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take frames from the supervisor."""
        for content in self._frames.feed(data):
            order = parse_to_child(content)
            if isinstance(order, Interrupt):
                self._interrupt(order.index)
            else:
                self._sent.update((run.index, run) for run in order.runs)
        self._start()

    def connection_lost(self, error: Exception | None) -> None:
        """End at once where the supervisor is gone: what runs here belongs to others."""
        if error is not None or not self._done.is_set():
            os._exit(1)
        self._disconnected.set()

    def _permits_came(self) -> None:
        self._loop.remove_reader(self._permits)
        self._take_permit()

    def _take_permit(self) -> None:
        """Take one permit, and the next after what it started has had its first turn.

        So a coroutine that blocks from the start has nothing behind it but permits, which the supervisor can call back.
        """
        try:
            data = os.read(self._permits, PERMIT.size)
        except BlockingIOError:
            self._loop.add_reader(self._permits, self._permits_came)
            return
        if not data:
            self._hung_up = True
            self._end_if_done()
            return
        (index,) = PERMIT.unpack(data)
        if index != NOTHING:
            self._claimed.append(index)
            self._start()
        self._loop.call_soon(self._take_permit)

    def _start(self) -> None:
        """Start every run that has both come and been permitted."""
        waiting = []
        for index in self._claimed:
            run = self._sent.pop(index, None)
            if run is None:
                waiting.append(index)
            else:
                self._running[index] = (self._loop.create_task(self._run(run)), None)
        if self._claimed and not waiting:
            # Runs come in order: those before the last started were called back.
            newest = self._claimed[-1]
            self._sent = {index: run for index, run in self._sent.items() if index > newest}
        self._claimed = waiting

    # --- Running --------------------------------------------------------------------------------------

    async def _run(self, run: Run) -> None:
        index, identity = run.index, id(run.message)
        self._indices[identity] = index

        def begun(interruptible: Interruptible) -> None:
            self._running[index] = (self._running[index][0], interruptible)
            if index in self._interrupted:
                interruptible.interrupt(TaskRevoked(TERMINATED))

        try:
            outcome = await run_limited(self._executor, run.message, run.deliveries, begun)
            if os.getpid() != self._pid:
                leave(outcome)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if self._reports_memory else 0
            self._send(frame(Ran(index, outcome, memory)))
        except BaseException:  # noqa: BLE001 - nobody looks at what this asyncio task raises: an ending would be lost
            self._die("The ending of %s[%s] cannot be told", run.message.task, run.message.id)
        del self._running[index], self._indices[identity]
        self._interrupted.discard(index)
        self._end_if_done()

    def _die(self, why: str, *names: str) -> NoReturn:
        """End the child by the exception that is being handled, as a plain one ends by it: what runs here is lost."""
        log.critical(why, *names, exc_info=True)
        self._flush()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def _tell(self, message: Message, state: str, meta: Any) -> None:
        index = self._indices.get(id(message))
        if index is None:
            return  # a thread that the task has left behind
        data = frame(Told(index, told(message, state, meta)))
        if threading.current_thread() is threading.main_thread():
            self._send(data)
        else:
            self._loop.call_soon_threadsafe(self._send, data)

    def _interrupt(self, index: int) -> None:
        interruptible = self._running.get(index, (None, None))[1]
        if interruptible is not None:
            interruptible.interrupt(TaskRevoked(TERMINATED))
        elif index in self._running or index in self._claimed:
            self._interrupted.add(index)  # it has not begun yet

    # --- Out ------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)  # what ends in this round of the loop goes in one write
        self._out.append(data)

    def _flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
