"""Pickling of apps and tasks, and of everything that holds one: results, signatures, workflows.

An app holds configuration and connections, so it is pickled by reference, as functions are: the module and the name
under which it can be imported. A task is pickled as its app and its name.
"""

from __future__ import annotations

import importlib
import sys

from celeriac.errors import DecodeError, EncodeError
from celeriac.tasks.protocols import AnyTask, App

__all__ = ["address_of", "app_at", "task_at"]


def address_of(app: App, made_in: str) -> tuple[str, str]:
    """Return the module and the name of an app: in the module that made it, else in any other that holds it."""
    for module in (made_in, *list(sys.modules)):
        for name, value in list(getattr(sys.modules.get(module), "__dict__", {}).items()):
            if value is app:
                return module, name
    raise EncodeError(
        f"Cannot pickle {app!r}, nor objects that hold it: it is not a global variable of any module, so it could not "
        "be found again. Make it at the top of a module, or pass ids (app.AsyncResult(id) finds a result)."
    )


def app_at(module: str, name: str) -> App:
    """Return the app that a module holds under this name. Called by `pickle`."""
    app: App | None = getattr(importlib.import_module(module), name, None)
    if app is None:
        raise DecodeError(f"The module {module!r} has no app named {name!r} here. Was it pickled by another version?")
    return app


def task_at(app: App, name: str, module: str) -> AnyTask:
    """Return a task of an app, after importing its module if it is not registered yet. Called by `pickle`."""
    if name not in app.tasks and name not in app.builtin_tasks:
        importlib.import_module(module)
    return app.known_task(name)
