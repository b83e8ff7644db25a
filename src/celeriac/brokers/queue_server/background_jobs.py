"""Runs what a lease does outside of `receive` and `settle`: returning messages, putting unreadable ones aside.

A job is repeated until it succeeds, for as long as the lease stands. A server in an alarm may accept no messages for
minutes, during which the running tasks stay valid: so a job waits for its confirm as long as its connection stands
(sending again would duplicate the message). When the lease ends, the server takes back the messages of its jobs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from celeriac.errors import BrokerError, BrokerUnavailable

__all__ = ["PATIENCE", "BackgroundJobs"]

log = logging.getLogger("celeriac.brokers")

PATIENCE = 86400.0  # seconds within which the messages of a job must be confirmed
PAUSE = 1.0  # seconds before a job is tried again


class BackgroundJobs:
    """The jobs of a lease."""

    def __init__(self, stands: Callable[[], bool], failed: Callable[[], None], done: Callable[[], None]) -> None:
        self._stands = stands
        self._failed = failed  # ends the lease
        self._done = done
        self._running: set[asyncio.Task[None]] = set()
        self._told = False  # that jobs fail, since the last one that succeeded

    def start(self, job: Callable[[], Awaitable[None]]) -> None:
        """Start a job, which must be repeatable."""
        task = asyncio.ensure_future(self._run(job))
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def _run(self, job: Callable[[], Awaitable[None]]) -> None:
        while self._stands():
            try:
                await job()
            except BrokerUnavailable as error:
                if not self._told:
                    self._told = True
                    log.warning("Cannot return messages to their queues, trying again every %g s: %s", PAUSE, error)
                await asyncio.sleep(PAUSE)
            except BrokerError as error:
                log.warning("Cannot return messages to their queues: %s. The worker's lease ends now, so that the "
                            "server returns them.", error)  # fmt: skip
                self._failed()
            except Exception:  # a fault of Celeriac's: no other worker would do better
                log.exception("Cannot return messages to their queues: the worker holds them until its lease ends")
                break
            else:
                self._told = False
                break

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._done()

    async def finished(self, timeout: float | None = None) -> None:
        """Wait until the running jobs have ended, or until the time-out (seconds)."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout)
