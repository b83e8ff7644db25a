"""The worker's lease: taken, renewed by one heartbeat for all that the worker holds, and taken anew when lost."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence

from celeriac import __about__
from celeriac.app.app import Celeriac
from celeriac.errors import BrokerError, BrokerMisconfigured, BrokerUnavailable, LeaseLost
from celeriac.ports.broker import Lease
from celeriac.ports.operations import WorkerInfo
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pools.pool import Pool

__all__ = ["FIRST_PAUSE", "Heartbeat", "longer"]

log = logging.getLogger("celeriac.worker")

FIRST_PAUSE = 0.1  # seconds before the broker is tried again; then twice as long each time
LONGEST_PAUSE = 1.0


def longer(pause: float) -> float:
    """Return the pause after this one."""
    return min(pause * 2, LONGEST_PAUSE)


class Heartbeat:
    """Keeps the lease alive."""

    def __init__(self, app: Celeriac, options: WorkerOptions, pool: Pool, queues: Callable[[], Sequence[str]]) -> None:
        self.lease: Lease
        self._app = app
        self._options = options
        self._pool = pool
        self._queues = queues  # what it receives from, now
        self._is_lost = asyncio.Event()
        self._renewed_at = 0.0  # monotonic, as the next
        self._forbears_until = 0.0

    async def enter(self) -> None:
        """Take a lease; wait for the broker if it cannot be reached. Raises `BrokerMisconfigured`."""
        info = WorkerInfo(
            name=self._options.name, host=socket.gethostname(), pid=os.getpid(), started_at=self._app.clock.now(),
            queues=tuple(self._queues()), concurrency=self._pool.capacity(), version=__about__.VERSION,
        )  # fmt: skip
        pause = FIRST_PAUSE
        while True:
            try:
                self.lease = await self._app.broker.lease(
                    info, self._options.lease_seconds, self._options.max_deliveries
                )
                self._renewed_at = time.monotonic()
                return
            except BrokerMisconfigured:
                raise
            except BrokerUnavailable as error:
                log.warning("Waiting for the broker: %s", error)
                await asyncio.sleep(pause)
                pause = longer(pause)

    async def renew(self) -> None:
        """Renew the lease, three times in its length, for ever; when that fails, try again soon."""
        rest = self._options.lease_seconds / 3
        wait, pause = rest, FIRST_PAUSE
        while True:
            await asyncio.sleep(wait)
            lease = self.lease
            try:
                await lease.renew()
                self._renewed(time.monotonic())
                wait, pause = rest, FIRST_PAUSE
            except LeaseLost:
                self.lost(lease)
                wait, pause = rest, FIRST_PAUSE
            except BrokerError as error:
                log.warning("Cannot renew the lease: %s", error)
                wait, pause = min(pause, rest), longer(pause)

    def _renewed(self, now: float) -> None:
        if now - self._renewed_at > self._options.lease_seconds:
            self._forbears_until = now + self._options.lease_seconds / 3 + LONGEST_PAUSE
        self._renewed_at = now

    def may_sweep(self) -> bool:
        """Say whether other leases that have run out are to be believed dead.

        A worker that could not renew its own in time knows nothing of others: they were cut off like itself, for the
        broker was away, and are given the time to renew theirs.
        """
        now = time.monotonic()
        return now - self._renewed_at <= self._options.lease_seconds and now >= self._forbears_until

    def lost(self, lease: Lease) -> None:
        """Take note that a lease was lost. Whoever meets `LeaseLost` calls this."""
        if lease is self.lease:
            self._is_lost.set()

    async def recover(self) -> None:
        """When the lease was lost, its messages run elsewhere: throw away what runs here, and begin anew; for ever."""
        while True:
            await self._is_lost.wait()
            log.error("The lease is gone (the machine was suspended, cut off, or the broker restarted). "
                      "Running tasks were abandoned; the broker delivers again those that it still has.")  # fmt: skip
            await self._pool.restart()
            await self.enter()
            self._is_lost.clear()
