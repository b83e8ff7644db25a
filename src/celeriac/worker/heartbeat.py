"""Keeps the worker's lease: takes it, renews it for all deliveries at once, and takes a new one when it is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Sequence

from celeriac import __about__
from celeriac.app.app import Celeriac
from celeriac.errors import (
    AccessRefused,
    BackendError,
    BrokerError,
    BrokerMisconfigured,
    BrokerUnavailable,
    CeleriacError,
    LeaseLost,
    NotSupported,
    Unstorable,
)
from celeriac.metrics.counts import LEASES_LOST
from celeriac.ports.broker import Lease
from celeriac.ports.operations import WorkerInfo
from celeriac.worker.counters import Counters
from celeriac.worker.options import WorkerOptions
from celeriac.worker.outages import Outages
from celeriac.worker.pools.pool import Pool

__all__ = ["FIRST_PAUSE", "Heartbeat", "fault", "may_end", "next_pause"]

log = logging.getLogger("celeriac.worker")

FIRST_PAUSE = 0.1  # seconds before a server is tried again; the pause doubles each time
LONGEST_PAUSE = 1.0
ENTER, RENEW = "take a lease", "renew the lease"  # duties, for `Outages`


def next_pause(pause: float) -> float:
    """Return the pause after this one (seconds)."""
    return min(pause * 2, LONGEST_PAUSE)


def may_end(error: Exception) -> bool:
    """Return whether an error may end by itself, as an outage does, so that what failed should be tried again."""
    return isinstance(error, BrokerError | BackendError) and not isinstance(error, NotSupported | Unstorable)


def fault(error: Exception) -> Exception | None:
    """Return an error that nobody expects, to be logged with where it was raised; None for a refusal, which says why.

    If the worker logs at the level DEBUG, return any.
    """
    return None if isinstance(error, CeleriacError) and not log.isEnabledFor(logging.DEBUG) else error


class Heartbeat:
    """Keeps the lease alive."""

    def __init__(self, app: Celeriac, options: WorkerOptions) -> None:
        self.lease: Lease
        self.outages = Outages(app.broker.joins(app.backend))
        self.counters = Counters()
        self._app = app
        self._options = options
        self._is_lost = asyncio.Event()
        self._renewed_at = 0.0  # monotonic
        self._no_sweep_until = 0.0  # monotonic

    async def enter(self, pool: Pool, queues: Sequence[str], again: bool = False) -> None:
        """Take a lease; wait while the broker cannot be reached.

        Raises `BrokerMisconfigured` and refusals; `again`, only `AccessRefused`: a server that let this worker in
        before may answer oddly while it starts. Raises `ImproperlyConfigured` if `security_keys` has a caller's key
        first.
        """
        self._app.broker.codec.seal("worker", b"")  # some brokers sign it later than now
        info = WorkerInfo(
            name=self._options.name, host=socket.gethostname(), pid=os.getpid(), started_at=self._app.clock.now(),
            queues=tuple(queues), concurrency=pool.capacity(), version=__about__.VERSION,
        )  # fmt: skip
        pause = FIRST_PAUSE
        while True:
            try:
                self.lease = await self._app.broker.lease(
                    info, self._options.lease_seconds, self._options.max_deliveries
                )
                self._renewed_at = time.monotonic()
                self.outages.worked(ENTER)
                return
            except AccessRefused:
                raise
            except BrokerError as error:
                if not again and (isinstance(error, BrokerMisconfigured) or not isinstance(error, BrokerUnavailable)):
                    raise
                self.outages.failed(ENTER, error)
                await asyncio.sleep(pause)
                pause = next_pause(pause)

    async def renew(self) -> None:
        """Renew the lease three times in its length, until cancelled; after a failure, try again sooner."""
        interval = self._options.lease_seconds / 3
        wait, pause = interval, FIRST_PAUSE
        while True:
            await asyncio.sleep(wait)
            lease = self.lease
            try:
                await lease.renew()
                self.outages.worked(RENEW)
                self._renewed(time.monotonic())
                wait, pause = interval, FIRST_PAUSE
            except LeaseLost:
                self.outages.worked(RENEW)
                self.lost(lease)
                wait, pause = interval, FIRST_PAUSE
            except AccessRefused:
                raise
            except BrokerError as error:
                self.outages.failed(RENEW, error)
                wait, pause = min(pause, interval), next_pause(pause)

    def _renewed(self, now: float) -> None:
        if now - self._renewed_at > self._options.lease_seconds:
            self._no_sweep_until = now + self._options.lease_seconds / 3 + LONGEST_PAUSE
        self._renewed_at = now

    def may_sweep(self) -> bool:
        """Return whether the owners of expired leases can be presumed dead.

        They cannot while this worker failed to renew its own lease: the broker was away for the others too. After
        that they get the time to renew theirs.
        """
        now = time.monotonic()
        return now - self._renewed_at <= self._options.lease_seconds and now >= self._no_sweep_until

    def lost(self, lease: Lease) -> None:
        """Begin to recover from the loss of this lease. Call it wherever `LeaseLost` is caught."""
        if lease is self.lease:
            self._is_lost.set()

    async def recover(self, pool: Pool, queues: Sequence[str]) -> None:
        """Each time the lease is lost, abandon what runs (it runs elsewhere now) and take a new one; until cancelled.

        `queues` is read again each time.
        """
        while True:
            await self._is_lost.wait()
            log.error("The lease is gone (the machine was suspended or cut off, or the broker restarted). "
                      "Running tasks were abandoned; the broker delivers those again that it still has.")  # fmt: skip
            self.counters.add(LEASES_LOST)
            await pool.restart()
            await self.enter(pool, queues, again=True)
            self._is_lost.clear()
