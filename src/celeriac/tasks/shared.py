"""`@shared_task`: tasks of libraries that have no app. Every app registers them; `current_app` picks the one to use."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload

from celeriac.errors import ImproperlyConfigured
from celeriac.model.options import TaskOptions
from celeriac.tasks.current_app import apps as _apps
from celeriac.tasks.current_app import current_app
from celeriac.tasks.decorators import BoundDecorator, Decorator
from celeriac.tasks.protocols import AnyTask, App
from celeriac.tasks.task import CoroutineTask, Task

__all__ = ["current_app", "register_app", "shared_task"]

P = ParamSpec("P")
R = TypeVar("R")

_shared: list[Callable[[App], Task[Any, Any]]] = []


def register_app(app: App) -> None:
    """Register all shared tasks with an app, and remember the app for later ones. Called by the app's constructor."""
    _apps.append(app)
    for build in _shared:
        build(app)


class _SharedTask:
    """A proxy: each use of it goes to the task of the current app."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._task()(*args, **kwargs)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._task(), attribute)

    def __eq__(self, other: object) -> bool:
        """Return whether the other is this task, in any app, so that it can be the sender that a signal names."""
        return bool(getattr(other, "name", None) == self.name)

    def __hash__(self) -> int:
        return hash(self.name)

    def _task(self) -> AnyTask:
        return current_app().tasks[self.name]

    def __reduce__(self) -> tuple[Any, ...]:
        return _SharedTask, (self.name,)

    def __repr__(self) -> str:
        return f"<shared task {self.name}>"


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

        def build(app: App) -> Task[Any, Any]:
            task: Task[Any, Any] = app.register(function, task_name, bind, base, options)
            return task

        _shared.append(build)
        for app in _apps:
            build(app)
        return _SharedTask(task_name)

    return register if function is None else register(function)
