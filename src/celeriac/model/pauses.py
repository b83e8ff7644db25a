"""How long to wait before something is begun again that a server has ended, or has refused: longer each time."""

from __future__ import annotations

import time

__all__ = ["Pauses"]

PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds
LASTING_SECONDS = 10.0  # after which what was begun is taken to last: the next pause is short


class Pauses:
    """The pauses of one thing. Short ones again, once it has lasted."""

    def __init__(self) -> None:
        self._tries = 0
        self._over = 0.0  # when the last pause was over, by the monotonic clock

    def next(self) -> float:
        """Return the next pause (seconds), which begins now."""
        now = time.monotonic()
        if now > self._over + LASTING_SECONDS:
            self._tries = 0
        pause = PAUSES[min(self._tries, len(PAUSES) - 1)]
        self._tries += 1
        self._over = now + pause
        return pause
