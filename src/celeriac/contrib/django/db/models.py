"""`TaskResult` and `PeriodicTask`: rows of the tables of `django-db://`, in the words of Celery's packages for Django.

They are views: the backend writes the rows. What is a field can be asked for in queries; the rest, such as a return
value, is taken from the row's bytes when it is used.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

from django.db import models

from celeriac import states
from celeriac.contrib.django.db.fields import KeyField, StateField, backend
from celeriac.contrib.django.db.kinds import (
    ClockedSchedule,
    CronSchedule,
    CrontabSchedule,
    IntervalSchedule,
    SolarSchedule,
)
from celeriac.contrib.django.db.periodic import PeriodicTask
from celeriac.contrib.django.db.sent_by import TaskResultManager, schedule_of
from celeriac.contrib.django.db.values import NAME_LENGTH, PREFIX
from celeriac.documents import call_of, to_json, value_of
from celeriac.drivers.sql.keys import KEY_LENGTH, STATE_LENGTH, is_hash
from celeriac.model.gate import Unreadable
from celeriac.model.message import decode
from celeriac.model.outcome import Outcome
from celeriac.tasks.current_app import current_app

__all__ = ["ClockedSchedule", "CronSchedule", "CrontabSchedule", "IntervalSchedule", "PeriodicTask", "SolarSchedule",
           "TaskResult"]  # fmt: skip

KIN = ("parent_id", "root_id", "group_id", "cause")


class TaskResult(models.Model):
    """The latest outcome of a task. It can be deleted, which forgets it, and not be changed."""

    task_id = KeyField("task ID", max_length=KEY_LENGTH, primary_key=True, db_column="id")
    task_name = models.CharField("task", max_length=NAME_LENGTH)
    status = StateField("state", max_length=STATE_LENGTH, db_column="state")
    worker = models.CharField(max_length=NAME_LENGTH)
    date_created = models.DateTimeField("created", null=True)
    date_started = models.DateTimeField("started", null=True)
    date_done = models.DateTimeField("done", null=True)
    stored_at = models.BigIntegerField(editable=False)
    is_final = models.SmallIntegerField(editable=False)
    data = models.BinaryField(db_column="outcome")

    objects = TaskResultManager()

    class Meta:
        """Made by the migration's `MakeTables`."""

        managed = False
        db_table = f"{PREFIX}outcomes"
        ordering = ["-stored_at"]
        get_latest_by = "stored_at"
        default_permissions = ("view", "delete")
        permissions = [("retry_taskresult", "Can retry failed tasks"), ("revoke_taskresult", "Can revoke tasks")]
        verbose_name = "task result"

    def __str__(self) -> str:
        return f"{self.task_name} {self.task_id}: {self.status}"

    @classmethod
    def from_db(cls, db: str, field_names: Any, values: Any, **options: Any) -> TaskResult:
        """Return the result of a row, with its id and its state as they are, and not as they are kept."""
        found: TaskResult = super().from_db(db, field_names, values, **options)
        known = found.__dict__
        if "data" in known and (is_hash(known.get("task_id", "")) or is_hash(known.get("status", ""))):
            known.update(task_id=found.outcome.id, status=found.outcome.state)
        return found

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Raise `TypeError`: only the backend writes results."""
        raise TypeError("A TaskResult cannot be saved: workers store results. Use app.backend, or a table of your own.")

    @cached_property
    def outcome(self) -> Outcome:
        """What is stored."""
        return backend().read_row(KeyField().get_prep_value(self.task_id), bytes(self.data))

    # --- Columns of django-celery-results that are no fields ------------------------------------------

    @property
    def result(self) -> str | None:
        """The return value as JSON; of a failure, its class, module and message."""
        failure = self.outcome.failure
        if failure is not None:
            return _json({"exc_type": failure.type, "exc_message": failure.message, "exc_module": failure.module})
        return _json(value_of(self.outcome, _app())) if self.outcome.value is not None else None

    @property
    def traceback(self) -> str | None:
        """The traceback of a failure, or None."""
        failure = self.outcome.failure
        return failure.traceback or None if failure is not None else None

    @property
    def task_args(self) -> str | None:
        """The arguments as JSON; None if they were not kept: a failed task has them, others with `result_extended`."""
        call = self._call
        return None if call is None else _json(call[0])

    @property
    def task_kwargs(self) -> str | None:
        """The named arguments as JSON; None as for `task_args`."""
        call = self._call
        return None if call is None else _json(call[1])

    @cached_property
    def _call(self) -> tuple[list[Any], dict[str, Any]] | None:
        outcome = self.outcome
        if outcome.call is not None:
            return call_of(outcome.call, _app())
        if outcome.kept is None:
            return None
        try:
            return call_of(decode(outcome.kept), _app())
        except Unreadable:
            return None

    @cached_property
    def periodic_task_name(self) -> str | None:
        """The name of the schedule that has sent the task, or None. `filter` takes it, too."""
        return schedule_of(self.task_name, self.task_id)

    @property
    def content_type(self) -> str:
        """How the return value is encoded."""
        return self.outcome.content_type

    @property
    def content_encoding(self) -> str:
        """How its text is encoded."""
        return "utf-8"

    @property
    def meta(self) -> str:
        """What else is known, as JSON: the attempt, the runtime in seconds, and the ids of tasks that belong to it."""
        outcome = self.outcome
        kin = {name: value for name in KIN if (value := getattr(outcome, name)) is not None}
        return _json({"children": [], "attempt": outcome.attempt, "runtime": outcome.runtime, **kin})

    @property
    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.status in states.READY_STATES

    def as_dict(self) -> dict[str, Any]:
        """Return the columns by name."""
        names = ("task_id", "task_name", "task_args", "task_kwargs", "status", "result", "date_done", "traceback",
                 "meta", "worker")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def _app() -> Any:
    return current_app()


def _json(value: Any) -> str:
    return json.dumps(json.loads(to_json(value)), ensure_ascii=False)
