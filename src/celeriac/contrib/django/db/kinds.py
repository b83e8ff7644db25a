"""When a periodic task is sent, in the words of django-celery-beat: four kinds of schedules, and cron expressions.

They are values of a `PeriodicTask`, not rows: each schedule has its own, and whoever changes one changes no other. So
`objects.get_or_create` always makes one, and `save` keeps nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Generic, Self, TypeVar

from django.conf import settings

from celeriac import at, cron, crontab, every, solar
from celeriac.contrib.django.db.fields import aware
from celeriac.schedules.cron import Cron
from celeriac.schedules.crontab import Crontab
from celeriac.schedules.intervals import UNITS, Every
from celeriac.schedules.once import At
from celeriac.schedules.schedule import Schedule
from celeriac.schedules.solar import EVENTS, Solar

__all__ = ["PERIODS", "ClockedSchedule", "CronSchedule", "CrontabSchedule", "IntervalSchedule", "SolarSchedule"]

PERIODS: Final = ("days", "hours", "minutes", "seconds", "microseconds")

Kind = TypeVar("Kind")


class _Objects(Generic[Kind]):
    """What stands for the manager of a model."""

    def __get__(self, instance: object, owner: type[Kind]) -> _Makers[Kind]:
        return _Makers(owner)


class _Makers(Generic[Kind]):
    def __init__(self, kind: type[Kind]) -> None:
        self._kind = kind

    def create(self, **fields: Any) -> Kind:
        """Return a value."""
        return self._kind(**fields)

    def get_or_create(self, defaults: dict[str, Any] | None = None, **fields: Any) -> tuple[Kind, bool]:
        """Return a value, and that it was made."""
        return self._kind(**{**(defaults or {}), **fields}), True


@dataclass
class _Schedule:
    objects: ClassVar[Any] = _Objects()

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing: the `PeriodicTask` keeps it."""

    @property
    def schedule(self) -> Schedule:
        """The schedule. Raises `InvalidSchedule`, which is a `ValueError`, for what cannot be."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.schedule.describe()


@dataclass
class IntervalSchedule(_Schedule):
    """Every so many days, hours, minutes or seconds."""

    every: int
    period: str

    DAYS: ClassVar[str] = "days"
    HOURS: ClassVar[str] = "hours"
    MINUTES: ClassVar[str] = "minutes"
    SECONDS: ClassVar[str] = "seconds"
    MICROSECONDS: ClassVar[str] = "microseconds"
    PERIOD_CHOICES: ClassVar[tuple[tuple[str, str], ...]] = tuple((name, name.capitalize()) for name in PERIODS)

    @property
    def schedule(self) -> Every:
        """The schedule."""
        if self.period == "microseconds":
            return every(seconds=self.every / 1_000_000)
        if self.period not in PERIODS:
            raise ValueError(f"period is one of {', '.join(PERIODS)}, not {self.period!r}.")
        units: dict[str, Any] = {self.period: self.every}
        return every(**units)

    @classmethod
    def of(cls, schedule: Every) -> Self:
        """Return the value of a schedule, in the largest unit."""
        unit, size = next(((unit, size) for unit, size in UNITS.items()
                           if unit in PERIODS and schedule.period % size == 0), ("microseconds", 0))  # fmt: skip
        return cls(schedule.period // size if size else schedule.period * 1000, unit)


@dataclass
class CrontabSchedule(_Schedule):
    """A crontab in a zone."""

    minute: str = "*"
    hour: str = "*"
    day_of_week: str = "*"
    day_of_month: str = "*"
    month_of_year: str = "*"
    timezone: Any = None  # a name or a tzinfo; None: the app's `timezone`

    @property
    def schedule(self) -> Crontab:
        """The schedule."""
        zone = str(self.timezone) if self.timezone else None
        return crontab(self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year, tz=zone)

    @classmethod
    def of(cls, schedule: Crontab) -> Self:
        """Return the value of a schedule."""
        return cls(schedule.minute, schedule.hour, schedule.day_of_week, schedule.day_of_month,
                   schedule.month_of_year, schedule.tz)  # fmt: skip


@dataclass
class CronSchedule(_Schedule):
    """A cron expression in a zone; django-celery-beat has none."""

    expression: str
    timezone: Any = None

    @property
    def schedule(self) -> Cron:
        """The schedule."""
        return cron(self.expression, tz=str(self.timezone) if self.timezone else None)

    @classmethod
    def of(cls, schedule: Cron) -> Self:
        """Return the value of a schedule."""
        return cls(schedule.expression, schedule.tz)


@dataclass
class SolarSchedule(_Schedule):
    """An event of the sun at a place."""

    event: str
    latitude: float
    longitude: float

    EVENT_CHOICES: ClassVar[tuple[tuple[str, str], ...]] = tuple((name, name.replace("_", " ")) for name in EVENTS)

    @property
    def schedule(self) -> Solar:
        """The schedule."""
        return solar(self.event, float(self.latitude), float(self.longitude))

    @classmethod
    def of(cls, schedule: Solar) -> Self:
        """Return the value of a schedule."""
        return cls(schedule.event, schedule.lat, schedule.lon)


@dataclass
class ClockedSchedule(_Schedule):
    """One instant, as an aware datetime; without `USE_TZ`, it may be naive, in the time zone of the settings."""

    clocked_time: datetime = field()

    @property
    def schedule(self) -> At:
        """The schedule."""
        return at(self.clocked_time if settings.USE_TZ else aware(self.clocked_time))

    @classmethod
    def of(cls, schedule: At) -> Self:
        """Return the value of a schedule."""
        return cls(datetime.fromtimestamp(schedule.instant / 1000, UTC))
