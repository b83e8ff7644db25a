"""`crontab(minute=0, hour=9)`: schedules with the arguments and the meaning of Celery's `crontab`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, tzinfo
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from celeriac.schedules.invalid import InvalidSchedule
from celeriac.schedules.pattern import Pattern, pattern
from celeriac.schedules.schedule import call, limits
from celeriac.schedules.wall import WallSchedule, options
from celeriac.schedules.zones import Dst

__all__ = ["Crontab", "crontab"]

LONGEST: Final = 300  # characters of a field

Numbers: TypeAlias = int | str | Iterable[int]
Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=LONGEST)]


class Crontab(WallSchedule, frozen=True, omit_defaults=True, gc=False, tag="crontab"):
    """A crontab; `crontab()` makes it."""

    minute: Text = "*"
    hour: Text = "*"
    day_of_week: Text = "*"
    day_of_month: Text = "*"
    month_of_year: Text = "*"

    def _pattern(self) -> Pattern:
        return pattern("0", self.minute, self.hour, self.day_of_month, self.month_of_year, self.day_of_week,
                       vixie=False)  # fmt: skip

    def _call(self, **limits: str | None) -> str:
        fields = {
            "minute": self.minute,
            "hour": self.hour,
            "day_of_week": self.day_of_week,
            "day_of_month": self.day_of_month,
            "month_of_year": self.month_of_year,
        }
        return call("crontab", (), **{name: _written(text) for name, text in fields.items()}, tz=self.tz,
                    dst=None if self.dst == "cron" else self.dst, **limits)  # fmt: skip


def crontab(
    minute: Numbers = "*",
    hour: Numbers = "*",
    day_of_week: Numbers = "*",
    day_of_month: Numbers = "*",
    month_of_year: Numbers = "*",
    *,
    tz: str | tzinfo | None = None,
    dst: Dst = "cron",
    starts: datetime | str | None = None,
    ends: datetime | str | None = None,
) -> Crontab:
    """Return a schedule. Each argument is a number, numbers, or text as in a crontab; a tick must match all of them.

    So a day must match both `day_of_week` and `day_of_month`; `cron()` is content with one of them.

    >>> crontab(minute=30, hour="9-17", day_of_week="mon-fri").describe()
    'at minute 30 of hours 9 to 17, Monday to Friday, UTC'
    >>> crontab(minute=0, hour=0, day_of_month="13", day_of_week="fri")
    crontab(minute=0, hour=0, day_of_week='fri', day_of_month=13)

    Everything else is as in `cron()`.

    >>> crontab(hour=25)
    Traceback (most recent call last):
    celeriac.schedules.invalid.InvalidSchedule: crontab(hour=25): the hour 25 is not between 0 and 23.
    """
    return Crontab(
        _text("minute", minute),
        _text("hour", hour),
        _text("day_of_week", day_of_week),
        _text("day_of_month", day_of_month),
        _text("month_of_year", month_of_year),
        **options(tz, dst),
        **limits(starts, ends),
    )


def _text(name: str, value: Numbers) -> str:
    """Return an argument as text, in which it is stored."""
    if isinstance(value, str):
        text = "".join(value.split())
    elif isinstance(value, int) and not isinstance(value, bool):
        text = str(value)
    elif isinstance(value, Iterable):
        found = list(value)
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in found):
            raise InvalidSchedule(f"{name} must hold numbers, not {value!r}.")
        text = ",".join(map(str, sorted(set(found))))
    else:
        raise InvalidSchedule(f"{name} must be a number, numbers, or text like '*/15', not {value!r}.")
    if not 0 < len(text) <= LONGEST:
        raise InvalidSchedule(f"{name} is empty, or longer than {LONGEST} characters.")
    return text


def _written(text: str) -> int | str | None:
    """Return the text of a field as one would write it: a number as such, and nothing for a star."""
    if text == "*":
        return None
    return int(text) if text.isascii() and text.isdigit() and str(int(text)) == text else text
