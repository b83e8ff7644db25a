"""How requests come: one at a time or several together, and how soon after each other. `serve` acts on it.

A caller that sends one by one waits for each answer. So the hub would sleep and be woken for each request: by ZeroMQ's
thread on another core, which costs both processes more than the request itself. While one connection's requests come
in quick succession, the hub looks for the next one instead of sleeping (it *spins*): only as long as that one would be
quick too, and not for some time after another process wanted the core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Pace"]

QUICK_SECONDS: Final = 0.0005  # between the beginnings of two turns, at most, for the second to be quick
ENOUGH: Final = 8  # such turns one after the other, before anything is concluded from them
TAKEN_SECONDS: Final = 0.0001  # a look that takes longer was interrupted: others want the core …
PAUSE_SECONDS: Final = 0.1  # … and have it for so long


class Pace:
    """Notes the turns. All times are monotonic."""

    def __init__(self) -> None:
        self._single = 0  # turns with one request of the same connection, one after the other
        self._quick = 0  # such turns, each soon after the one before
        self._last = 0.0  # when the last turn began …
        self._connection = b""  # … and for which connection
        self._not_before = 0.0 if _cores() > 1 else float("inf")

    def note(self, now: float, count: int, connection: bytes) -> None:
        """Note when a turn began, how many requests it had, and from which connection the first came."""
        if count == 1 and connection == self._connection:
            self._single += 1
            self._quick = self._quick + 1 if now < self._last + QUICK_SECONDS else 0
        else:
            self._single = self._quick = 0
        self._last, self._connection = now, connection

    @property
    def is_single(self) -> bool:
        """Whether requests come one at a time, from one connection."""
        return self._single >= ENOUGH

    def finds(self, is_there: Callable[[], bool], until: float) -> bool:
        """Spin, if it is worth while and at most until some time. Return whether something has come."""
        if self._quick < ENOUGH or (now := time.monotonic()) < self._not_before:
            return False
        end = min(self._last + QUICK_SECONDS, until)
        while now < end:
            if is_there():
                return True
            before, now = now, time.monotonic()
            if now > before + TAKEN_SECONDS:
                self._not_before = now + PAUSE_SECONDS
                return False
        self._quick = 0
        return False


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
