"""Rate limits of a worker. It holds no message back: one that comes too early goes back to the broker with a due time.

Each task has a line of start times, `1 / rate` apart (the generic cell rate algorithm, ITU-T I.371). A message that
comes too early reserves the next free start time, and comes back then. Only start times within the next few seconds
can be reserved; when those are taken, a message comes back after them and tries again.
"""

from __future__ import annotations

from typing import Final

__all__ = ["RateLimits"]

HORIZON: Final = 5.0  # seconds ahead for which start times can be reserved
LATE: Final = 5.0  # seconds after which an unused reservation is forgotten


class RateLimits:
    """The rate limits of all tasks of a worker."""

    def __init__(self) -> None:
        self._free_at: dict[str, float] = {}  # by task: the next free start time
        self._reserved: dict[str, float] = {}  # by message id: its start time
        self._overflow: dict[str, float] = {}  # by task: when the last message without a reservation comes back
        self._forgot_at = 0.0  # when it last looked for reservations that were not used

    def admit(self, id: str, task: str, rate: float, now: float) -> float | None:
        """Return None if the message may run now, else the time (seconds since the epoch) when it is to come back."""
        start_at = self._reserved.pop(id, None)
        if start_at is not None and start_at <= now:
            return None
        interval = 1.0 / rate
        latest = now + 2 * HORIZON + interval
        if start_at is not None and start_at <= latest:
            self._reserved[id] = start_at
            return start_at
        free_at = max(now, self._free_at.get(task, 0.0))
        if free_at > latest:  # the clock was set back by seconds, or the rate was raised: begin a new line
            free_at = now + interval
            self._overflow.pop(task, None)
        if free_at <= now:
            self._free_at[task] = now + interval
            return None
        if free_at > now + HORIZON:
            # Messages without a reservation come back after the horizon, spread at the rate at which starts free up.
            again = max(self._overflow.get(task, 0.0), now + HORIZON) + interval
            self._overflow[task] = min(again, now + 12 * HORIZON)
            return again
        self._free_at[task] = free_at + interval
        self._reserved[id] = free_at
        self._forget(now)
        return free_at

    def _forget(self, now: float) -> None:
        """Forget reservations that were not used: of many, once a second, because that looks at each."""
        if len(self._reserved) > 1000 and abs(now - self._forgot_at) >= 1.0:
            self._forgot_at = now
            self._reserved = {id: start_at for id, start_at in self._reserved.items() if start_at > now - LATE}
