"""Rate limits of a worker, without holding anything back: what may not run yet goes back to the broker, with its time.

Each task has a line of free places in time, `1 / rate` apart (the generic cell rate algorithm, ITU-T I.371). A
message that comes too early gets the next free place and is given back until then; its place is kept for it. Places
are given out for the next few seconds only; what comes when they are taken is told to come again after them.
"""

from __future__ import annotations

from typing import Final

__all__ = ["RateLimits"]

HORIZON: Final = 5.0  # seconds for which places are given out
LATE: Final = 5.0  # seconds after which a place that nobody came for is forgotten


class RateLimits:
    """The rate limits of all tasks of a worker."""

    def __init__(self) -> None:
        self._free_at: dict[str, float] = {}
        self._places: dict[str, float] = {}  # id: when
        self._overflow: dict[str, float] = {}

    def admit(self, id: str, task: str, rate: float, now: float) -> float | None:
        """Return None if the message may run now, else when (seconds since the epoch) it is to come again."""
        place = self._places.pop(id, None)
        if place is not None and place <= now:
            return None
        if place is not None:
            self._places[id] = place
            return place
        interval = 1.0 / rate
        free_at = max(now, self._free_at.get(task, 0.0))
        if free_at <= now:
            self._free_at[task] = now + interval
            return None
        if free_at > now + HORIZON:
            # Spread those without a place over the time after the horizon, at the rate at which places open.
            again = max(self._overflow.get(task, 0.0), now + HORIZON) + interval
            self._overflow[task] = min(again, now + 12 * HORIZON)
            return again
        self._free_at[task] = free_at + interval
        self._places[id] = free_at
        self._forget(now)
        return free_at

    def _forget(self, now: float) -> None:
        if len(self._places) > 1000:
            self._places = {id: place for id, place in self._places.items() if place > now - LATE}
