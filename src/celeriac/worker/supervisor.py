"""The supervisor: the worker's main process. It runs no tasks, so that nothing a task does can stop it.

Its duties, each an asyncio task of its own:

    receive     as many messages as free slots can start (`receiver.py`)
    settle      what has ended, in batches (`settler.py`, by the rules of `decide.py`)
    renew       the lease, three times in its length (`heartbeat.py`)
    advance     workflows whose nodes have ended (`advancer.py`)
    notify      callers of what was stored, where the result backend cannot (`app/notifier.py`)
    record      the history (`recorder.py`)
    tell        those who watch, what has ended (`watches.py`)
    mail        the administrators of failures, if there are `mail_admins` (`mailer.py`)
    sweep       expired leases of dead workers, every second (`sweeper.py`)
    serve       control commands (`remote_control.py`)
    beat        sends what is scheduled, if it was started with `--beat` (`beat/scheduler.py`)

The pool runs beside them and calls back. Everything shares one event loop, without threads. (In the pools `threads` and
`solo`, tasks run in threads of this process, and the first paragraph does not hold.) `Supervisor.run` has the order of
starting and stopping. Called by `run.py` and `celeriac.testing`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any

from celeriac import signals
from celeriac.app.app import Celeriac
from celeriac.errors import AccessRefused, BackendError, BrokerError
from celeriac.metrics.counts import CHILDREN_LOST
from celeriac.tasks.tracing import FLUSH_SECONDS
from celeriac.worker.heartbeat import Heartbeat
from celeriac.worker.mailer import Mailer
from celeriac.worker.options import WorkerOptions, listed
from celeriac.worker.pools.pool import Pool, Reports, give_back
from celeriac.worker.pools.process_pool import LEAVE_SECONDS, ProcessPool
from celeriac.worker.pools.thread_pool import ThreadPool
from celeriac.worker.pools.worker_thread import WorkerThread
from celeriac.worker.preflight import check
from celeriac.worker.receiver import Receiver
from celeriac.worker.remote_control import serve_commands
from celeriac.worker.settler import Settler
from celeriac.worker.sweeper import sweep

__all__ = ["STOP_SIGNALS", "Supervisor", "stop_signals"]

log = logging.getLogger("celeriac.worker")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
ECHO_SECONDS = 0.1  # a second stop signal within this time is not a second request
GC_THRESHOLD = 50_000  # net allocations before the garbage collector runs: few objects here are ever in a cycle
EXIT_SECONDS = 0.2  # at the end, for the last of the history and for ending the lease, if the grace time is over
FINAL_SECONDS = 1.0  # part of the grace time, reserved for giving back what still runs, and for the servers' answers


def stop_signals() -> list[signal.Signals]:
    """Return the signals that stop a worker. SIGHUP does not if it is ignored, as under `nohup`."""
    return [number for number in STOP_SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]  # fmt: skip


class Supervisor:
    """A worker."""

    def __init__(self, app: Celeriac, options: WorkerOptions, forkserver: socket.socket | None = None,
                 main_thread: WorkerThread | None = None, wake: int | None = None) -> None:  # fmt: skip
        self.app = app
        self.options = options
        self.name = options.name
        self.started = time.monotonic()
        self.listening = asyncio.Event()
        self.ready = asyncio.Event()
        self.heartbeat = Heartbeat(app, options)
        self.outages = self.heartbeat.outages
        self.settler = Settler(app, options, self.heartbeat)
        self.receiver = Receiver(app, options, self.heartbeat, self.settler.ended, self.settler.is_crowded)
        reports = Reports(ended=self.settler.ended, reported=self.settler.reported, freed=self.receiver.freed,
                          broken=self._broken, child_lost=self._child_lost)  # fmt: skip
        self.pool: Pool = (
            ProcessPool(app, options, reports, forkserver)
            if forkserver is not None
            else ThreadPool(app, options, reports, main_thread)
        )
        self.receiver.pool = self.pool
        self.mailer = Mailer(app, options, self.settler.recorder, lambda: self.receiver.queues, self.outages)
        self.scheduler = app.scheduler(options.name) if options.beat else None
        self._wake = wake  # a pipe of signal numbers, if this is not the main thread
        self._stop_asked = asyncio.Event()
        self._asked_at = 0.0  # monotonic
        self._cold = asyncio.Event()
        self._failure: str | None = None
        self._faulty = False  # it stops because of an unexpected error, which any of its deliveries may have caused
        self._duties: list[asyncio.Task[None]] = []

    @property
    def hostname(self) -> str:
        """The worker's name, under the name that Celery gives it, for receivers of signals."""
        return self.name

    # --- Life -----------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Start, work, stop; return the exit code.

        Stopping gives running tasks the grace time, and gives everything else back to the broker at once. After an
        unexpected error nothing is given back: as when this process is killed, others take over what it held once
        its lease has expired, and count that as a delivery. So a message that causes such errors becomes a dead letter.
        Nor is what has run given back, if the servers could not take its end.
        """
        self._loop = asyncio.get_running_loop()
        if self.pool.kind == "processes":  # many allocations, and no user code that makes cycles
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD)
        self._catch_signals()
        metrics = await self._serve_metrics()
        stop = asyncio.ensure_future(self._stop_asked.wait())
        if not await self._enter(stop):
            return 0
        await self.pool.start()
        receiving, *others = [self._duty(work) for work in self._work()]
        await self._serve(stop)
        if self.scheduler is not None:
            self.scheduler.stop()
        deadline = time.monotonic() + max(0.0, self.options.grace_seconds - FINAL_SECONDS)
        await _cancel(receiving)
        if not self._faulty:
            self.pool.recall()
            await self._drain(deadline)
        await self._stop_pool(0.0 if self._cold.is_set() else deadline - time.monotonic())
        now = time.monotonic()
        last = (now if self._cold.is_set() else max(now, deadline)) + FINAL_SECONDS
        await self._settle_rest(last)
        for duty in others:
            await _cancel(duty)
        await self.settler.recorder.finish(_left(last))
        if metrics is not None:
            metrics.stop()
        self.settler.attempt_log.sum_up()
        unsettled = 0 if self._faulty else await self._end_lease(last)
        signals.worker_shutdown.send(self)
        self.app.close()
        if self._failure is not None:
            log.critical("%s has failed: %s", self.name, self._failure, extra={"event_name": "worker.failed"})
            return 1
        if unsettled:
            log.error("%s has stopped before its servers had confirmed what became of %d messages. When its lease has "
                      "expired (%g s), those without a stored outcome run again, or with acks_late=False fail as "
                      "WorkerLost", self.name, unsettled, self.options.lease_seconds,
                      extra={"event_name": "worker.stopped"})  # fmt: skip
            return 1
        log.info("%s has stopped", self.name, extra={"event_name": "worker.stopped"})
        return 0

    async def _enter(self, stop: asyncio.Future[Any]) -> bool:
        """Open the lease, however long the broker is away. Return False if the worker is to stop before that."""
        entering = asyncio.ensure_future(self.heartbeat.enter(self.pool, self.receiver.queues))
        await asyncio.wait((stop, entering), return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            await _cancel(entering)
            return False
        entering.result()
        return True

    def _work(self) -> Iterator[Coroutine[Any, Any, None]]:
        """Yield the work of each duty. Receiving comes first: it ends before the others do."""
        yield self.receiver.run()
        yield self.settler.run(self.receiver.freed)
        yield self.heartbeat.renew()
        yield self.heartbeat.recover(self.pool, self.receiver.queues)
        yield sweep(self.heartbeat, self.receiver)
        yield serve_commands(self)
        yield self.settler.advancer.run()
        yield self.settler.recorder.run()
        yield self.settler.recorder.watches.run()
        if self.settler.notifier.is_needed:
            yield self.settler.notifier.run()
        if self.mailer.is_needed:
            yield self.mailer.run()
        if self.scheduler is not None:
            yield self.scheduler.run()

    async def _serve(self, stop: asyncio.Future[Any]) -> None:
        """Tell that the worker is ready once it is, and return when it is to stop, or a duty has ended."""
        preparing = asyncio.ensure_future(self._prepare())
        await asyncio.wait([stop, preparing, *self._duties], return_when=asyncio.FIRST_COMPLETED)
        if preparing.done():
            preparing.result()
            self.ready.set()
            log.info("%s is ready and receives from: %s", self.name, listed(self.receiver.queues),
                     extra={"event_name": "worker.ready"})  # fmt: skip
            signals.worker_ready.send(self)
            self.app.tracing.observe(self._loop, self.settler.recorder.statistics.ever)
            await asyncio.wait([stop, *self._duties], return_when=asyncio.FIRST_COMPLETED)
        preparing.cancel()
        stop.cancel()

    async def _settle_rest(self, last: float) -> None:
        """Settle and tell what has ended, until the instant `last`, or `FINAL_SECONDS` after a cold stop was asked for.

        What is not settled runs again elsewhere. So a slow or restarting broker has the rest of the grace time.
        """
        rest = asyncio.ensure_future(self._finish())
        cold = asyncio.ensure_future(self._cold.wait())
        await asyncio.wait((rest, cold), timeout=last - FINAL_SECONDS - time.monotonic(),
                           return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        cold.cancel()
        with contextlib.suppress(TimeoutError, BrokerError, BackendError):
            await asyncio.wait_for(rest, FINAL_SECONDS)

    async def _finish(self) -> None:
        """Settle, advance and tell what there is."""
        await self.settler.finished()
        await self.settler.advancer.finish()
        await self.settler.notifier.finish()

    async def _end_lease(self, last: float) -> int:
        """Give back what the lease still holds, until the instant `last` or shortly after.

        Return the number of messages of which the servers have not confirmed what became. If some of them have run, the
        lease is left to expire: ending it would give them back as if they had not, and they would run again at once.
        """
        with contextlib.suppress(BrokerError, BackendError, TimeoutError):  # a lease that cannot be ended expires
            async with asyncio.timeout(_left(last)):
                if not self.settler.has_unsettled_ends():
                    await self.heartbeat.lease.end()
                    return 0
                await self.settler.give_back()
        return self.settler.unsettled()

    async def _serve_metrics(self) -> Any:
        """Serve metrics, if the options say so. Raises `ImproperlyConfigured`."""
        if self.options.metrics is None:
            return None
        module = importlib.import_module("celeriac.worker.metrics_server")  # it needs an extra
        server = module.MetricsServer(self)
        log.info("%s serves its metrics at %s", self.name, await server.start(*self.options.metrics))
        return server

    async def _prepare(self) -> None:
        await check(self.app, self.options)
        await self.listening.wait()

    def ask_to_stop(self, why: str) -> None:
        """Begin a graceful stop. The second call begins a cold one: what runs is given back now.

        Two calls within `ECHO_SECONDS` are one request: some senders signal the process and then its whole group.
        """
        if self._stop_asked.is_set():
            if time.monotonic() - self._asked_at < ECHO_SECONDS:
                return
            log.warning("Cold shutdown: running tasks go back to the broker.", extra={"event_name": "worker.stopping"})
            self._cold.set()
            signals.worker_shutting_down.send(self.name, sig=why, how="Cold", exitcode=0)
        else:
            log.warning("Shutting down after %s: running tasks have %g s.", why, self.options.grace_seconds,
                        extra={"event_name": "worker.stopping"})  # fmt: skip
            self._asked_at = time.monotonic()
            self._stop_asked.set()
            signals.worker_shutting_down.send(self.name, sig=why, how="Warm", exitcode=0)

    def stop_soon(self, why: str) -> None:
        """Thread-safe version of `ask_to_stop`, which may be called after the end."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker has stopped
            self._loop.call_soon_threadsafe(self.ask_to_stop, why)

    def _catch_signals(self) -> None:
        if self._wake is not None:
            self._loop.add_reader(self._wake, self._read_signals, self._wake)
        elif threading.current_thread() is threading.main_thread():
            for number in stop_signals():
                self._loop.add_signal_handler(number, self._signalled, number)

    def _read_signals(self, wake: int) -> None:
        for number in os.read(wake, 4096):
            if number in STOP_SIGNALS:
                self._signalled(number)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGQUIT:
            self._stop_cold()
            signals.worker_shutting_down.send(self.name, sig="SIGQUIT", how="Cold", exitcode=0)
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
        """Stop the worker if a duty has failed: half a worker is worse than none."""
        self._duties.remove(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, AccessRefused):
                self._broken(str(error))
                return
            self._faulty = True
            log.critical("One of the worker's duties has failed; the worker stops, and others take over its tasks when "
                         "its lease expires", exc_info=error)  # fmt: skip
            self._broken(f"{type(error).__name__}: {error}")

    def _child_lost(self, reason: str) -> None:
        self.heartbeat.counters.add(CHILDREN_LOST, reason=reason)

    def _broken(self, why: str) -> None:
        self._failure = why
        self._stop_cold()

    async def _drain(self, deadline: float) -> None:
        """Wait until nothing runs, the deadline has passed, or a cold stop was requested."""
        cold = asyncio.ensure_future(self._cold.wait())
        while self.pool.active() and not cold.done():
            settled = self.settler.progress()
            left = deadline - time.monotonic()
            await asyncio.wait((settled, cold), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            settled.cancel()
            if left <= 0:
                break
        cold.cancel()

    async def _stop_pool(self, seconds: float) -> None:
        """Stop the pool within `FINAL_SECONDS`: the kernel may delay SIGKILL, or the fork server may be stuck.

        Children that have spans to export have more time for that, but no more than `seconds`.
        """
        leave = max(0.0, min(seconds, FLUSH_SECONDS + LEAVE_SECONDS)) if self.app.tracing.is_possible else 0.0
        try:
            async with asyncio.timeout(leave + FINAL_SECONDS):
                await self.pool.stop(abandon=self._faulty, leave_seconds=leave)
        except TimeoutError:
            children = [child.pid for child in self.pool.children()]
            log.error("Exiting before these child processes have ended: %s", ", ".join(map(str, children)))
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.settler.ended([give_back(run.delivery, run.started_at is not None) for run in self.pool.active()])


async def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has ended. `_duty_ended` deals with its result."""
    task.cancel()
    await asyncio.wait([task])


def _left(last: float) -> float:
    """Return how long one of the last steps may take, if all are to be done at the instant `last` or shortly after."""
    return min(FINAL_SECONDS, max(EXIT_SECONDS, last - time.monotonic()))
