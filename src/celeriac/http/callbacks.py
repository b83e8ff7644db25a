"""Callbacks: a message to a URL of a caller's that a task has ended. The built-in task `celeriac.webhook` sends it.

    POST /api/v1/tasks  {"callback": {"url": …}}
       └─► with_callback: two links of the message, one for each way to end
              └─► canvas/links.py: the end of the task sends one of them, in the step that settles it
                     └─► celeriac.webhook: one request an attempt, retried for three days (`delivery.py`)

Whatever a link promises holds for callbacks: they are sent once for the first final outcome, also for tasks that are
revoked, expire, or are lost with their workers. The setting `web_callback_hosts` says where they may go. A worker
without it does not know the task, and leaves it to others.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec.structs import replace

from celeriac import states
from celeriac.errors import ImproperlyConfigured
from celeriac.http.driver import driver
from celeriac.model.callback_hosts import CallbackHosts
from celeriac.model.clock import aware
from celeriac.model.failure import Failure
from celeriac.model.message import HIGHEST_PRIORITY, Link, Message
from celeriac.tasks.builtin_names import WEBHOOK
from celeriac.tasks.plain_data import plain, without_paths
from celeriac.tasks.protocols import App
from celeriac.tasks.task import CoroutineTask, Task

__all__ = ["callback_task", "check_callback", "event_of", "with_callback"]

DELAYS: Final = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
"""Seconds before each retry: the schedule of Standard Webhooks, three days in all."""

REVOCATIONS: Final = frozenset({("celeriac.errors", "TaskRevoked"), ("celeriac.errors", "TaskExpired")})


def callback_task(app: App) -> dict[str, Task[Any, Any]]:
    """Return the built-in task that sends callbacks, by its name."""

    async def webhook(self: Any, /, *given: Any, url: str, task: str, include_result: bool = False) -> None:
        body = event_of(self, given, task, include_result)
        await driver("delivery").deliver(self, url, body, DELAYS)

    options = {"max_retries": len(DELAYS), "ignore_result": True, "priority": HIGHEST_PRIORITY,
               "serializer": "json"}  # fmt: skip
    return {WEBHOOK: CoroutineTask(app, webhook, WEBHOOK, options, bind=True)}


def check_callback(app: App, url: str) -> None:
    """Raise unless callbacks may go to a URL: `ImproperlyConfigured` or `AddressRefused`."""
    hosts = CallbackHosts(app.conf.web_callback_hosts)
    if not hosts:
        raise ImproperlyConfigured("Callbacks are not switched on: list the hosts that they may go to in the setting "
                                   "`web_callback_hosts`.")  # fmt: skip
    if not app.conf.web_callback_secrets:
        raise ImproperlyConfigured("Callbacks are signed: set `web_callback_secrets` (`celeriac keys --webhook` makes "
                                   "a secret).")  # fmt: skip
    hosts.check(url)


def with_callback(app: App, message: Message, url: str, include_result: bool = False) -> Message:
    """Return a message whose end is told to a URL. Raises `ImproperlyConfigured` or `AddressRefused`."""
    check_callback(app, url)
    options = {"queue": app.conf.web_callback_queue or message.queue}
    call = {"url": url, "task": message.task, "include_result": include_result}
    template = app.message_template(WEBHOOK)
    success = Link(template.message((), call, options), immutable=not include_result)
    failure = Link(template.message((), call, options))
    return replace(message, link=[*message.link, success], link_error=[*message.link_error, failure])


def event_of(task: Any, given: tuple[Any, ...], name: str, include_result: bool) -> bytes:
    """Return the CloudEvents document of a running callback: the same bytes in each attempt."""
    message: Message = task.request.message
    failed = message.failed
    state = states.SUCCESS
    if failed is not None:
        kind = (failed.failure.module, failed.failure.type)
        state = states.REVOKED if kind in REVOCATIONS else states.FAILURE
    data: dict[str, Any] = {"id": message.parent_id, "task": name, "state": state}
    if include_result:
        data["result"] = plain(given[0]) if failed is None and given else None
        data["error"] = None if failed is None else _error(failed.failure)
    return msgspec.json.encode({
        "specversion": "1.0",
        "id": message.id,
        "source": f"/celeriac/{task.app.main or ''}",
        "type": "celeriac.task.ended",
        "subject": message.parent_id,
        "time": aware(message.sent_at).isoformat(timespec="milliseconds"),
        "datacontenttype": "application/json",
        "data": data,
    })  # fmt: skip


def _error(failure: Failure) -> dict[str, str]:
    return {"type": failure.type, "module": failure.module, "message": without_paths(failure.message)}
