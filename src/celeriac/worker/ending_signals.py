"""The task signals that the supervisor sends: for attempts that no child can report, because none runs them any more.

`Settler` calls this for each ending that was settled, where a receiver is connected. Hooks of task classes are not
called for these: they run in children.
"""

from __future__ import annotations

import contextlib
from typing import Any

from celeriac import signals, states
from celeriac.app.app import Celeriac
from celeriac.errors import CeleriacError
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import JSON, decode
from celeriac.ports.broker import Delivery
from celeriac.tasks.hooks import ExceptionInfo
from celeriac.tasks.request import Request
from celeriac.worker.decide import Ending

__all__ = ["request_of", "send_ending_signals"]


def send_ending_signals(app: Celeriac, ending: Ending, outcome: Outcome) -> None:
    """Send `task_revoked`, or `task_failure` for an attempt whose process died or was killed at its time limit."""
    task = app.tasks.get(outcome.task)
    if task is None:
        return
    if outcome.state == states.REVOKED:
        request = request_of(app, ending.delivery, outcome.worker)
        expired = outcome.failure is not None and outcome.failure.type == "TaskExpired"
        signals.task_revoked.send(task, request=request, terminated=outcome.runtime > 0, signum=None, expired=expired)
    elif outcome.state == states.FAILURE and (ending.outcome is None or ending.killed):
        request = request_of(app, ending.delivery, outcome.worker)
        error = outcome.exception()
        assert error is not None
        signals.task_failure.send(task, task_id=outcome.id, exception=error, args=request.args, kwargs=request.kwargs,
                                  traceback=None, einfo=ExceptionInfo(error, str(error)))  # fmt: skip


def request_of(app: Celeriac, delivery: Delivery, worker: str) -> Request:
    """Return the request of a delivery that this process does not run. Its arguments are plain data."""
    message = delivery.message
    args, kwargs = _arguments(app, message)
    return Request(message, app.known_task(message.task), args, kwargs, deliveries=delivery.deliveries, worker=worker)


def _arguments(app: Celeriac, message: Message) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments in a message; none if its body is no call: the child that decodes it fails the task.

    Nor are there any in another format than JSON: reading it, as pickle, may run code, which belongs in a child.
    """
    if message.content_type == JSON.content_type:
        with contextlib.suppress(CeleriacError):
            match decode(message.content_type, message.body, app.conf.accept_content):
                case [list(args), dict(kwargs)]:
                    return args, kwargs
    return [], {}
