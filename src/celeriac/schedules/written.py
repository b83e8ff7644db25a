"""Schedules as people write them in one line: a cron expression, an interval, or one time.

The command and the dashboard take them.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

from celeriac.schedules.cron import cron
from celeriac.schedules.intervals import every
from celeriac.schedules.invalid import InvalidSchedule
from celeriac.schedules.once import at
from celeriac.schedules.schedule import Schedule

__all__ = ["Unfitting", "duration_written", "schedule_written"]

INTERVAL: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*([smhd])")
SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")


class Unfitting(InvalidSchedule):
    """Something that is given does not fit the kind of schedule. The text begins with its name: `tz …`."""


def duration_written(text: str) -> float | None:
    """Return seconds, or a number with a unit, as seconds; None if the text is neither.

    >>> duration_written("1.5m"), duration_written("5"), duration_written("soon")
    (90.0, 5.0, None)
    """
    match = INTERVAL.fullmatch(text) or INTERVAL.fullmatch(f"{text}s")
    return float(match[1]) * SECONDS[match[2]] if match else None


def schedule_written(text: str, *, starts: datetime | str | None = None, ends: datetime | str | None = None,
                     **zone: Any) -> Schedule:  # fmt: skip
    """Return the schedule that a line of text means. `tz` and `dst` are for cron expressions.

    Raises `InvalidSchedule`.

    >>> schedule_written("0 3 * * *", tz="Europe/Berlin"), schedule_written("30s")
    (cron('0 3 * * *', tz='Europe/Berlin'), every(30))
    """
    if text.strip().isdigit():
        raise Unfitting(f"schedule {text} lacks a unit: {text}s, {text}m, {text}h or {text}d.")
    is_once = DATE.match(text) is not None
    if not is_once and INTERVAL.fullmatch(text) is None:
        return cron(text, starts=starts, ends=ends, **zone)
    if zone:
        raise Unfitting(f"{next(iter(zone))} is for cron expressions.")
    if not is_once:
        return every(duration_written(text) or 0.0, starts=starts, ends=ends)
    for name, given in (("starts", starts), ("ends", ends)):
        if given is not None:
            raise Unfitting(f"{name} makes no sense with one time.")
    return at(text)
