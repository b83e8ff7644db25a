"""All kinds of schedules as one type: what a store holds, and what stands where a schedule is expected."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeAlias

from celeriac.model.clock import Duration
from celeriac.schedules.cron import Cron, cron
from celeriac.schedules.crontab import Crontab
from celeriac.schedules.intervals import Every, every
from celeriac.schedules.invalid import InvalidSchedule
from celeriac.schedules.once import At
from celeriac.schedules.schedule import Schedule
from celeriac.schedules.solar import Solar

__all__ = ["AnySchedule", "as_schedule"]

AnySchedule: TypeAlias = Cron | Crontab | Every | Solar | At
"""For the fields of Structs. Whatever is decoded has passed all checks: its methods end, and raise nothing (those of
`Solar` raise `ImproperlyConfigured` where ephem is missing)."""


def as_schedule(value: Schedule | Duration | str) -> AnySchedule:
    """Return a schedule as it is, seconds or a timedelta as an interval, and text as a cron expression.

    >>> as_schedule(30.0), as_schedule("@daily")
    (every(30), cron('@daily'))
    """
    if isinstance(value, Cron | Crontab | Every | Solar | At):
        return value
    if isinstance(value, str):
        return cron(value)
    if isinstance(value, int | float | timedelta) and not isinstance(value, bool):
        return every(value)
    raise InvalidSchedule("a schedule is crontab(…), cron(…), every(…), solar(…), at(…), seconds, a timedelta, or a "
                          f"cron expression, not {value!r}.")  # fmt: skip
