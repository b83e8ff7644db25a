"""A clock that stands still until a test moves it."""

from __future__ import annotations

import time

from celeriac.model.clock import Clock


class FakeClock(Clock):
    """`now` and `steady` are set by the test; `monotonic`, by which waits end, is the machine's own."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.instant = now
        self.passed = 0.0

    def now(self) -> float:
        return self.instant

    def monotonic(self) -> float:
        return time.monotonic()

    def steady(self) -> float:
        return self.passed

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.passed += seconds
        self.step(seconds)

    def step(self, seconds: float) -> None:
        """Set the clock forward, although no time passes."""
        self.instant += seconds
