"""How many messages are sent ahead to a child that runs one at a time.

Short tasks need a queue in front of each child, or it waits for the supervisor between any two; long tasks need
none, for what waits behind one could run elsewhere (P9). So the depth follows how long tasks take: as many as make up
a few milliseconds, found by doubling, and back to one as soon as a task takes long.
"""

from __future__ import annotations

from typing import Final

__all__ = ["STALL_SECONDS", "Pace"]

AHEAD_SECONDS: Final = 0.004  # so much work is sent ahead
STALL_SECONDS: Final = 0.02  # what waits behind a task that takes longer is called back
DEEPEST: Final = 256
WEIGHT: Final = 0.1  # of the newest runtime in the moving average


class Pace:
    """The depth of the children of a lane, from the runtimes of what they ran."""

    def __init__(self) -> None:
        self.depth = 1
        self._mean = 1.0  # seconds; an exponentially weighted moving average

    def ran(self, runtime: float) -> None:
        """Take note of a runtime (seconds)."""
        if self._mean == 1.0:
            self._mean = runtime
        self._mean += WEIGHT * (runtime - self._mean)
        if runtime > STALL_SECONDS:
            self.stalled(runtime)
            return
        target = min(DEEPEST, int(AHEAD_SECONDS / max(self._mean, 1e-5)))
        self.depth = max(1, min(target, self.depth * 2))

    def stalled(self, runtime: float) -> None:
        """Take note of a task that takes this long already."""
        self._mean = max(self._mean, runtime)
        self.depth = 1
