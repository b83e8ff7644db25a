"""The supervisor: the worker's one process that nothing of the user's can stop. Its duties, each a loop of its own:

    receive     what free slots can start (`receiver.py`)
    settle      what has ended, in batches (`settling.py`, by the rules of `settle.py`)
    renew       the lease, three times in its length (`heartbeat.py`)
    advance     workflows, by what has ended (`advancing.py`)
    sweep       what dead workers left behind, every second
    obey        control commands (`orders.py`)

and the pool, which calls back. All run on one event loop, without threads. The order of starting and stopping stands in
`Supervisor.run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Coroutine
from types import FrameType
from typing import Any

from celeriac import signals
from celeriac.app.app import Celeriac
from celeriac.errors import BackendError, BrokerError, ImproperlyConfigured, LeaseLost
from celeriac.worker.heartbeat import Heartbeat
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pools.forkserver import open_nursery
from celeriac.worker.pools.pool import Pool, Reports, given_back
from celeriac.worker.pools.process_pool import ProcessPool
from celeriac.worker.pools.thread_pool import ThreadPool
from celeriac.worker.pools.worker_thread import WorkerThread
from celeriac.worker.receiver import Receiver
from celeriac.worker.remote_control import serve_commands
from celeriac.worker.settler import Settler

try:
    import uvloop
except ImportError:  # an extra
    uvloop = None  # type: ignore[assignment]

__all__ = ["Supervisor", "run_worker"]

log = logging.getLogger("celeriac.worker")

SWEEP_SECONDS = 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
ECHO_SECONDS = 0.1  # within which a second signal to stop is no second request
GARBAGE = 50_000  # objects made and not dropped, after which to look for garbage: little here is ever in a cycle
LEAVE_SECONDS = 0.2  # when all is over: for ending the lease, and for the main thread of a solo worker
LAST_SECONDS = 1.0  # of the grace time, kept for giving back what still runs


def run_worker(app: Celeriac, options: WorkerOptions) -> int:
    """Run a worker until it is told to stop; return its exit code.

    Call it in the main thread, as the last work of the process: it returns with signals to stop blocked.
    """
    if options.pool == "processes":
        if app.broker_url.startswith("memory:"):
            raise ImproperlyConfigured("memory:// lives in one process, and tasks would run in others. Use sqlite:// "
                                       "(the default), or start the worker with --pool threads.")  # fmt: skip
        _ = app.broker, app.backend  # imports what they need once, and not in every child
        app.close()  # so that the nursery inherits no connection
        return _run(app, options, open_nursery(app))
    if options.pool == "solo":
        return _run_solo(app, options)
    return _run(app, options)


def _run(app: Celeriac, options: WorkerOptions, nursery: socket.socket | None = None) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop is not None else None) as runner:
        return runner.run(_supervise(Supervisor(app, options, nursery)))


async def _supervise(supervisor: Supervisor) -> int:
    try:
        return await supervisor.run()
    finally:  # the loop takes its handlers along: one signal more would change the exit code of what has ended
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _run_solo(app: Celeriac, options: WorkerOptions) -> int:
    """Run plain tasks in this thread, where a debugger can be at home, and the supervisor in another."""
    seat = WorkerThread()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    # Signals go past the main thread, where a task may be busy in C, or catch whatever is raised: each is a byte in
    # this pipe, and what comes before the supervisor is there waits in it.
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in _stop_signals():
        signal.signal(number, _nothing)
    codes: list[int] = []

    async def supervise() -> int:
        return await Supervisor(app, options, seat=seat, wake=wake_read).run()

    def run() -> None:
        try:
            codes.append(asyncio.run(supervise()))
        finally:
            seat.leave()
            if not seat.left.wait(LEAVE_SECONDS):
                os._exit(codes[0] if codes else 1)  # a task runs in the main thread still; it was given back

    thread = threading.Thread(target=run, name="celeriac-supervisor")
    thread.start()
    seat.occupy()
    thread.join()
    return codes[0] if codes else 1


def _nothing(number: int, stack: FrameType | None) -> None:
    pass


def _stop_signals() -> list[signal.Signals]:
    """Return the signals that stop a worker: not SIGHUP where it is ignored, as `nohup` has it."""
    return [number for number in STOP_SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]  # fmt: skip


class Supervisor:
    """A worker."""

    def __init__(self, app: Celeriac, options: WorkerOptions, nursery: socket.socket | None = None,
                 seat: WorkerThread | None = None, wake: int | None = None) -> None:  # fmt: skip
        self.app = app
        self.options = options
        self.name = options.name
        self.started = time.monotonic()
        self.listening = asyncio.Event()
        self.ready = asyncio.Event()
        self.settling = Settler(app, options, lambda: self.heartbeat.lease, self._freed)
        reports = Reports(
            ended=self.settling.ended, told=self.settling.told, freed=self._freed, broken=self._broken
        )
        self.pool: Pool = (
            ProcessPool(app, options, reports, nursery)
            if nursery is not None
            else ThreadPool(app, options, reports, seat)
        )
        self.heartbeat = Heartbeat(app, options, self.pool, lambda: self.receiver.queues)
        self.receiver = Receiver(app, options, self.pool, self.settling.ended, self.heartbeat)
        self._wake = wake  # where the numbers of signals are read, if this is not the main thread
        self._stop_asked = asyncio.Event()
        self._asked_at = 0.0  # monotonic
        self._cold = asyncio.Event()
        self._failure: str | None = None
        self._duties: list[asyncio.Task[None]] = []

    # --- Life -----------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Start, work, stop. Stopping gives running tasks the grace time, and the rest back to the broker at once."""
        self._loop = asyncio.get_running_loop()
        if self.pool.kind == "processes":  # this process makes and drops much, and runs nobody else's code
            gc.freeze()
            gc.set_threshold(GARBAGE)
        self._catch_signals()
        stop = asyncio.ensure_future(self._stop_asked.wait())
        entering = asyncio.ensure_future(self.heartbeat.enter())
        await asyncio.wait((stop, entering), return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            await _cancel(entering)
            return 0
        entering.result()
        await self.pool.start()
        receiving = self._duty(self.receiver.run())
        others = [
            self._duty(work)
            for work in (self.settling.run(), self.heartbeat.renew(), self.heartbeat.recover(), self._sweep(),
                         serve_commands(self), self.settling.advancing.run())
        ]  # fmt: skip
        listening = asyncio.ensure_future(self.listening.wait())
        await asyncio.wait([stop, listening, *self._duties], return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            self.ready.set()
            log.info("%s is ready: %s", self.name, ", ".join(self.receiver.queues))
            signals.worker_ready.send(self, worker=self.name)
            await asyncio.wait([stop, *self._duties], return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        stop.cancel()

        deadline = time.monotonic() + max(0.0, self.options.grace_seconds - LAST_SECONDS)
        await _cancel(receiving)
        self.pool.call_back()
        await self._drain(deadline)
        await self._stop_pool()
        last = time.monotonic() + LAST_SECONDS
        with contextlib.suppress(TimeoutError, BrokerError, BackendError):
            async with asyncio.timeout(LAST_SECONDS):
                await self.settling.finished()
                await self.settling.advancing.finish()
        for duty in others:
            await _cancel(duty)
        with contextlib.suppress(BrokerError, TimeoutError):  # a lease that cannot be ended runs out
            async with asyncio.timeout(max(LEAVE_SECONDS, last - time.monotonic())):
                await self.heartbeat.lease.end()
        signals.worker_shutdown.send(self, worker=self.name)
        self.app.close()
        if self._failure is not None:
            log.critical("%s has failed: %s", self.name, self._failure)
            return 1
        log.info("%s has stopped", self.name)
        return 0

    def ask_to_stop(self, why: str) -> None:
        """Begin a graceful stop; asked again, a cold one: what runs is given back now.

        Two signals at once are one request: some senders signal the process and then its whole group.
        """
        if self._stop_asked.is_set():
            if time.monotonic() - self._asked_at < ECHO_SECONDS:
                return
            log.warning("Cold shutdown: running tasks go back to the broker.")
            self._cold.set()
        else:
            log.warning("Shutting down after %s: running tasks have %g s.", why, self.options.grace_seconds)
            self._asked_at = time.monotonic()
            self._stop_asked.set()

    def stop_soon(self, why: str) -> None:
        """Do as `ask_to_stop`, from any thread, and at any time."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has stopped
            self._loop.call_soon_threadsafe(self.ask_to_stop, why)

    def _catch_signals(self) -> None:
        if self._wake is not None:
            self._loop.add_reader(self._wake, self._read_signals, self._wake)
        elif threading.current_thread() is threading.main_thread():
            for number in _stop_signals():
                self._loop.add_signal_handler(number, self._signalled, number)

    def _read_signals(self, wake: int) -> None:
        for number in os.read(wake, 4096):
            if number in STOP_SIGNALS:
                self._signalled(number)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGQUIT:
            self._stop_cold()
        else:
            self.ask_to_stop(signal.Signals(number).name)

    def _stop_cold(self) -> None:
        self._stop_asked.set()
        self._cold.set()

    def _duty(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._duty_ended)
        self._duties.append(task)
        return task

    def _duty_ended(self, task: asyncio.Task[None]) -> None:
        """Stop the worker when one of its duties has ended by a fault: half a worker is worse than none."""
        self._duties.remove(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("A duty of the worker has failed", exc_info=error)
            self._broken(f"{type(error).__name__}: {error}")

    def _broken(self, why: str) -> None:
        self._failure = why
        self._stop_cold()

    async def _drain(self, deadline: float) -> None:
        """Wait until nothing runs, or until the time is over, or a cold stop is asked for."""
        cold = asyncio.ensure_future(self._cold.wait())
        while self.pool.active() and not cold.done():
            settled = self.settling.progress()
            left = deadline - time.monotonic()
            await asyncio.wait((settled, cold), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            settled.cancel()
            if left <= 0:
                break
        cold.cancel()

    async def _stop_pool(self) -> None:
        """End the children. Some may not end: SIGKILL waits for the kernel, and who tells of their end may be stuck."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self.pool.stop(abandon=False)
        except TimeoutError:
            children = [child.pid for child in self.pool.children()]
            log.error("Not waiting for children that SIGKILL has not ended: %s", ", ".join(map(str, children)))
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.settling.ended([given_back(run.delivery, run.started_at is not None) for run in self.pool.active()])

    def _freed(self) -> None:
        self.receiver.freed()

    async def _sweep(self) -> None:
        """Deal with what dead workers left behind, for ever."""
        while True:
            lease = self.heartbeat.lease
            try:
                if self.heartbeat.may_sweep():
                    await self.receiver.accept(await lease.sweep())
            except LeaseLost:
                self.heartbeat.lost(lease)
            except BrokerError as error:
                log.warning("Cannot sweep: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)


async def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and wait until it has ended; how, was seen by `_duty_ended`."""
    task.cancel()
    await asyncio.wait([task])
