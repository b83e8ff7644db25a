"""The fields of a cron expression, read into sets of numbers: integers whose bit `n` says that `n` is in the set.

    *   5   5,10   9-17   22-2 (over midnight)   */15   10-50/20   5/20 (from 5 on)   mon-fri   january
    L   L-3 (the third day before the last of the month)   mon#2 (the second Monday)   5L (the last Friday)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from celeriac.errors import nearest
from celeriac.schedules.invalid import InvalidSchedule

__all__ = [
    "DAY",
    "HOUR",
    "LAST",
    "MINUTE",
    "MONTH",
    "MONTHS",
    "SECOND",
    "WEEKDAY",
    "WEEKDAYS",
    "Days",
    "Field",
    "days",
    "numbers",
    "restricted",
]

MONTHS: Final = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
                 "November", "December")  # fmt: skip
WEEKDAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
LAST: Final = 0  # the week of `5L`


class Field(msgspec.Struct, frozen=True, eq=False):
    """A field of an expression. Numbers over `highest` begin again from `lowest`, `span` lower."""

    name: str  # in errors
    lowest: int
    highest: int
    span: int
    names: Mapping[str, int] = {}


def _names(words: tuple[str, ...], first: int) -> dict[str, int]:
    return {name.lower(): number for number, word in enumerate(words, first) for name in (word[:3], word)}


SECOND: Final = Field("second", 0, 59, 60)
MINUTE: Final = Field("minute", 0, 59, 60)
HOUR: Final = Field("hour", 0, 23, 24)
DAY: Final = Field("day of the month", 1, 31, 31)
MONTH: Final = Field("month", 1, 12, 12, _names(MONTHS, 1))
WEEKDAY: Final = Field("day of the week", 0, 7, 7, _names(WEEKDAYS, 0))  # Sunday is 0 and 7


class Days(NamedTuple):
    """The days of both fields of days."""

    month: int  # bits 1 to 31
    from_end: int  # bit n: n days before the last of the month
    week: int  # bits 0 (Sunday) to 6
    weeks: frozenset[tuple[int, int]]  # a weekday and which of the month, 1 to 5 or `LAST`
    either: bool  # a day in one of the fields is enough
    any_day: bool  # the day of the month is not restricted
    any_weekday: bool


def restricted(text: str) -> bool:
    """Return whether a field is restricted, as Vixie's cron sees it: it does not begin with a star.

    >>> restricted("*/5"), restricted("0-59")
    (False, True)
    """
    return not text.startswith("*")


@lru_cache(maxsize=4096)
def numbers(field: Field, text: str) -> int:
    """Return the set of numbers of a field.

    >>> f"{numbers(HOUR, '22-2'):024b}"
    '110000000000000000000111'
    """
    found = 0
    for term in text.lower().split(","):
        found |= _term(field, term)
    return found


@lru_cache(maxsize=4096)
def days(month: str, week: str, vixie: bool) -> Days:
    """Return the days of both fields: they have to match both, or with `vixie`, if both are restricted, one of them."""
    in_month = from_end = in_week = 0
    weeks = set()
    for term in month.lower().split(","):
        if term.startswith("l"):
            from_end |= 1 << _from_end(term)
        else:
            in_month |= _term(DAY, term)
    for term in week.lower().split(","):
        name, hash_, which = term.partition("#")
        if hash_:
            weeks.add((_number(WEEKDAY, name) % 7, _which(term, which)))
        elif term.endswith("l"):
            if term == "l":
                raise InvalidSchedule("the day of the week 'L' lacks a weekday: 5L is the last Friday of the month.")
            weeks.add((_number(WEEKDAY, term[:-1]) % 7, LAST))
        else:
            in_week |= _term(WEEKDAY, term)
    in_week = (in_week | in_week >> 7) & 0x7F
    either = vixie and restricted(month) and restricted(week)
    return Days(in_month, from_end, in_week, frozenset(weeks), either,
                in_month == 0xFFFFFFFE, in_week == 0x7F)  # fmt: skip


def _term(field: Field, term: str) -> int:
    """Return the numbers of one term of a list: `*`, `5` or `1-5`, each with a step or without."""
    span, slash, step = term.partition("/")
    by = _step(field, step) if slash else 1
    first, dash, last = span.partition("-")
    if span == "*":
        low, high = field.lowest, field.highest
    elif dash:
        low, high = _number(field, first), _number(field, last)
        if high < low:
            high += field.span
    else:
        low = _number(field, span)
        high = field.highest if slash else low
    found = 0
    for number in range(low, high + 1, by):
        found |= 1 << (number if number <= field.highest else number - field.span)
    return found


def _number(field: Field, text: str) -> int:
    if text in field.names:
        return field.names[text]
    if not text or not text.isascii() or not text.isdigit():
        raise InvalidSchedule(f"the {field.name} {text!r} is not a number{' or a name' if field.names else ''}."
                              f"{nearest(text, field.names)}")  # fmt: skip
    if len(text) > 4 or not field.lowest <= int(text) <= field.highest:
        raise InvalidSchedule(f"the {field.name} {text} is not between {field.lowest} and {field.highest}.")
    return int(text)


def _step(field: Field, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 4 or int(text) == 0:
        raise InvalidSchedule(f"the step {text!r} of the {field.name} is not a number from 1 on.")
    if int(text) > field.span:
        raise InvalidSchedule(f"the step {text} of the {field.name} is over {field.span}: it never reaches the next "
                              "value. An interval is written every(minutes=90).")  # fmt: skip
    return int(text)


def _from_end(term: str) -> int:
    if term == "l":
        return 0
    text = term.removeprefix("l-")
    if not text.isascii() or not text.isdigit() or len(text) > 2 or int(text) > 30:
        raise InvalidSchedule(f"the day of the month {term.upper()!r} is neither L nor L-0 to L-30.")
    return int(text)


def _which(term: str, which: str) -> int:
    if which not in {"1", "2", "3", "4", "5"}:
        raise InvalidSchedule(f"the day of the week {term!r} does not end in #1 to #5.")
    return int(which)
