"""Tasks for whichever app there is: of libraries that have none of their own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload

from celeriac.errors import ImproperlyConfigured
from celeriac.model.options import TaskOptions
from celeriac.tasks.context import current
from celeriac.tasks.decorators import BoundDecorator, Decorator
from celeriac.tasks.protocols import AnyTask, App
from celeriac.tasks.task import CoroutineTask, Task

__all__ = ["current_app", "join", "shared_task"]

P = ParamSpec("P")
R = TypeVar("R")

_apps: list[App] = []
_shared: list[Callable[[App], Task[Any, Any]]] = []


def join(app: App) -> None:
    """Make an app known here, and register with it what is shared. Called by the app as it is made."""
    _apps.append(app)
    for build in _shared:
        build(app)


def current_app() -> App:
    """Return the app of the task that is running here; outside a task, the app that was made last."""
    request = current.get()
    if request is not None:
        return request.task.app
    if not _apps:
        raise ImproperlyConfigured("There is no app yet: make one with app = Celeriac('name').")
    return _apps[-1]


class _SharedTask:
    """A task of whichever app is current when it is used."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._task()(*args, **kwargs)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._task(), attribute)

    def __eq__(self, other: object) -> bool:
        """Say whether the other is this task in one of the apps: so that a signal may name it as its sender."""
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
    """Register a function with every app, made already or later; for libraries that have no app of their own."""

    def register(function: Callable[..., Any]) -> Any:
        if not callable(function):
            raise ImproperlyConfigured(f"@shared_task is given the function, not {function!r}. "
                                       "A name goes by its keyword: @shared_task(name=…).")  # fmt: skip
        task_name = name or f"{function.__module__}.{function.__name__}"

        def build(app: App) -> Task[Any, Any]:
            task: Task[Any, Any] = app.register(function, task_name, bind, base, options)
            return task

        _shared.append(build)
        for app in _apps:
            build(app)
        return _SharedTask(task_name)

    return register if function is None else register(function)
