"""The apps of this process, and which of them is the current one.

`Celeriac` registers itself (`shared.register_app`). Shared tasks and `AsyncResult(id)` ask for the current app.
"""

from __future__ import annotations

from celeriac.errors import ImproperlyConfigured
from celeriac.tasks.protocols import App
from celeriac.tasks.request import current

__all__ = ["apps", "current_app"]

apps: list[App] = []
"""Every app, in the order in which they were made."""


def current_app() -> App:
    """Return the app of the running task; outside a task, the app that was made last."""
    request = current.get()
    if request is not None:
        return request.task.app
    if not apps:
        raise ImproperlyConfigured("There is no app yet: make one with app = Celeriac('name'), or import the module "
                                   "that makes it.")  # fmt: skip
    return apps[-1]
