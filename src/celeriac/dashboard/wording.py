"""Numbers, durations and instants in words, as all pages write them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

__all__ = ["ago", "duration", "error_name", "instant", "number", "percent", "rate", "short"]

MINUTE: Final = 60.0
HOUR: Final = 3600.0
DAY: Final = 86_400.0
NARROW: Final = "\N{NARROW NO-BREAK SPACE}"
NONE: Final = "–"


def number(value: float | None) -> str:
    """Return a count.

    >>> number(1204331)
    '1,204,331'
    """
    return NONE if value is None else f"{round(value):,}"


def short(value: float | None) -> str:
    """Return a count in few characters.

    >>> [short(value) for value in (0, 999, 12_345, 1_204_331)]
    ['0', '999', '12.3k', '1.2M']
    """
    if value is None:
        return NONE
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.1f}{unit}"
    return f"{round(value):,}"


def rate(value: float | None) -> str:
    """Return how many there are per second, or per minute if they are few.

    >>> [rate(value).replace(NARROW, " ") for value in (0, 0.05, 3.2, 1234)]
    ['0/s', '3/min', '3.2/s', '1,234/s']
    """
    if value is None:
        return NONE
    if 0 < value < 0.5:
        per_minute = value * MINUTE
        return f"{per_minute:.1f}/min" if per_minute < 1 else f"{per_minute:.0f}/min"
    return f"{value:.1f}/s" if 0 < value < 100 and value != int(value) else f"{value:,.0f}/s"


def percent(part: float | None) -> str:
    """Return a share.

    >>> [percent(value).replace(NARROW, " ") for value in (0, 0.0004, 0.0312, 0.5, 1)]
    ['0 %', '< 0.1 %', '3.1 %', '50 %', '100 %']
    """
    if part is None:
        return NONE
    if 0 < part < 0.001:
        return f"<{NARROW}0.1{NARROW}%"
    if part in (0, 1) or 0.1 <= part < 0.999:
        return f"{part * 100:.0f}{NARROW}%"
    return f"{part * 100:.1f}{NARROW}%"


def duration(seconds: float | None) -> str:
    """Return a duration, in at most two units.

    >>> [duration(value).replace(NARROW, " ") for value in (0, 0.0004, 0.012, 1.44, 42, 200, 7500, 100_000)]
    ['0 s', '< 1 ms', '12 ms', '1.4 s', '42 s', '3 min 20 s', '2 h 5 min', '1 d 3 h']
    """
    if seconds is None:
        return NONE
    value = abs(seconds)
    if value == 0:
        text = f"0{NARROW}s"
    elif value < 0.001:
        text = f"<{NARROW}1{NARROW}ms"
    elif value < 0.9995:
        text = f"{value * 1000:.0f}{NARROW}ms"
    elif value < 9.95:
        text = f"{value:.1f}{NARROW}s"
    elif value < MINUTE - 0.5:
        text = f"{value:.0f}{NARROW}s"
    elif value < HOUR:
        text = _two(round(value), 60, "min", 1, "s")
    elif value < DAY:
        text = _two(round(value), 3600, "h", 60, "min")
    else:
        text = _two(round(value), 86_400, "d", 3600, "h")
    return f"−{text}" if seconds < 0 else text


def _two(value: int, large: int, one: str, small: int, other: str) -> str:
    whole, rest = divmod(value, large)
    rest //= small
    return f"{whole}{NARROW}{one}" + (f" {rest}{NARROW}{other}" if rest else "")


def ago(at: float, now: float) -> str:
    """Return how long ago an instant was, or how far ahead it is. `live.js` says the same.

    >>> [ago(at, 1000).replace(NARROW, " ") for at in (1000, 990, 700, 1030)]
    ['now', '10 s ago', '5 min ago', 'in 30 s']
    """
    value = now - at
    size = abs(value)
    if size < 1:
        return "now"
    for unit, length in (("d", DAY), ("h", HOUR), ("min", MINUTE), ("s", 1.0)):
        if size >= length:
            text = f"{int(size / length)}{NARROW}{unit}"
            break
    return f"{text} ago" if value > 0 else f"in {text}"


def error_name(name: str) -> str:
    """Return the class of an exception as people call it.

    >>> error_name("builtins.ValueError"), error_name("shop.errors.Declined")
    ('ValueError', 'shop.errors.Declined')
    """
    return name.removeprefix("builtins.")


def instant(at: float) -> str:
    """Return an instant in UTC.

    >>> instant(0)
    '1970-01-01 00:00:00 UTC'
    """
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return NONE
