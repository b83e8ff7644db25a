"""`every(30)`: schedules with a fixed interval."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta

from celeriac.model.clock import Duration
from celeriac.schedules.invalid import InvalidSchedule
from celeriac.schedules.moments import LONGEST, in_seconds, milliseconds
from celeriac.schedules.schedule import Schedule, call, limits

__all__ = ["UNITS", "Every", "every"]

UNITS: Final = {"weeks": 604_800_000, "days": 86_400_000, "hours": 3_600_000, "minutes": 60_000, "seconds": 1_000}


class Every(Schedule, frozen=True, omit_defaults=True, gc=False, tag="every"):
    """An interval; `every()` makes it. Ticks are at `phase + n * period` milliseconds since the epoch."""

    period: Annotated[int, Meta(ge=1, le=LONGEST)]
    phase: Annotated[int, Meta(ge=0)] = 0

    def _check(self) -> None:
        if self.phase >= self.period:
            raise InvalidSchedule(f"the phase of {self!r} is not less than the interval.")

    def _first(self, low: int, high: int) -> int | None:
        found = low + (self.phase - low) % self.period
        return found if found <= high else None

    def _last(self, low: int, high: int) -> int | None:
        found = high - (high - self.phase) % self.period
        return found if found >= low else None

    def _count(self, low: int, high: int) -> int:
        return (high - self.phase) // self.period - (low - 1 - self.phase) // self.period

    def _words(self) -> str:
        unit, size = _unit(self.period)
        number = self.period // size if self.period % size == 0 else self.period / size
        text = f"every {unit[:-1]}" if number == 1 else f"every {number} {unit}"
        return f"{text}, {self.phase / 1000:g} seconds after" if self.phase else text

    def _call(self, **limits: str | None) -> str:
        unit, size = _unit(self.period)
        phase = None if self.phase == 0 else in_seconds(self.phase)
        if unit == "seconds":
            return call("every", (in_seconds(self.period),), phase=phase, **limits)
        return call("every", (), **{unit: self.period // size}, phase=phase, **limits)


def every(
    interval: Duration | None = None,
    *,
    weeks: float = 0,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
    phase: Duration = 0,
    starts: datetime | str | None = None,
    ends: datetime | str | None = None,
) -> Every:
    """Return a schedule with an interval: seconds or a timedelta, or by unit.

    >>> every(30).describe(), every(hours=1, minutes=30).describe()
    ('every 30 seconds', 'every 90 minutes')

    Ticks are aligned to the epoch plus `phase`, not to the start of a process: `every(hours=1)` is due at full hours,
    and `every(hours=1, phase=600)` ten minutes later. A change of the clocks does not matter to an interval; a time of
    day is written `crontab(minute=0, hour=9)`.
    """
    given = {"weeks": weeks, "days": days, "hours": hours, "minutes": minutes, "seconds": seconds}
    period = 0 if interval is None else milliseconds(interval, "the interval")
    for unit, number in given.items():
        period += round(milliseconds(number, unit) * (UNITS[unit] // 1000))
    if interval is not None and any(given.values()):
        raise InvalidSchedule("every() takes an interval or units, not both: every(30), every(minutes=5).")
    if not 1 <= period <= LONGEST:
        raise InvalidSchedule("the interval of every() must be from a millisecond to a thousand years, "
                              f"not {period / 1000:g} seconds.")  # fmt: skip
    return Every(period, milliseconds(phase, "phase") % period, **limits(starts, ends))


def _unit(period: int) -> tuple[str, int]:
    """Return the largest unit that divides an interval, or seconds."""
    return next(((unit, size) for unit, size in UNITS.items() if period % size == 0), ("seconds", 1_000))
