"""The time, as everything that compares instants asks for it, so that tests can set it.

Instants are seconds since the epoch (float, UTC) on every wire and in every store; `datetime` is for people.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

__all__ = ["Clock", "Duration", "aware", "instant", "limit", "seconds"]


Duration = float | timedelta

LONGEST = timedelta(days=365_250).total_seconds()  # a thousand years: what comes within it can be written as a datetime
FIRST, LAST = (moment.replace(tzinfo=UTC, microsecond=0).timestamp() for moment in (datetime.min, datetime.max))


class Clock:
    """The machine's own clock. A test passes an object with the same two methods."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start, never going back."""
        return time.monotonic()


def seconds(value: Duration, name: str = "the duration") -> float:
    """Return a duration in seconds.

    >>> seconds(timedelta(minutes=2))
    120.0
    """
    found = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise TypeError(f"{name} takes seconds (a number) or a timedelta, not {value!r}")
    if not -LONGEST <= found <= LONGEST:
        raise ValueError(f"{name} takes a number of seconds, of a thousand years at most, not {value!r}")
    return float(found)


def limit(value: Duration | None, name: str = "timeout") -> float | None:
    """Return a limit in seconds; None is no limit."""
    return None if value is None else seconds(value, name)


def instant(value: datetime | float, name: str = "the instant") -> float:
    """Return an aware datetime, or seconds since the epoch, as seconds since the epoch.

    A naive datetime is refused: nobody can know which zone was meant.

    >>> instant(datetime(2026, 1, 1, tzinfo=UTC))
    1767225600.0
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise TypeError(f"{name} takes an aware datetime, not {value!r}: write datetime.now(UTC) + …")
        value = value.timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} takes an aware datetime, not {value!r}")
    if not FIRST <= value <= LAST:
        raise ValueError(f"{name} takes an instant of the years 1 to 9999 in UTC, not {value!r}")
    return float(value)


def aware(value: float) -> datetime:
    """Return seconds since the epoch as an aware datetime in UTC."""
    return datetime.fromtimestamp(value, UTC)
