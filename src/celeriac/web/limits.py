"""Limits of the HTTP API: sizes, waits, streams, and a token bucket for each user."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from celeriac.web.problems import Problem

__all__ = ["Buckets", "Limits", "Streams"]

MOST_BUCKETS: Final = 10_000


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one server allows. Sizes are in bytes, times in seconds."""

    body: int = 1_048_576  # besides a batch; raised to `message_max_bytes` if that is more
    batch: int = 8 * 1_048_576
    body_seconds: float = 30.0  # within which a body must have arrived
    calls: int = 1000  # in a batch, or tasks in a workflow
    ids: int = 1000  # in one question
    streams: int = 200  # that are open at a time
    rate: float = 100.0  # requests of one user per second …
    burst: int = 200  # … after a pause


class Buckets:
    """Token buckets, by the names of users."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, and when that was

    def take(self, name: str) -> None:
        """Take one from a user's bucket. Raises a `Problem` if it is empty."""
        now = self._clock()
        left, at = self._buckets.get(name, (float(self.burst), now))
        left = min(float(self.burst), left + (now - at) * self.rate)
        if left < 1.0:
            seconds = max(1, round((1.0 - left) / self.rate + 0.5))
            raise Problem("too-many", f"You may make {self.rate:g} requests per second. Wait {seconds} s.",
                          headers={"Retry-After": str(seconds)})  # fmt: skip
        self._buckets[name] = (left - 1.0, now)
        if len(self._buckets) > MOST_BUCKETS:  # the oldest are full again, or nearly
            for oldest in list(self._buckets)[: MOST_BUCKETS // 2]:
                del self._buckets[oldest]


class Streams:
    """Counts the open streams of events."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.open = 0

    def begin(self) -> None:
        """Count one more. Raises a `Problem` if no more may be opened."""
        if self.open >= self.most:
            raise Problem("too-many", f"{self.most} streams are open, which is the most. Close one, or wait with "
                          "GET /api/v1/tasks?ids=…&wait=30.", headers={"Retry-After": "5"})  # fmt: skip
        self.open += 1

    def end(self) -> None:
        """Count one less."""
        self.open -= 1
