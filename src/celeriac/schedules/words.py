"""A pattern in words: `at 09:00 on the 1st and every Monday`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from celeriac.schedules.fields import LAST, MONTHS, WEEKDAYS, Days
from celeriac.schedules.pattern import Pattern

__all__ = ["describe"]

MANY: Final = 6  # times of day that are listed
WHICH: Final = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth", LAST: "last"}


def describe(pattern: Pattern) -> str:
    """Return a pattern in words."""
    days = pattern.days
    time, day = _time(pattern), _day(days)
    month = _list(pattern.months, 1, 12, lambda number: MONTHS[number - 1])
    if not day and time.startswith("at ") and ":" in time:
        day = "every day"
    text = f"{time}, {day}" if day and day[0].isupper() else f"{time} {day}".rstrip()
    if pattern.months == 0x1FFE:
        return text
    return f"{text} {'of' if days.any_weekday and day.startswith('on the') else 'in'} {month}"


# --- Times --------------------------------------------------------------------------------------------


def _time(pattern: Pattern) -> str:
    seconds, minutes, hours = (_items(bits) for bits in (pattern.seconds, pattern.minutes, pattern.hours))
    if len(seconds) == 1 and len(minutes) * len(hours) <= MANY:
        end = "" if seconds == [0] else f":{seconds[0]:02}"
        return "at " + _join(f"{hour:02}:{minute:02}{end}" for hour in hours for minute in minutes)
    second = "" if seconds == [0] else _unit("second", seconds, 60)
    minute = _unit("minute", minutes, 60)
    hour = _unit("hour", hours, 24)
    if not second and minutes == [0] and hour.startswith("every"):
        return hour
    parts = [second] if second else []
    if not second or len(minutes) < 60:
        parts.append(minute)
    if len(hours) < 24 or minute.startswith("at") or (second.startswith("at") and len(minutes) == 60):
        parts.append("every minute" if len(hours) == 24 and len(minutes) == 60 else hour)
    return " of ".join(part if number == 0 else part.removeprefix("at ") for number, part in enumerate(parts))


def _unit(name: str, values: list[int], span: int) -> str:
    """Return `every minute`, `every 15 minutes` or `at minutes 5 and 35`."""
    step = values[1] - values[0] if len(values) > 1 else 0
    if step and span % step == 0 and values == list(range(0, span, step)):
        return f"every {name}" if step == 1 else f"every {step} {name}s"
    return f"at {name}{'s' if len(values) > 1 else ''} {_runs(values, str)}"


# --- Days ---------------------------------------------------------------------------------------------


def _day(days: Days) -> str:
    """Return the days in words: nothing for every day."""
    if days.any_day:
        return "" if days.any_weekday else _weekdays(days, "every ")
    month = _in_month(days)
    if days.either:
        return f"{month} and {_weekdays(days, 'every ')}"
    return month if days.any_weekday else f"{month} if it is {_weekdays(days, 'a ')}"


def _in_month(days: Days) -> str:
    parts = []
    numbers = _items(days.month)
    step = numbers[1] - numbers[0] if len(numbers) > 2 else 0
    if step > 1 and numbers == list(range(1, 32, step)):
        parts.append(f"every {_ordinal(step)} day from the 1st")
    elif numbers:
        parts.append(f"the {_runs(numbers, _ordinal)}")
    parts += ["the last day of the month" if number == 0 else f"the {_ordinal(number)} day before the last"
              for number in _items(days.from_end)]  # fmt: skip
    return f"on {_join(parts)}"


def _weekdays(days: Days, article: str) -> str:
    """Return `every Monday`, `Monday to Friday`, or `on the last Friday of the month`."""
    parts = []
    if days.week:
        found = _list(days.week, 0, 6, lambda number: WEEKDAYS[number])
        parts.append(found if " to " in found else f"{article}{found}")
    weeks = [f"{WHICH[week]} {WEEKDAYS[weekday]}" for weekday, week in sorted(days.weeks)]
    if weeks:
        parts.append(f"{'on ' if article == 'every ' else ''}the {_join(weeks)} of the month")
    return " and ".join(parts)


# --- Lists --------------------------------------------------------------------------------------------


def _items(bits: int) -> list[int]:
    return [number for number in range(bits.bit_length()) if bits >> number & 1]


def _list(bits: int, low: int, high: int, word: Callable[[int], str]) -> str:
    return _runs([number for number in _items(bits) if low <= number <= high], word)


def _runs(numbers: list[int], word: Callable[[int], str]) -> str:
    """Return numbers in words, three and more that follow each other as `1 to 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts: list[str] = []
    for run in runs:
        parts += [f"{word(run[0])} to {word(run[-1])}"] if len(run) > 2 else [word(number) for number in run]
    return _join(parts)


def _join(parts: Iterable[str]) -> str:
    """Return `a, b and c`."""
    *some, last = parts
    return f"{', '.join(some)} and {last}" if some else last


def _ordinal(number: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if 10 < number < 14 else ends.get(number % 10, 'th')}"
