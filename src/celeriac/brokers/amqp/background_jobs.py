"""What a lease does beside: giving back, burying what cannot be read. It must not fail unseen, nor for a while.

A server in an alarm takes no messages for minutes, and the tasks that run meanwhile are none the worse: so an errand
waits for its confirm as long as the connection stands (sent once more, it would be there twice), and is tried again as
long as the lease does. When that ends, the server takes back what the errand was about.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from celeriac.errors import BrokerError, BrokerUnavailable

__all__ = ["PATIENCE", "BackgroundJobs"]

log = logging.getLogger("celeriac.amqp")

PATIENCE = 86400.0  # seconds within which what an errand sends must be confirmed
PAUSE = 1.0  # seconds before an errand is tried again


class BackgroundJobs:
    """The jobs of a lease."""

    def __init__(self, stands: Callable[[], bool], failed: Callable[[], None], done: Callable[[], None]) -> None:
        self._stands = stands
        self._failed = failed  # ends the lease
        self._done = done
        self._under_way: set[asyncio.Task[None]] = set()

    def begin(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begin an errand, which must bear being repeated."""
        task = asyncio.ensure_future(self._run(work))
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        while self._stands():
            try:
                await work()
            except BrokerUnavailable as error:
                log.warning("Cannot give back, trying again in %g s: %s", PAUSE, error)
                await asyncio.sleep(PAUSE)
            except BrokerError as error:
                log.warning("Cannot give back: %s. The lease ends, and its messages go back by that.", error)
                self._failed()
            else:
                break

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._done()

    async def finished(self, timeout: float | None = None) -> None:
        """Wait until those that are under way have ended, or until the time-out (seconds)."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=timeout)
