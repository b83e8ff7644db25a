"""The gateway: what a server of the HTTP API does for remote workers, besides answering them.

There is one in each process that serves them, from the first request of one on. It is a worker that runs nothing: it
has a lease of its own, and the duties of a supervisor but for receiving. So everything goes on where no other worker
runs: expired leases are swept, workflows advance, callers are told, the history is written, control commands are heard.

    renew · recover · sweep · settle · advance · notify · record · serve commands · watch over the remote workers

Where the broker ends leases by the clock, watching means to forget workers that have not been heard of. Elsewhere a
lease is a connection of this process, so the gateway ends it when the heartbeats of the client stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, Final

import msgspec

from celeriac.app.app import Celeriac
from celeriac.errors import BackendError, BrokerError
from celeriac.model.message import PLAIN
from celeriac.ports.abilities import Ability
from celeriac.ports.broker import Delivery
from celeriac.worker.heartbeat import Heartbeat
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pools.pool import Active, ChildInfo, Pool, Reports
from celeriac.worker.receiver import Receiver
from celeriac.worker.remote_control import serve_commands
from celeriac.worker.remote_receiver import RemoteReceiver
from celeriac.worker.remote_worker import Registration, RemoteWorker
from celeriac.worker.settler import Settler
from celeriac.worker.sweeper import sweep

__all__ = ["Gateway"]

log = logging.getLogger("celeriac.worker")

WATCH_SECONDS: Final = 1.0
FINAL_SECONDS: Final = 1.0  # at the end, for what is not settled yet
MOST_TERMINATED: Final = 10_000  # ids that are remembered


class Gateway:
    """Serves remote workers in this process."""

    def __init__(self, app: Celeriac) -> None:
        name = f"{app.main or 'celeriac'}-web@{socket.gethostname()}.{os.getpid()}"
        self.app = app
        self.name = name
        self.options = msgspec.structs.replace(WorkerOptions.of(app, name=name), queues=(), pool="remote")
        self.started = time.monotonic()
        self.listening = asyncio.Event()
        self.heartbeat = Heartbeat(app, self.options)
        self.outages = self.heartbeat.outages
        self.settler = Settler(app, self.options, self.heartbeat)
        self.receiver = Receiver(app, self.options, self.heartbeat, self.settler.ended, self.settler.is_crowded)
        self.workers: dict[str, RemoteWorker] = {}  # by the id of the lease, as its client knows it
        self.terminated: dict[str, None] = {}  # ids of tasks that were told to end, the oldest first
        reports = Reports(ended=self.settler.ended, reported=self.settler.reported, freed=_nothing, broken=log.error)
        self.pool: Pool = _RemotePool(app, self.options, reports, self)
        self.receiver.pool = self.pool
        self._work: asyncio.Task[None] | None = None

    # --- Life -----------------------------------------------------------------------------------------

    def start(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set."""
        self._work = asyncio.ensure_future(self._run(stopping))

    @property
    def has_ended(self) -> bool:
        """Whether it works no more: it was stopped, or a duty has failed."""
        return self._work is not None and self._work.done()

    async def finished(self) -> None:
        """Return when it has stopped."""
        if self._work is not None:
            await asyncio.wait([self._work])

    async def _run(self, stopping: asyncio.Event) -> None:
        duties = [self._duty(work) for work in (
            self._renew_and_sweep(), self.settler.run(_nothing), self.settler.advancer.run(),
            self.settler.recorder.run(), serve_commands(self), self._watch(),
        )]  # fmt: skip
        if self.settler.notifier.is_needed:
            duties.append(self._duty(self.settler.notifier.run()))
        stop = asyncio.ensure_future(stopping.wait())
        try:
            await asyncio.wait([stop, *duties], return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                with contextlib.suppress(TimeoutError, BrokerError, BackendError):
                    async with asyncio.timeout(FINAL_SECONDS):
                        await self.settler.finished()
                        await self.settler.notifier.finish()
        finally:
            for task in (stop, *duties):
                task.cancel()
            await asyncio.gather(stop, *duties, return_exceptions=True)
            for worker in self.workers.values():
                try:
                    await worker.close()
                except (BrokerError, BackendError):
                    worker.leave()
            self.workers.clear()
        await self.settler.recorder.finish(FINAL_SECONDS)
        self.settler.attempt_log.sum_up()
        if hasattr(self.heartbeat, "lease"):
            with contextlib.suppress(BrokerError, TimeoutError):  # it expires
                async with asyncio.timeout(FINAL_SECONDS):
                    await self.heartbeat.lease.end()

    async def _renew_and_sweep(self) -> None:
        """Take a lease, and then do what needs one. Remote workers have leases of their own, and do not wait for it."""
        await self.heartbeat.enter(self.pool, ())
        async with asyncio.TaskGroup() as duties:
            duties.create_task(self.heartbeat.renew())
            duties.create_task(self.heartbeat.recover(self.pool, ()))
            duties.create_task(sweep(self.heartbeat, self.receiver))

    def _duty(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        task.add_done_callback(_ended)
        return task

    async def _watch(self) -> None:
        """Forget remote workers that have not been heard of, or end their leases, until cancelled."""
        by_the_clock = self.app.broker.can(Ability.CLOCK_LEASES)
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            for id, worker in list(self.workers.items()):
                silent, seconds = now - worker.heard_at, worker.registration.lease_seconds
                if by_the_clock and silent > 2 * seconds and not worker.is_receiving:
                    del self.workers[id]
                    worker.leave()
                elif not by_the_clock and silent > seconds and (worker.held or not worker.is_receiving):
                    del self.workers[id]
                    log.warning("The remote worker %s has not renewed its lease; what it held runs elsewhere",
                                worker.options.name)  # fmt: skip
                    try:
                        await worker.expire()
                    except (BrokerError, BackendError) as error:
                        log.warning("Cannot end the lease of the remote worker %s yet: %s", worker.options.name, error)
                        self.workers.setdefault(id, worker)

    # --- Remote workers -------------------------------------------------------------------------------

    def worker(self, id: str, registration: Registration) -> RemoteWorker:
        """Return the remote worker whose client has this lease; it begins here if it is not known yet."""
        found = self.workers.get(id)
        if found is None:
            options = msgspec.structs.replace(self.options, name=registration.name, queues=registration.queues,
                                              lease_seconds=registration.lease_seconds)  # fmt: skip
            receiver = RemoteReceiver(self.app, options, self.heartbeat, registration.tasks)
            receiver.rates = self.receiver.rates
            found = self.workers[id] = RemoteWorker(self.app, registration, options, self.settler, receiver,
                                                    self.terminated.__contains__)  # fmt: skip
        return found

    def ask_to_stop(self, why: str) -> None:
        """Tell the remote workers to stop. The server goes on."""
        log.warning("The remote workers are told to stop after %s", why)
        for worker in self.workers.values():
            worker.stop_asked = True


class _RemotePool(Pool):
    """The deliveries of all remote workers of this process, for control commands. It runs nothing."""

    kind = "remote"

    def __init__(self, app: Celeriac, options: WorkerOptions, reports: Reports, gateway: Gateway) -> None:
        super().__init__(app, options, reports)
        self._gateway = gateway

    async def start(self) -> None:
        """Do nothing: there are no children."""

    def free(self) -> dict[str, int]:
        return {}

    def dispatch(self, deliveries: Sequence[Delivery]) -> None:
        raise NotImplementedError("a remote worker asks for what it runs")

    def active(self) -> list[Active]:
        wall = time.time() - time.monotonic()
        return [Active(held.delivery, worker.registration.pid, wall + held.at)
                for worker in self._gateway.workers.values() for held in worker.held.values()]  # fmt: skip

    def children(self) -> list[ChildInfo]:
        return [ChildInfo(worker.registration.pid, PLAIN, worker.done, len(worker.held))
                for worker in self._gateway.workers.values()]  # fmt: skip

    def terminate(self, ids: Collection[str]) -> None:
        known = self._gateway.terminated
        known |= dict.fromkeys(ids)
        for id in list(known)[: max(0, len(known) - MOST_TERMINATED)]:
            del known[id]

    def capacity(self) -> dict[str, int]:
        return {PLAIN: 0}

    def resize(self, change: int) -> int:
        return 0

    def recall(self) -> None:
        """Do nothing: what a client holds, it may have started."""

    async def stop(self, abandon: bool, leave_seconds: float = 0.0) -> None:
        """Do nothing: remote workers outlive this process."""


def _nothing() -> None:
    pass


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("A duty of the gateway has failed; it begins anew with the next request of a remote worker",
                     exc_info=error)  # fmt: skip
