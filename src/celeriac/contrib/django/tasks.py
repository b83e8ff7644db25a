"""The backend of Celeriac for Django's task framework.

    TASKS = {"default": {"BACKEND": "celeriac.contrib.django.tasks.CeleriacBackend", "QUEUES": ["default", "mail"]}}

    enqueue ──► a message of the task django.run (or django.arun), whose argument is the path of Django's task
    running.py ──► calls it in a worker
    get_result ◄── the message in the broker, or the outcome in the result backend

Django calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from inspect import iscoroutinefunction
from typing import Any, Final

from django.core import checks
from django.db import transaction
from django.utils import timezone
from django.utils.module_loading import import_string

from celeriac import states
from celeriac.app.app import Celeriac
from celeriac.contrib.django.running import register
from celeriac.contrib.django.shared_file import sends_within
from celeriac.contrib.django.task_framework import backends, exceptions, signals
from celeriac.contrib.django.task_results import (
    ASYNC_NAME,
    NAME,
    TaskCall,
    call_of,
    instant,
    outcome_into,
    ready_result,
)
from celeriac.errors import CeleriacError, NotSupported, nearest
from celeriac.model.message import Message
from celeriac.model.outcome import Call, Outcome
from celeriac.ports.abilities import Ability
from celeriac.tasks.current_app import current_app

__all__ = ["CeleriacBackend", "celeriac_priority"]

OPTIONS: Final = ("app", "enqueue_on_commit")


class CeleriacBackend(backends.BaseTaskBackend):
    """Sends Django's tasks to Celeriac's workers.

    OPTIONS: `app`, the dotted path of the app (`"shop.celeriac.app"`; by default the one of the process), and
    `enqueue_on_commit`, which sends tasks when the transaction of the default database commits.
    """

    supports_defer = True
    supports_async_task = True
    supports_priority = True

    @property
    def supports_get_result(self) -> bool:
        """Whether every process can read results: not with `rpc://`."""
        return not self.app.sends_outcomes

    @cached_property
    def app(self) -> Celeriac:
        """The app that sends the tasks, with the tasks that run them."""
        path = self.options.get("app")
        found: Any = import_string(path) if path else current_app()
        register(found, CeleriacBackend)
        return found  # type: ignore[no-any-return]

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """Return what is wrong with the settings."""
        found: list[checks.CheckMessage] = [
            checks.Error(f"TASKS[{self.alias!r}] has the unknown option {name!r}.{nearest(name, OPTIONS)}",
                         hint=f"OPTIONS of this backend: {', '.join(OPTIONS)}.", id="celeriac.E001")
            for name in self.options if name not in OPTIONS
        ]  # fmt: skip
        try:
            _ = self.app
        except (CeleriacError, ImportError) as error:
            found.append(checks.Error(
                f"TASKS[{self.alias!r}] has no app: {error}", id="celeriac.E002",
                hint="Import it in the __init__.py of the project, or name it: OPTIONS={'app': 'shop.celeriac.app'}.",
            ))  # fmt: skip
        return found

    # --- Sending --------------------------------------------------------------------------------------

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Send a task; return its result. Raises `BrokerUnavailable`, among others."""
        self.validate_task(task)
        name = ASYNC_NAME if iscoroutinefunction(task.func) else NAME
        result = ready_result(task, "", self.alias, list(args), dict(kwargs))  # raises for what is not JSON
        call = TaskCall.of(result)
        options = {"queue": task.queue_name, "priority": celeriac_priority(task.priority)}
        if task.run_after is not None:
            options["eta"] = _aware(task.run_after)
        template: Any = self.app.message_template(name)
        message: Message = template.message(call.arguments(), {}, options)
        object.__setattr__(result, "id", message.id)
        send: Callable[[], None] = lambda: self._send(message, call, result)  # noqa: E731
        if self.options.get("enqueue_on_commit") and not self._sends_within():
            transaction.on_commit(send)
        else:
            send()
        return result

    def _sends_within(self) -> bool:
        """Return whether the message will be part of the open transaction: the broker is in the same database."""
        return not self.app.conf.task_always_eager and sends_within(self.app.broker, None)

    def _send(self, message: Message, call: TaskCall, result: Any) -> None:
        app = self.app
        if app.conf.task_always_eager:
            object.__setattr__(result, "enqueued_at", timezone.now())
            signals.task_enqueued.send(type(self), task_result=result)
            outcome = app.workflows.run_message(message)
            outcome_into(result, outcome, app)
            return
        if not app.broker.can(Ability.KNOW_IDS) and self.supports_get_result:
            waits = Outcome(id=message.id, task=message.task, state=states.PENDING, call=Call.of(message))
            app.broker.complete(app.backend.store([waits]))  # before the worker stores anything
        app.publish([message])
        object.__setattr__(result, "enqueued_at", instant(message.sent_at))
        signals.task_enqueued.send(type(self), task_result=result)

    # --- Results --------------------------------------------------------------------------------------

    def get_result(self, result_id: str) -> Any:
        """Return what is known of a task that was sent. Raises `TaskResultDoesNotExist`."""
        app = self.app
        if not self.supports_get_result:
            return super().get_result(result_id)
        outcome = app.backend.fetch([result_id]).get(result_id)
        place, message = None, None
        if outcome is None or not outcome.ready:
            place, message = self._find(result_id)
            if message is None:  # it has ended since
                outcome = app.backend.fetch([result_id]).get(result_id, outcome)
        found = call_of(outcome, message, app)
        if found is None:
            raise exceptions.TaskResultDoesNotExist(result_id)
        call, queue, sent_at = found
        result = ready_result(call.task(queue), result_id, call.backend, call.args, call.kwargs)
        object.__setattr__(result, "enqueued_at", instant(sent_at))
        if outcome is not None:
            outcome_into(result, outcome, app)
        elif place == "active":
            object.__setattr__(result, "status", type(result.status).RUNNING)
        return result

    def _find(self, id: str) -> tuple[str | None, Message | None]:
        try:
            found: dict[str, tuple[str, Message]] = self.app.broker.complete(self.app.broker.operations().find([id]))
        except NotSupported:
            return None, None
        return found.get(id, (None, None))


def celeriac_priority(priority: int) -> int:
    """Return the priority of a message, 0 to 9, for one of Django, -100 to 100.

    >>> [celeriac_priority(priority) for priority in (-100, -50, 0, 50, 100)]
    [0, 3, 5, 7, 9]
    """
    return 5 + round(priority * (4 if priority >= 0 else 5) / 100)


def _aware(moment: Any) -> Any:
    return timezone.make_aware(moment) if timezone.is_naive(moment) else moment
