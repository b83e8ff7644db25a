"""What `PeriodicTask` is made of besides its fields: its queries, and the properties that are no columns.

`periodic.py` uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.db import models

from celeriac.contrib.django.db.fields import PlaceManager
from celeriac.contrib.django.db.kinds import (
    ClockedSchedule,
    CronSchedule,
    CrontabSchedule,
    IntervalSchedule,
    SolarSchedule,
)
from celeriac.contrib.django.db.values import RECORD_KIND, kind_of

__all__ = ["VALUES", "PeriodicTaskManager", "PeriodicTaskQuerySet", "kind_property", "sent_property"]

VALUES: Final[Mapping[str, Any]] = {"interval": IntervalSchedule, "crontab": CrontabSchedule, "cron": CronSchedule,
                                    "solar": SolarSchedule, "clocked": ClockedSchedule}  # fmt: skip


class PeriodicTaskQuerySet(models.QuerySet):
    """Schedules. What is changed is changed one by one."""

    def update(self, **values: Any) -> int:
        """Set fields of all of these schedules, and save each; return how many there were."""
        found = list(self)
        for one in found:
            for name, value in values.items():
                setattr(one, name, value)
            one.save()
        return len(found)

    def bulk_create(self, objs: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Save each of these schedules."""
        made = list(objs)
        for one in made:
            one.save(using=self.db)
        return made


class PeriodicTaskManager(PlaceManager.from_queryset(PeriodicTaskQuerySet)):  # type: ignore[misc]
    """Finds schedules in the database of `django-db://`."""

    def get_queryset(self) -> Any:
        """Return all schedules. The table also has records of which release declares them."""
        return super().get_queryset().exclude(kind=RECORD_KIND)


def kind_property(name: str) -> property:
    """Return the property for one kind of schedule: its value, or None if the schedule is of another kind."""

    def read(self: Any) -> Any:
        schedule = self.schedule
        return VALUES[name].of(schedule) if schedule is not None and kind_of(schedule) == name else None

    def write(self: Any, value: Any) -> None:
        if value is not None:
            self.__dict__["_given_schedule"] = value
        elif self.kind == name:
            self.__dict__.pop("_given_schedule", None)

    return property(read, write)


def sent_property(name: str, default: Any = None) -> property:
    """Return the property for a part of the message that is no column."""

    def read(self: Any) -> Any:
        return self.__dict__.get(f"_{name}", getattr(self, f"_stored_{name}"))

    def write(self: Any, value: Any) -> None:
        self.__dict__[f"_{name}"] = value

    return property(read, write)
