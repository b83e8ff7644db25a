"""A signal within one process: threads and coroutines wait for it together.

A waiter reads `generation` before it looks for news and passes it on when it waits: a ring in between ends the wait at
once.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from celeriac.lazy import LazyModule

if TYPE_CHECKING:
    import asyncio
else:  # for coroutines that wait
    asyncio = LazyModule("asyncio")

__all__ = ["Bell"]


class Bell:
    """Wakes the threads and coroutines that wait for it."""

    def __init__(self) -> None:
        self.generation = 0
        self._condition = threading.Condition()
        self._sleepers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def ring(self) -> None:
        """Wake all waiters. May be called from any thread."""
        with self._condition:
            self.generation += 1
            self._condition.notify_all()
            sleepers = list(self._sleepers)
        for loop, event in sleepers:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # the waiter's loop was closed
                with self._condition:
                    self._sleepers.discard((loop, event))

    def wait(self, seen: int, timeout: float) -> None:
        """Block until the bell has rung after generation `seen`, or until the time-out (seconds)."""
        with self._condition:
            self._condition.wait_for(lambda: self.generation != seen, min(timeout, threading.TIMEOUT_MAX))

    async def changed(self, seen: int, timeout: float) -> None:
        """Coroutine version of `wait`."""
        sleeper = (asyncio.get_running_loop(), asyncio.Event())
        with self._condition:
            if self.generation != seen:
                return
            self._sleepers.add(sleeper)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await sleeper[1].wait()
        finally:
            with self._condition:
                self._sleepers.discard(sleeper)
