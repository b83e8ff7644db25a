"""A schedule: a set of instants, the ticks, that is asked for the next one and the previous one.

`crontab()`, `cron()`, `every()`, `solar()` and `at()` make schedules. They are values: immutable, compared by content,
and stored as they are (`kinds.py`). What is due is a function of the schedule alone: every scheduler finds the same
ticks, whenever it was started.

Instants are integers, milliseconds since the epoch, from 1970 to 9999.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Any, Self

import msgspec

from celeriac.schedules.invalid import InvalidSchedule
from celeriac.schedules.moments import LATEST, Moment, iso, moment

__all__ = ["Schedule", "call", "limits"]


class Schedule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A set of ticks. Subclasses find those within bounds; this class knows the limits `starts` and `ends`."""

    starts: Moment | None = None  # no tick before
    ends: Moment | None = None  # no tick after

    def __post_init__(self) -> None:
        if self.starts is not None and self.ends is not None and self.starts > self.ends:
            raise InvalidSchedule(f"{self!r} ends before it starts.")
        self._check()

    def next(self, after: int) -> int | None:
        """Return the first tick after an instant; None if there is none, or none within 50 years."""
        low, high = self._within(after + 1, LATEST)
        return self._first(low, high) if low <= high else None

    def previous(self, before: int) -> int | None:
        """Return the last tick before an instant; None if there is none, or none within 50 years."""
        low, high = self._within(0, before - 1)
        return self._last(low, high) if low <= high else None

    def count(self, after: int, until: int) -> int:
        """Return how many ticks there are after an instant and until another, itself included."""
        low, high = self._within(after + 1, until)
        return self._count(low, high) if low <= high else 0

    def in_zone(self, timezone: str) -> Self:
        """Return this schedule in a zone, unless it has one or needs none."""
        return self

    def describe(self) -> str:
        """Return the schedule in words."""
        text = self._words()
        if self.starts is not None:
            text += f", from {iso(self.starts, self._zone())}"
        if self.ends is not None:
            text += f", until {iso(self.ends, self._zone())}"
        return text

    def __repr__(self) -> str:
        return self._call(starts=None if self.starts is None else iso(self.starts, self._zone()),
                          ends=None if self.ends is None else iso(self.ends, self._zone()))  # fmt: skip

    # --- For subclasses. Bounds are included, and at least `low <= high` ---------------------------------

    def _check(self) -> None:
        """Raise `InvalidSchedule` for a schedule that cannot be."""

    def _first(self, low: int, high: int) -> int | None:
        raise NotImplementedError

    def _last(self, low: int, high: int) -> int | None:
        raise NotImplementedError

    def _count(self, low: int, high: int) -> int:
        raise NotImplementedError

    def _words(self) -> str:
        raise NotImplementedError

    def _call(self, **limits: str | None) -> str:
        """Return the call that makes this schedule, with these arguments after its own (None: left out)."""
        raise NotImplementedError

    def _zone(self) -> tzinfo:
        return UTC

    def _within(self, low: int, high: int) -> tuple[int, int]:
        return max(low, self.starts or 0), min(high, LATEST if self.ends is None else self.ends)


def limits(starts: datetime | str | None, ends: datetime | str | None) -> dict[str, Any]:
    """Return the limits of a schedule as its fields."""
    return {name: moment(value, name) for name, value in (("starts", starts), ("ends", ends)) if value is not None}


def call(name: str, positional: tuple[Any, ...], **named: Any) -> str:
    """Return a call as text. Arguments that are None are left out.

    >>> call("cron", ("@daily",), tz="Asia/Tokyo", ends=None)
    "cron('@daily', tz='Asia/Tokyo')"
    """
    parts = [repr(value) for value in positional]
    parts += [f"{key}={value!r}" for key, value in named.items() if value is not None]
    return f"{name}({', '.join(parts)})"
