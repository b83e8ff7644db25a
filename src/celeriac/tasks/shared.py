"""`@shared_task`: tasks of libraries that have no app. Every app registers them; `current_app` picks the one to use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Coroutine, Mapping
from functools import update_wrapper
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, cast, overload

from celeriac.errors import ImproperlyConfigured
from celeriac.model.options import TaskOptions
from celeriac.tasks.current_app import apps as _apps
from celeriac.tasks.current_app import current_app
from celeriac.tasks.decorators import BoundDecorator, Decorator
from celeriac.tasks.protocols import AnyTask, App
from celeriac.tasks.request import current
from celeriac.tasks.task import CoroutineTask, Task

__all__ = ["current_app", "register_app", "shared_task"]

P = ParamSpec("P")
R = TypeVar("R")

_shared: list[_SharedTask] = []


def register_app(app: App) -> None:
    """Register all shared tasks with an app, and remember the app for later ones. Called by the app's constructor."""
    _apps.append(app)
    for shared in _shared:
        shared.register_with(app)


class _CurrentApp:
    """Stands for the app in a shared task, and in its signatures, that were made before there was one."""

    def __getattr__(self, name: str) -> Any:
        return getattr(current_app(), name)

    def __repr__(self) -> str:
        return "<the current app>"


class _SharedTask:
    """A proxy: each use of it goes to the task of the current app. While there is no app, it can be called."""

    def __init__(self, function: Callable[..., Any], name: str, bind: bool, base: type[Task[Any, Any]] | None,
                 options: Mapping[str, Any]) -> None:  # fmt: skip
        update_wrapper(self, function)
        self.name = name
        self._made_of = (function, name, bind, base, options)
        self._without_app = (base or Task)()
        self._without_app.attach(cast(App, _CurrentApp()), function, name, options, bind)  # raises what an app would

    def register_with(self, app: App) -> None:
        """Register the task with an app."""
        app.register(*self._made_of)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._task()(*args, **kwargs)

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "_without_app":  # while the proxy is made
            raise AttributeError(attribute)
        return getattr(self._task(), attribute)

    def __eq__(self, other: object) -> bool:
        """Return whether the other is this task, in any app, so that it can be the sender that a signal names."""
        return bool(getattr(other, "name", None) == self.name)

    def __hash__(self) -> int:
        return hash(self.name)

    def _task(self) -> AnyTask:
        if not _apps and current.get() is None:
            return self._without_app
        return current_app().tasks[self.name]

    def __reduce__(self) -> tuple[Any, ...]:
        return _shared_at, (self.name, self.__module__)

    def __repr__(self) -> str:
        return f"<shared task {self.name}>"


def _shared_at(name: str, module: str) -> _SharedTask:
    """Return a shared task, after importing its module if it is not known yet. Called by `pickle`."""
    if all(shared.name != name for shared in _shared):
        importlib.import_module(module)
    return next(shared for shared in reversed(_shared) if shared.name == name)


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...


@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...


@overload
def shared_task(*, name: str | None = None, bind: Literal[True], base: type[Task[Any, Any]] | None = None,
                **options: Unpack[TaskOptions]) -> BoundDecorator: ...  # fmt: skip


@overload
def shared_task(*, name: str | None = None, bind: Literal[False] = False, base: type[Task[Any, Any]] | None = None,
                **options: Unpack[TaskOptions]) -> Decorator: ...  # fmt: skip


def shared_task(function: Callable[..., Any] | None = None, /, *, name: str | None = None, bind: bool = False,
                base: type[Task[Any, Any]] | None = None, **options: Any) -> Any:  # fmt: skip
    """Register a function as a task of every app, present and future. For libraries that have no app."""

    def register(function: Callable[..., Any]) -> Any:
        if not callable(function):
            raise ImproperlyConfigured(f"@shared_task must be given a function, not {function!r}. "
                                       "To name the task, write @shared_task(name=…).")  # fmt: skip
        task_name = name or f"{function.__module__}.{function.__name__}"

        shared = _SharedTask(function, task_name, bind, base, options)
        _shared.append(shared)
        for app in _apps:
            shared.register_with(app)
        return shared

    return register if function is None else register(function)
