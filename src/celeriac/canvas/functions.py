"""Celery's functions `signature`, `chunks`, `xmap` and `xstarmap`, and the built-in tasks that run a task over a list.

`task.chunks`, `task.map` and `task.starmap` call these functions. Every worker has the built-in tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from celeriac.canvas.group import group
from celeriac.errors import NotRegistered
from celeriac.tasks.builtin_names import GATHER, MAP, STARMAP
from celeriac.tasks.protocols import AnyTask, App
from celeriac.tasks.signature import Signature
from celeriac.tasks.task import Task

__all__ = ["builtin_tasks", "chunks", "signature", "xmap", "xstarmap"]


def signature(task: Any, *args: Any, **options: Any) -> Any:
    """Return a signature of a task, with these arguments and options; or a copy of a signature."""
    make = getattr(task, "signature", None)
    if make is not None:
        return make(*args, **options)
    if isinstance(task, Signature):
        return task.clone()
    raise TypeError(f"signature needs a task (by name: app.signature({task!r})) or a signature, not {task!r}.")


def xmap(task: Task[Any, Any], items: Iterable[Any]) -> Signature[list[Any]]:
    """Return one call that runs a task for each item in sequence; its result is a list."""
    return Signature(task.app, MAP, (task.name, list(items)), immutable=True)


def xstarmap(task: Task[Any, Any], items: Iterable[Iterable[Any]]) -> Signature[list[Any]]:
    """Like `xmap`, but each item holds the arguments of a call."""
    return Signature(task.app, STARMAP, (task.name, [list(item) for item in items]), immutable=True)


def chunks(task: Task[Any, Any], items: Iterable[Iterable[Any]], size: int) -> group[list[Any]]:
    """Return a group of `xstarmap` calls with up to `size` items each."""
    if size < 1:
        raise ValueError(f"chunks: size must be 1 or more, not {size!r}")
    left = iter(items)
    return group([xstarmap(task, part) for part in iter(lambda: list(islice(left, size)), [])])


def builtin_tasks(app: App) -> dict[str, Task[Any, Any]]:
    """Return the built-in tasks of an app."""

    def gather(value: Any) -> Any:
        return value

    def map_(task: str, items: list[Any]) -> list[Any]:
        found = _plain_task(app, task)
        return [_call(found, [item]) for item in items]

    def starmap(task: str, items: list[list[Any]]) -> list[Any]:
        found = _plain_task(app, task)
        return [_call(found, item) for item in items]

    made: dict[str, Callable[..., Any]] = {GATHER: gather, MAP: map_, STARMAP: starmap}
    return {name: Task(app, function, name, {"max_retries": 0}) for name, function in made.items()}


def _call(task: AnyTask, items: list[Any]) -> Any:
    args, kwargs = task.arguments.rebuild(items, {})
    return task(*args, **kwargs)


def _plain_task(app: App, name: str) -> AnyTask:
    if name not in app.tasks:
        raise NotRegistered(name, app.tasks)
    task = app.tasks[name]
    if task.is_coroutine:
        raise TypeError(f"map, starmap and chunks call plain functions in sequence, but {name} is a coroutine task: "
                        "use app.map or a group instead.")  # fmt: skip
    return task
