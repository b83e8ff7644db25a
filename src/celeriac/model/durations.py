"""Durations in words, as front ends show them."""

from __future__ import annotations

__all__ = ["duration"]


def duration(seconds: float | None) -> str:
    """Return a duration as text: three significant digits, or two units.

    >>> [duration(value) for value in (0.0000042, 0.00123, 3.456, 75, 7380, 200000)]
    ['4.2 µs', '1.23 ms', '3.46 s', '1 min 15 s', '2 h 3 min', '2 d 7 h']
    """
    if seconds is None:
        return ""
    for limit, unit, factor in ((1e-3, "µs", 1e6), (1, "ms", 1e3), (60, "s", 1)):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    for limit, big, small, units in ((3600, 60, 1, "min s"), (86400, 3600, 60, "h min")):
        if seconds < limit:
            return _two(seconds, big, small, units)
    return _two(seconds, 86400, 3600, "d h")


def _two(seconds: float, big: int, small: int, units: str) -> str:
    first, second = units.split()
    return f"{int(seconds // big)} {first} {int(seconds % big // small)} {second}"
