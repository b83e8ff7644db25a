"""Time: the clock that the app passes to its broker and backend, and the durations and instants that callers give.

Instants are seconds since the epoch (float, UTC) in messages and stores; `datetime` appears in the API only.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

__all__ = ["Clock", "Duration", "Steps", "aware", "instant", "limit", "seconds"]


Duration = float | timedelta

LONGEST = timedelta(days=365_250).total_seconds()  # a thousand years, so that now plus a duration fits in a datetime
FIRST, LAST = (moment.replace(tzinfo=UTC, microsecond=0).timestamp() for moment in (datetime.min, datetime.max))


class Clock:
    """The machine's clock. Tests pass an object with the same methods."""

    now = staticmethod(time.time)
    """Return seconds since the epoch."""

    monotonic = staticmethod(time.monotonic)
    """Return seconds from an arbitrary start; never goes back."""

    steady = staticmethod(time.monotonic)
    """Return the same: by how much `now` would have gone on if nobody had set it. Clocks of tests differ here: waits
    end by `monotonic`, which nothing moves."""


class Steps:
    """Notices that a clock is set forward: by NTP, by an operator, or because the machine was suspended.

    What others have renewed before seems to be old then, although hardly any time has passed for them.
    """

    STEP = 1.0  # seconds; less is no step

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = clock.now() - clock.steady()
        self._noticed_at = float("-inf")  # steady

    def within(self, seconds: float) -> bool:
        """Return whether a step was noticed within the last seconds. Call it often: it looks for one now."""
        steady = self._clock.steady()
        before, self._ahead = self._ahead, self._clock.now() - steady
        if self._ahead > before + self.STEP:
            self._noticed_at = steady
        return steady < self._noticed_at + seconds


def seconds(value: Duration, name: str = "the duration") -> float:
    """Return a duration in seconds.

    >>> seconds(timedelta(minutes=2))
    120.0
    """
    found = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise TypeError(f"{name} must be seconds (a number) or a timedelta, not {value!r}")
    if not -LONGEST <= found <= LONGEST:
        raise ValueError(f"{name} must be a number of seconds within a thousand years, not {value!r}")
    return float(found)


def limit(value: Duration | None, name: str = "timeout") -> float | None:
    """Return a limit in seconds, or None for no limit."""
    return None if value is None else seconds(value, name)


def instant(value: datetime | float, name: str = "the instant") -> float:
    """Return an aware datetime, or seconds since the epoch, as seconds since the epoch.

    Raises `TypeError` for a naive datetime, whose time zone is unknown.

    >>> instant(datetime(2026, 1, 1, tzinfo=UTC))
    1767225600.0
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise TypeError(f"{name} must be an aware datetime, not {value!r}: write datetime.now(UTC) + …")
        value = value.timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be an aware datetime, not {value!r}")
    if not FIRST <= value <= LAST:
        raise ValueError(f"{name} must be between the years 1 and 9999 in UTC, not {value!r}")
    return float(value)


EARLIEST, LATEST = -62_135_510_400, 253_402_214_400  # a day within what `datetime` has, for any time zone


def aware(value: float) -> datetime:
    """Return seconds since the epoch as an aware datetime in UTC; the nearest there is for one that is out of range."""
    return datetime.fromtimestamp(min(max(value, EARLIEST), LATEST), UTC)
