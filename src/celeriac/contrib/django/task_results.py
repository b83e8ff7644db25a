"""Django's `TaskResult`, made of a message or an outcome.

`TaskCall` is what the message of a Django task has as its arguments. `tasks.py` writes and reads it, `running.py` runs
it. Django's priorities are finer than those of messages, so they are part of it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.utils import timezone
from django.utils.module_loading import import_string

from celeriac import states
from celeriac.app.app import Celeriac
from celeriac.contrib.django.task_framework import base
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import decode

__all__ = ["ASYNC_NAME", "NAME", "Status", "TaskCall", "call_of", "error_of", "instant", "outcome_into", "ready_result"]

NAME = "django.run"
ASYNC_NAME = "django.arun"

Status = base.TaskResultStatus

FAILED = frozenset({states.FAILURE, states.REVOKED})
SUCCESSFUL = frozenset({states.SUCCESS, states.IGNORED})
WAITING = frozenset({states.PENDING, states.RETRY})


class TaskCall(NamedTuple):
    """A call of a Django task, as the message has it."""

    path: str
    args: list[Any]
    kwargs: dict[str, Any]
    backend: str
    priority: int
    run_after: datetime | None

    @classmethod
    def of(cls, result: Any) -> TaskCall:
        """Return the call of a result that was just made."""
        task = result.task
        return cls(task.module_path, result.args, result.kwargs, result.backend, task.priority, task.run_after)

    def arguments(self) -> tuple[Any, ...]:
        """Return the arguments of the message."""
        return tuple(self)

    def task(self, queue: str) -> Any:
        """Return Django's task. Raises `ImportError`, and `SuspiciousOperation` if the path leads to something else."""
        found = import_string(self.path)
        if not isinstance(found, base.Task):
            raise SuspiciousOperation(f"{self.path} is not a task of Django.")
        return found.using(priority=self.priority, queue_name=queue, run_after=self.run_after, backend=self.backend)


def ready_result(task: Any, id: str, backend: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Return the result of a task that waits to be run. Raises `TypeError` or `ValueError` for what is not JSON."""
    return base.TaskResult(task=task, id=id, status=Status.READY, enqueued_at=None, started_at=None, finished_at=None,
                           last_attempted_at=None, args=args, kwargs=kwargs, backend=backend, errors=[],
                           worker_ids=[])  # fmt: skip


def call_of(outcome: Outcome | None, message: Message | None, app: Celeriac) -> tuple[TaskCall, str, float] | None:
    """Return the call of a Django task, its queue, and when it was sent; None if nothing is known."""
    if message is not None:
        found = message.task, message.content_type, message.body
        queue, sent_at = message.queue, message.sent_at
    elif outcome is not None and outcome.call is not None and outcome.call.body is not None:
        found = outcome.task, outcome.call.content_type, outcome.call.body
        queue, sent_at = outcome.call.queue, outcome.call.sent_at
    elif outcome is not None and not outcome.ready and outcome.task in (NAME, ASYNC_NAME) and outcome.value is not None:
        sent = decode(outcome.content_type, outcome.value, app.conf.accept_content)  # `running.py` has written it
        return TaskCall(*sent["call"]), sent["queue"], sent["sent_at"]
    else:
        return None
    task, content_type, body = found
    if task not in (NAME, ASYNC_NAME):
        return None
    args, _ = decode(content_type, body, app.conf.accept_content)
    return TaskCall(*args), queue, sent_at


def outcome_into(result: Any, outcome: Outcome, app: Celeriac) -> None:
    """Write into a result how its attempt ended, or how far it is."""

    def put(name: str, value: Any) -> None:
        object.__setattr__(result, name, value)

    if outcome.state in WAITING:
        put("status", Status.READY)
    elif outcome.state in FAILED:
        put("status", Status.FAILED)
    elif outcome.state in SUCCESSFUL:
        put("status", Status.SUCCESSFUL)
        put("_return_value", _value_of(outcome, app))
    else:
        put("status", Status.RUNNING)
    if outcome.started_at:
        put("started_at", instant(outcome.started_at))
        put("last_attempted_at", instant(outcome.started_at))
    if outcome.ready:
        put("finished_at", instant(outcome.done_at))
    if outcome.worker:
        put("worker_ids", [outcome.worker] * outcome.attempt)
    if outcome.failure is not None:
        failure = outcome.failure
        put("errors", [base.TaskError(exception_class_path=f"{failure.module}.{failure.type}",
                                      traceback=failure.traceback)])  # fmt: skip


def error_of(error: BaseException, traceback: str) -> Any:
    """Return Django's description of an exception."""
    return base.TaskError(exception_class_path=f"{type(error).__module__}.{type(error).__qualname__}",
                          traceback=traceback)  # fmt: skip


def _value_of(outcome: Outcome, app: Celeriac) -> Any:
    """Return the decoded return value of an outcome."""
    data = outcome.encoded_value()
    return None if data is None else decode(outcome.content_type, data, app.conf.accept_content)


def instant(at: float) -> datetime:
    """Return an instant as Django has them: aware with `USE_TZ`, else naive in the time zone of the settings."""
    moment = datetime.fromtimestamp(at, UTC)
    return moment if settings.USE_TZ else timezone.make_naive(moment)
