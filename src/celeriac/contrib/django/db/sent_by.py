"""Which schedule has sent a task: the ids of ticks tell (`schedules/ticks.py: tick_id`), and no column does.

`models.py` uses this for `TaskResult.periodic_task_name`, and for queries by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

from django.db import models

from celeriac.contrib.django.db.fields import PlaceManager
from celeriac.contrib.django.db.periodic import PeriodicTask

__all__ = ["NEWEST", "TaskResultManager", "TaskResultQuerySet", "schedule_of"]

NAME: Final = "periodic_task_name"
NEWEST: Final = 10_000
"""So many results of a schedule are found, the newest: their ids are part of the query."""


class TaskResultQuerySet(models.QuerySet):
    """Results, which can be filtered by `periodic_task_name` and `periodic_task_name__in` as by columns."""

    def filter(self, *args: Any, **kwargs: Any) -> Any:
        """Return the rows that match."""
        found = self
        if f"{NAME}__in" in kwargs:
            found = found._sent_by(kwargs.pop(f"{NAME}__in"))
        if NAME in kwargs:
            found = found._sent_by([kwargs.pop(NAME)])
        return super(TaskResultQuerySet, found).filter(*args, **kwargs)

    def _sent_by(self, names: Iterable[str]) -> Any:
        """Return the results of what schedules have sent.

        Their ids are sought among all of their tasks', which takes 2 µs for each.
        """
        ids: list[str] = []
        for row in PeriodicTask.objects.filter(name__in=list(names)):
            results = self.model._base_manager.using(self.db).filter(task_name=row.task).order_by("-stored_at")
            theirs = (id for id in results.values_list("task_id", flat=True).iterator() if _has_sent(row, id))
            ids += islice(theirs, NEWEST - len(ids))
        return self.filter(task_id__in=ids)


class TaskResultManager(PlaceManager.from_queryset(TaskResultQuerySet)):  # type: ignore[misc]
    """Results in the database of `django-db://`."""


def schedule_of(task: str, id: str) -> str | None:
    """Return the name of the schedule that has sent a task, or None."""
    return next((row.name for row in PeriodicTask.objects.filter(task=task) if _has_sent(row, id)), None)


def _has_sent(row: Any, id: str) -> bool:
    entry, sends = row.entry, row.definition
    return entry is not None and sends is not None and id in sends.what.ends_at(entry.salt, _tick_of(id))


def _tick_of(id: str) -> int:
    """Return the instant in an id, if it is of a tick."""
    plain = id.replace("-", "")[:12]
    try:
        return int(plain, 16)
    except ValueError:
        return 0
