"""Sending a task when the transaction of the framework's database commits: `delay_on_commit`.

The message is made at the call: wrong arguments raise there, the id is known, and what the arguments are then is what
is sent. It is published when the transaction commits, and its countdown begins then. `task.py` calls this.

Where the broker is in the database that the transaction is of, the message is published at once, as a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from celeriac.errors import CeleriacError, ImproperlyConfigured
from celeriac.model.message import Link, Message, new_id
from celeriac.tasks.custom_ids import free_ids
from celeriac.tasks.eager_result import EagerResult
from celeriac.tasks.result import AsyncResult

if TYPE_CHECKING:
    from celeriac.model.outcome import Outcome
    from celeriac.ports.framework import Framework
    from celeriac.tasks.protocols import AnyTask, App

__all__ = ["send_made", "send_on_commit"]

R = TypeVar("R")


class _LateResult(EagerResult[R]):
    """The result of a task that runs in this process when the transaction commits (`task_always_eager`)."""

    __slots__ = ()

    def __init__(self, message: Message, app: App) -> None:
        AsyncResult.__init__(self, message.id, app, message.task)
        self._outcome: Outcome | None = None  # type: ignore[assignment]

    def run(self, message: Message) -> None:
        """Run the task."""
        self._outcome = self.app.workflows.run_message(message)
        if self.app.conf.task_eager_propagates:
            self.get()

    def get(self, timeout: Any = None, propagate: bool = True) -> R:
        """Return the return value, or raise the exception of the task. Raises `CeleriacError` before the commit."""
        if self._outcome is None:
            raise CeleriacError(f"The task {self.task_name}[{self.id}] runs when its transaction commits, which it has "
                                "not done. In a TestCase of Django, run what is to follow the commit with "
                                "captureOnCommitCallbacks(execute=True).")  # fmt: skip
        return super().get(timeout, propagate)


def send_on_commit(task: AnyTask, id: str | None, send: Callable[[str], Any], using: str | None,
                   robust: bool) -> AsyncResult[Any]:  # fmt: skip
    """Send by `send(task_id)` after the commit: an override of `apply_async`, or the links of a workflow."""
    id, app, framework = id or new_id(), task.app, _framework(task.app)
    if not robust and not app.conf.task_always_eager and all(
        framework.sends_within(port, using) for port in (app.broker, app.backend)
    ):
        send(id)
    else:
        framework.on_commit(lambda: send(id), using, robust)
    return AsyncResult(id, app, task.name)


def send_made(task: AnyTask, message: Message, options: Mapping[str, Any], using: str | None,
              robust: bool) -> AsyncResult[Any]:  # fmt: skip
    """Publish a message after the commit; return its result."""
    app, framework = task.app, _framework(task.app)
    expires = None
    if message.expires_at is not None and not isinstance(options.get("expires"), datetime):
        expires = message.expires_at - message.sent_at
    link = Link(message, True, expires)
    late: _LateResult[Any] = _LateResult(message, app)

    def publish() -> None:
        sent = link.sent(app.clock.now())
        if options.get("task_id") is not None and not app.conf.task_always_eager:
            free_ids(app, [sent.id])
        if not app.publish([sent]):
            late.run(sent)

    eager = app.conf.task_always_eager
    if not eager and not robust and framework.sends_within(app.broker, using):
        publish()
    else:
        framework.on_commit(publish, using, robust)
    return late if eager else AsyncResult(message.id, app, task.name, message.ignore_result)


def _framework(app: App) -> Framework:
    if app.framework is None:
        raise ImproperlyConfigured(
            "delay_on_commit sends a task when Django's transaction commits, and this app does not know of a Django "
            'project. Let it read the settings of one, app.config_from_object("django.conf:settings", '
            'namespace="CELERIAC"), or call delay.'
        )
    return app.framework
