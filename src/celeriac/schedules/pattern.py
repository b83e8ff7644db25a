"""Which times on a clock match the fields of a cron expression. Knows no zone.

A *wall time* is what a clock on the wall shows, as seconds since 1970-01-01T00:00 on that clock. The next match is
found by day, month after month, and then by time. Sets are bits of integers, so that the next number of a set is the
lowest bit of the shifted set. The search takes one step for each month in between, and a few for the time.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import Final

import msgspec

from celeriac.schedules import fields
from celeriac.schedules.fields import LAST, Days
from celeriac.schedules.invalid import InvalidSchedule

__all__ = ["Pattern", "pattern"]

DAY: Final = 86_400
EPOCH: Final = date(1970, 1, 1).toordinal()
LENGTHS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class Pattern(msgspec.Struct, frozen=True, eq=False):
    """The wall times that match. Each method searches in `low <= time < high`."""

    seconds: int
    minutes: int
    hours: int
    days: Days
    months: int
    shapes: tuple[int, ...]  # the days of the month that match, by `_shape`
    fixed: bool  # neither the minute nor the hour begins with a star: a change of the clocks is made up for

    def first(self, low: int, high: int) -> int | None:
        """Return the first match."""
        day, second = divmod(low, DAY)
        time = self._time_from(second)
        if time is None or not self._on(day):
            found = self._day_from(day + 1, (high - 1) // DAY)
            if found is None:
                return None
            day, time = found, self._earliest
        wall = day * DAY + time
        return wall if wall < high else None

    def last(self, low: int, high: int) -> int | None:
        """Return the last match."""
        day, second = divmod(high - 1, DAY)
        time = self._time_until(second)
        if time is None or not self._on(day):
            found = self._day_until(day - 1, low // DAY)
            if found is None:
                return None
            day, time = found, self._latest
        wall = day * DAY + time
        return wall if wall >= low else None

    def count(self, low: int, high: int) -> int:
        """Return the number of matches."""
        if low >= high:
            return 0
        day, second = divmod(low, DAY)
        last_day, last_second = divmod(high, DAY)
        found = self._count_days(day, last_day) * self._times_before(DAY)
        if self._on(day):
            found -= self._times_before(second)
        if self._on(last_day):
            found += self._times_before(last_second)
        return found

    # --- Times of a day, in seconds --------------------------------------------------------------------

    @property
    def _earliest(self) -> int:
        return _lowest(self.hours) * 3600 + _lowest(self.minutes) * 60 + _lowest(self.seconds)

    @property
    def _latest(self) -> int:
        return _highest(self.hours) * 3600 + _highest(self.minutes) * 60 + _highest(self.seconds)

    def _time_from(self, second: int) -> int | None:
        """Return the first time at or after a second of the day."""
        minute, second = divmod(second, 60)
        hour, minute = divmod(minute, 60)
        if self.hours >> hour & 1:
            if self.minutes >> minute & 1 and (rest := self.seconds >> second):
                return hour * 3600 + minute * 60 + second + _lowest(rest)
            if rest := self.minutes >> minute + 1:
                return hour * 3600 + (minute + 1 + _lowest(rest)) * 60 + _lowest(self.seconds)
        if rest := self.hours >> hour + 1:
            return (hour + 1 + _lowest(rest)) * 3600 + _lowest(self.minutes) * 60 + _lowest(self.seconds)
        return None

    def _time_until(self, second: int) -> int | None:
        """Return the last time at or before a second of the day."""
        minute, second = divmod(second, 60)
        hour, minute = divmod(minute, 60)
        if self.hours >> hour & 1:
            if self.minutes >> minute & 1 and (rest := self.seconds & _below(second + 1)):
                return hour * 3600 + minute * 60 + _highest(rest)
            if rest := self.minutes & _below(minute):
                return hour * 3600 + _highest(rest) * 60 + _highest(self.seconds)
        if rest := self.hours & _below(hour):
            return _highest(rest) * 3600 + _highest(self.minutes) * 60 + _highest(self.seconds)
        return None

    def _times_before(self, second: int) -> int:
        """Return how many times there are before a second of the day."""
        minute, second = divmod(second, 60)
        hour, minute = divmod(minute, 60)
        found = (self.hours & _below(hour)).bit_count() * self.minutes.bit_count() * self.seconds.bit_count()
        if self.hours >> hour & 1:
            found += (self.minutes & _below(minute)).bit_count() * self.seconds.bit_count()
            if self.minutes >> minute & 1:
                found += (self.seconds & _below(second)).bit_count()
        return found

    # --- Days, as days since the epoch -----------------------------------------------------------------

    def _on(self, day: int) -> bool:
        return self._day_from(day, day) is not None

    def _day_from(self, day: int, last: int) -> int | None:
        """Return the first day that matches, from `day` to `last`."""
        year, month, number = _date(day)
        start = day - number + 1  # the first of the month
        while start <= last:
            length = _length(year, month)
            if rest := self._in_month(month, start, length) >> number:
                found = start + number - 1 + _lowest(rest)
                return found if found <= last else None
            start, number = start + length, 1
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        return None

    def _day_until(self, day: int, first: int) -> int | None:
        """Return the last day that matches, from `first` to `day`."""
        year, month, number = _date(day)
        start = day - number + 1
        while start + number > first:
            if rest := self._in_month(month, start, _length(year, month)) & _below(number + 1):
                found = start + _highest(rest) - 1
                return found if found >= first else None
            year, month = (year, month - 1) if month > 1 else (year - 1, 12)
            number = _length(year, month)
            start -= number
        return None

    def _count_days(self, day: int, end: int) -> int:
        """Return how many days match, from `day` to before `end`."""
        year, month, number = _date(day)
        start, found = day - number + 1, 0
        while start < end:
            length = _length(year, month)
            rest = self._in_month(month, start, length) & _below(min(length, end - start) + 1)
            found += (rest >> number).bit_count()
            start, number = start + length, 1
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        return found

    def _in_month(self, month: int, start: int, length: int) -> int:
        return self.shapes[_shape((start + 4) % 7, length)] if self.months >> month & 1 else 0


@lru_cache(maxsize=16_384)
def pattern(second: str, minute: str, hour: str, day: str, month: str, weekday: str, vixie: bool) -> Pattern:
    """Return the pattern of six fields. Raises `InvalidSchedule`, also if no day ever matches.

    The calendar repeats itself after 400 years, in which every month begins with each day of the week.
    """
    days = fields.days(day, weekday, vixie)
    months = fields.numbers(fields.MONTH, month)
    shapes = _shapes(days)
    lengths = {_length(year, number) for year in (2000, 2001) for number in range(1, 13) if months >> number & 1}
    if not any(shapes[_shape(first, length)] for first in range(7) for length in lengths):
        raise InvalidSchedule("it never comes: no day of these months matches.")
    return Pattern(
        fields.numbers(fields.SECOND, second),
        fields.numbers(fields.MINUTE, minute),
        fields.numbers(fields.HOUR, hour),
        days,
        months,
        shapes,
        fields.restricted(minute) and fields.restricted(hour),
    )


@lru_cache(maxsize=4096)
def _shapes(days: Days) -> tuple[int, ...]:
    """Return the days that match, for months of each length that begin with each day of the week."""
    return tuple(_matching(days, first, length) for first in range(7) for length in range(28, 32))


def _shape(first: int, length: int) -> int:
    """Return the index of the months of a length that begin with a weekday (0: Sunday)."""
    return first * 4 + length - 28


def _matching(days: Days, first: int, length: int) -> int:
    found = 0
    for day in range(1, length + 1):
        weekday, week = (first + day - 1) % 7, (day + 6) // 7
        in_month = days.month >> day & 1 or days.from_end >> length - day & 1
        in_week = days.week >> weekday & 1 or (weekday, week) in days.weeks or (
            day + 7 > length and (weekday, LAST) in days.weeks)  # fmt: skip
        if (in_month or in_week) if days.either else (in_month and in_week):
            found |= 1 << day
    return found


def _date(day: int) -> tuple[int, int, int]:
    found = date.fromordinal(day + EPOCH)
    return found.year, found.month, found.day


def _length(year: int, month: int) -> int:
    if month == 2 and year % 4 == 0 and (year % 100 or year % 400 == 0):
        return 29
    return LENGTHS[month - 1]


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _highest(bits: int) -> int:
    return bits.bit_length() - 1


def _below(bit: int) -> int:
    return (1 << bit) - 1
