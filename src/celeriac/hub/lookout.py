"""Lookouts: the hub looks whether a lease has expired, or a node of a workflow waits, so that not every worker asks.

Nothing that is written tells of these: it is a worker's death that makes them. So the hub looks twice a second, as one
of those who wait would, and wakes that one. If it has not helped by the next look (it may be dead, too), all are woken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from celeriac.hub.sessions import Job

__all__ = ["Lookout"]

LOOK_SECONDS: Final = 0.5


class Lookout:
    """Those who wait for one kind of thing; `is_there` looks with the arguments of one of them. All times monotonic."""

    def __init__(self, is_there: Callable[[Job], bool]) -> None:
        self._is_there = is_there
        self._waiting: dict[Job, float] = {}  # until when; the next to be asked for is the first
        self._look_at = 0.0
        self._has_woken = False  # the last look has woken one

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, job: Job, deadline: float) -> None:
        """Let a request wait."""
        self._waiting[job] = deadline

    def drop(self, job: Job) -> None:
        """Forget a request."""
        self._waiting.pop(job, None)

    def jobs(self) -> list[Job]:
        """Return all that wait."""
        return list(self._waiting)

    def look(self, now: float) -> list[Job]:
        """Return the requests that are answered now: with True if there is something, else their time has passed."""
        if not self._waiting or now < self._look_at:
            return []
        self._look_at = now + LOOK_SECONDS
        first = next(iter(self._waiting))
        self._waiting[first] = self._waiting.pop(first)
        answered = []
        if self._is_there(first):
            answered = self.jobs() if self._has_woken else [first]
            for job in answered:
                job.answer(True)
                del self._waiting[job]
        self._has_woken = bool(answered)
        for job in [job for job, deadline in self._waiting.items() if deadline <= now]:
            job.answer(False)
            del self._waiting[job]
            answered.append(job)
        return answered

    def next_at(self) -> float:
        """Return when to look again."""
        return self._look_at if self._waiting else float("inf")
