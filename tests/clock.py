"""A clock that stands still until a test moves it."""

from __future__ import annotations

import time

from celeriac.model.clock import Clock


class FakeClock(Clock):
    """`now` is set by the test; `monotonic`, by which waits end, is the machine's own."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.instant = now

    def now(self) -> float:
        return self.instant

    def monotonic(self) -> float:
        return time.monotonic()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.instant += seconds
