"""How many messages are sent ahead to a child that runs one at a time.

Short tasks need a queue in front of each child, or it waits for the supervisor between any two; long tasks need
none, for what waits behind one could run elsewhere (P9). So the depth follows how long tasks take: as many as make up
a few milliseconds, found by doubling, and back to one as soon as a task takes long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["STALL_SECONDS", "Pace"]

AHEAD_SECONDS: Final = 0.005  # so much work is sent ahead
STALL_SECONDS: Final = 0.02  # what waits behind a task that takes longer is called back
DEEPEST: Final = 512
SHORT_SECONDS: Final = 0.0125  # behind a task that is shorter, one is sent ahead all the same: it starts soon enough
WEIGHT: Final = 0.1  # of the newest runtime in the moving average


class Pace:
    """The depth of the children of a lane, from the runtimes of what they ran."""

    def __init__(self) -> None:
        self.depth = 1
        self._mean: float | None = None  # seconds; an exponentially weighted moving average

    def ran(self, runtimes: Sequence[float]) -> None:
        """Take note of runtimes (seconds), the oldest first."""
        mean = runtimes[0] if self._mean is None else self._mean
        for runtime in runtimes:
            mean += WEIGHT * (runtime - mean)
        self._mean = mean
        longest = max(runtimes)
        if longest > STALL_SECONDS:
            self.stalled(longest)
            return
        target = max(1 + (mean < SHORT_SECONDS), min(DEEPEST, int(AHEAD_SECONDS / max(mean, 1e-5))))
        self.depth = min(target, self.depth << min(len(runtimes), 8))

    def stalled(self, runtime: float) -> None:
        """Take note of a task that takes this long already."""
        self._mean = runtime if self._mean is None else max(self._mean, runtime)
        self.depth = 1
