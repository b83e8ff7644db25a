"""Base classes of the contenders on Redis.

The number of messages in the broker is read with O(1) commands. Some contenders remove a message when a worker takes
it, not when its task ends; the few prefetched messages then count as ended, in their favour.
"""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Coroutine, Iterable
from time import perf_counter
from typing import Any, TypeVar
from urllib.parse import urlsplit

from benchmarks.peers.base import REDIS_VARIABLE
from benchmarks.peers.server_peer import ServerPeer
from benchmarks.redis_line import Line

__all__ = ["URL", "AsyncRedisPeer", "RedisPeer"]

URL = os.environ.get(REDIS_VARIABLE, "redis://127.0.0.1:6379/0")

T = TypeVar("T")


class RedisPeer(ServerPeer):
    """A contender on Redis."""

    _line: Line | None = None

    def ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Return Redis's replies, using a separate connection."""
        if self._line is None:
            self._line = Line(urlsplit(URL).port or 6379)
        return self._line.ask_all(*commands)


class AsyncRedisPeer(RedisPeer):
    """A contender whose calls are coroutines. All calls run in one uvloop event loop."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in this peer's loop."""
        if self._runner is None:
            import uvloop  # noqa: PLC0415 - only in callers; the worker chooses its own loop

            self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
            self._runner.run(self.open())
        return self._runner.run(work)

    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def asend(self, argument: Any) -> None:
        """Send one message."""

    @abstractmethod
    async def around(self) -> None:
        """Send one message, and wait for its result."""

    async def _each(self, arguments: Iterable[Any]) -> None:
        for argument in arguments:
            await self.asend(argument)

    def one_by_one(self, arguments: Iterable[Any]) -> None:
        self.run(self._each(arguments))

    def in_bulk(self, arguments: Iterable[Any]) -> None:
        self.run(self._gathered(list(arguments), 100))

    async def _gathered(self, arguments: list[Any], at_once: int) -> None:
        """Send concurrently, as its users would, because it has no bulk call."""
        for start in range(0, len(arguments), at_once):
            await asyncio.gather(*map(self.asend, arguments[start : start + at_once]))

    def roundtrip(self, timeout: float) -> None:
        self.run(asyncio.wait_for(self.around(), timeout))

    def roundtrips(self, count: int) -> list[float]:
        return self.run(self._around(count))

    async def _around(self, count: int) -> list[float]:
        times = []
        for _ in range(count):
            start = perf_counter()
            await self.around()
            times.append(perf_counter() - start)
        return times
