"""`at(datetime)`: a schedule with one tick."""

from __future__ import annotations

from datetime import datetime

from celeriac.schedules.moments import Moment, iso, moment
from celeriac.schedules.schedule import Schedule, call

__all__ = ["At", "at"]


class At(Schedule, frozen=True, omit_defaults=True, gc=False, tag="at"):
    """One tick; `at()` makes it."""

    instant: Moment

    def _first(self, low: int, high: int) -> int | None:
        return self.instant if low <= self.instant <= high else None

    _last = _first

    def _count(self, low: int, high: int) -> int:
        return int(low <= self.instant <= high)

    def _words(self) -> str:
        return f"once, at {iso(self.instant)}"

    def _call(self, **limits: str | None) -> str:
        return call("at", (iso(self.instant),), **limits)


def at(when: datetime | str) -> At:
    """Return a schedule with one tick, at an aware datetime, or one written in ISO 8601 with its offset.

    >>> at("2026-12-24T18:00+01:00").describe()
    'once, at 2026-12-24T17:00:00+00:00'
    """
    return At(moment(when, "at"))
