"""The tasks `django.run` and `django.arun`, in which workers run Django's tasks; see `tasks.py`.

Registered by workers (`framework.py`), and by the backend in processes that send.
"""

from __future__ import annotations

from datetime import datetime
from traceback import format_exception
from typing import Any

from django.utils import timezone

from celeriac import states
from celeriac.app.app import Celeriac
from celeriac.contrib.django.task_framework import base, framework, normalize_json, signals
from celeriac.contrib.django.task_results import ASYNC_NAME, NAME, Status, TaskCall, error_of, instant, ready_result
from celeriac.ports.abilities import Ability

__all__ = ["register"]


def register(app: Celeriac, kind: type) -> None:
    """Register the tasks with an app, and declare the queues of the backends of a class in the setting TASKS."""
    aliases = [alias for alias in framework.task_backends if isinstance(framework.task_backends[alias], kind)]
    queues = {queue for alias in aliases for queue in framework.task_backends[alias].queues}
    if missing := sorted(queues - app.queues):
        app.conf.task_queues = [*app.conf.task_queues, *missing]
    if NAME not in app.tasks:
        tracks = app.broker.can(Ability.KNOW_IDS)  # otherwise `_started` says more
        app.task(name=NAME, bind=True, track_started=tracks, result_extended=True)(_run)
        app.task(name=ASYNC_NAME, bind=True, track_started=tracks, result_extended=True)(_arun)


def _run(self: Any, path: str, args: list[Any], kwargs: dict[str, Any], backend: str = "default", priority: int = 0,
        run_after: datetime | None = None) -> Any:  # fmt: skip
    """Run a function that Django's `@task` has made a task."""
    result = _started(self, TaskCall(path, args, kwargs, backend, priority, run_after))
    sender = type(result.task.get_backend())
    signals.task_started.send(sender, task_result=result)
    try:
        value = normalize_json(result.task.func(*_context(result), *args, **kwargs))
    except BaseException as error:
        _failed(result, error)
        signals.task_finished.send(sender, task_result=result)
        raise
    _succeeded(result, value)
    signals.task_finished.send(sender, task_result=result)
    return value


async def _arun(self: Any, path: str, args: list[Any], kwargs: dict[str, Any], backend: str = "default",
               priority: int = 0, run_after: datetime | None = None) -> Any:  # fmt: skip
    """Run a coroutine function that Django's `@task` has made a task."""
    result = _started(self, TaskCall(path, args, kwargs, backend, priority, run_after))
    sender = type(result.task.get_backend())
    await signals.task_started.asend(sender, task_result=result)
    try:
        value = normalize_json(await result.task.func(*_context(result), *args, **kwargs))
    except BaseException as error:
        _failed(result, error)
        await signals.task_finished.asend(sender, task_result=result)
        raise
    _succeeded(result, value)
    await signals.task_finished.asend(sender, task_result=result)
    return value


def _started(task: Any, call: TaskCall) -> Any:
    """Return Django's result of the attempt that is running."""
    request = task.request
    if not request.is_eager and not task.app.broker.can(Ability.KNOW_IDS):
        # Nobody can look at the message, so that what is stored has to say what is running.
        sent = {"call": call.arguments(), "queue": request.queue, "sent_at": request.message.sent_at}
        task.update_state(state=states.STARTED, meta=sent)
    result = ready_result(call.task(request.queue), request.id, call.backend, call.args, call.kwargs)
    now = instant(request.started)
    _put(result, status=Status.RUNNING, enqueued_at=instant(request.message.sent_at), started_at=now,
         last_attempted_at=now, worker_ids=[request.worker or "eager"] * request.attempt)  # fmt: skip
    return result


def _context(result: Any) -> tuple[Any, ...]:
    return (base.TaskContext(task_result=result),) if result.task.takes_context else ()


def _succeeded(result: Any, value: Any) -> None:
    _put(result, status=Status.SUCCESSFUL, finished_at=timezone.now(), _return_value=value)


def _failed(result: Any, error: BaseException) -> None:
    result.errors.append(error_of(error, "".join(format_exception(error))))
    _put(result, status=Status.FAILED, finished_at=timezone.now())


def _put(result: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(result, name, value)
