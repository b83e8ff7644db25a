"""Random cron expressions, each with what it means, put together from the same parts."""

from __future__ import annotations

import calendar
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from hypothesis import strategies as st

__all__ = ["Expression", "at_night", "expressions"]

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

Numbers = tuple[str, frozenset[int]]
Days = tuple[str, Callable[[date], bool]]


@dataclass(frozen=True)
class Expression:
    """Five fields as text, and as sets and predicates."""

    minute: Numbers
    hour: Numbers
    day: Days
    month: Numbers
    weekday: Days

    @property
    def text(self) -> str:
        return " ".join(field[0] for field in (self.minute, self.hour, self.day, self.month, self.weekday))

    @property
    def real(self) -> bool:
        """Whether it goes by real time."""
        return self.minute[0].startswith("*") or self.hour[0].startswith("*")

    def on(self, day: date, vixie: bool = True) -> bool:
        """Return whether a day matches."""
        if day.month not in self.month[1]:
            return False
        both = self.day[1](day), self.weekday[1](day)
        stars = self.day[0].startswith("*") or self.weekday[0].startswith("*")
        return any(both) if vixie and not stars else all(both)

    def at(self, moment: datetime, vixie: bool = True) -> bool:
        """Return whether a time on the clock matches."""
        return moment.minute in self.minute[1] and moment.hour in self.hour[1] and self.on(moment.date(), vixie)


def _terms(low: int, high: int, plain: bool) -> st.SearchStrategy[Numbers]:
    def ranged(ends: set[int], step: int) -> Numbers:
        first, last = sorted(ends)
        text = f"{first}-{last}" + (f"/{step}" if step > 1 else "")
        return text, frozenset(range(first, last + 1, step))

    number, step = st.integers(low, high), st.integers(1, (high - low) // 2)
    terms = [
        number.map(lambda found: (str(found), frozenset({found}))),
        st.builds(ranged, st.sets(number, min_size=2, max_size=2), step),
    ]
    if not plain:
        terms.append(
            st.builds(lambda first, by: (f"{first}/{by}", frozenset(range(first, high + 1, by))), number, step)
        )
    return st.one_of(terms)


def _list(parts: list[Numbers]) -> Numbers:
    return ",".join(text for text, _ in parts), frozenset().union(*(found for _, found in parts))


def _numbers(low: int, high: int, plain: bool) -> st.SearchStrategy[Numbers]:
    star = st.integers(1, (high - low) // 2).map(
        lambda by: ("*" if by == 1 else f"*/{by}", frozenset(range(low, high + 1, by)))
    )
    return st.one_of(star, st.lists(_terms(low, high, plain), min_size=1, max_size=3).map(_list))


def _length(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


def _in_month(number: Numbers) -> Days:
    return number[0], lambda day: day.day in number[1]


def _last(before: int) -> Days:
    return "L" + (f"-{before}" if before else ""), lambda day: day.day == _length(day) - before


def _in_week(number: Numbers) -> Days:
    return number[0], lambda day: bool({day.isoweekday(), day.isoweekday() % 7} & number[1])


def _which(weekday: int, week: int, named: bool) -> Days:
    name = WEEKDAYS[weekday] if named else str(weekday)
    if week:
        return f"{name}#{week}", lambda day: day.isoweekday() % 7 == weekday and (day.day - 1) // 7 == week - 1
    return f"{weekday}L", lambda day: day.isoweekday() % 7 == weekday and day.day + 7 > _length(day)


def _any_day(_: date) -> bool:
    return True


STAR: Days = ("*", _any_day)


def expressions(plain: bool = False) -> st.SearchStrategy[Expression]:
    """Return expressions that come often. `plain`: without what Celery and cronsim do not know."""
    days: list[Any] = [st.just(STAR), st.just(STAR), _numbers(1, 31, plain).map(_in_month)]
    weekdays: list[Any] = [st.just(STAR), st.just(STAR), _numbers(0, 6 if plain else 7, plain).map(_in_week)]
    if not plain:
        days.append(st.integers(0, 9).map(_last))
        weekdays.append(st.builds(_which, st.integers(0, 6), st.integers(0, 5), st.booleans()))
    months = st.one_of(
        st.just(("*", frozenset(range(1, 13)))),
        st.just(("*", frozenset(range(1, 13)))),
        st.sampled_from(range(1, 13)).map(lambda month: (MONTHS[month - 1], frozenset({month}))),
        _numbers(1, 12, plain),
    )
    minutes, hours = _numbers(0, 59, plain), _numbers(0, 23, plain)
    return st.builds(Expression, minutes, hours, st.one_of(days), months, st.one_of(weekdays))


def at_night() -> st.SearchStrategy[Expression]:
    """Return expressions that come at fixed times in the hours in which clocks are changed, on most days."""
    minutes = st.lists(_terms(0, 59, plain=False), min_size=1, max_size=2).map(_list)
    hours = st.lists(_terms(0, 4, plain=True), min_size=1, max_size=2).map(_list)
    weekdays = st.one_of(st.just(STAR), _numbers(0, 7, plain=False).map(_in_week))
    return st.builds(Expression, minutes, hours, st.just(STAR), st.just(("*", frozenset(range(1, 13)))), weekdays)
