"""Callbacks from Python: send them with a task, and check those that come in.

    from celeriac import webhooks

    add.apply_async((2, 2), **webhooks.callback(add, "https://hooks.example.com/ended"))

    id = webhooks.verify(request.headers, body, "whsec_…")  # in the server there
"""

from __future__ import annotations

from typing import Any

from celeriac.errors import BadSignature
from celeriac.http.callbacks import check_callback
from celeriac.model.webhook_signatures import new_secret, verify
from celeriac.tasks.builtin_names import WEBHOOK
from celeriac.tasks.task import Task

__all__ = ["BadSignature", "callback", "new_secret", "verify"]


def callback(task: Task[..., Any], url: str, include_result: bool = False) -> dict[str, Any]:
    """Return the options of a call whose end is told to a URL: `link` and `link_error`.

    The URL must be of a host in the setting `web_callback_hosts`; with `include_result`, what is sent has the result,
    or the error. Raises `AddressRefused` or `ImproperlyConfigured`.
    """
    app = task.app
    check_callback(app, url)
    options: dict[str, Any] = {} if app.conf.web_callback_queue is None else {"queue": app.conf.web_callback_queue}
    call = {"url": url, "task": task.name, "include_result": include_result}
    return {"link": [app.signature(WEBHOOK, kwargs=call, immutable=not include_result, **options)],
            "link_error": [app.signature(WEBHOOK, kwargs=call, **options)]}  # fmt: skip
