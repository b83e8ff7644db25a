"""The types of `@app.task(...)` and `@shared_task(...)` with options. They exist for type checkers only."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from celeriac.tasks.task import CoroutineTask, Task

__all__ = ["BoundDecorator", "Decorator"]

P = ParamSpec("P")
R = TypeVar("R")


class Decorator(Protocol):
    """The type of `@app.task(...)`."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BoundDecorator(Protocol):
    """The type of `@app.task(bind=True)`, whose function has the task as its first parameter."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> CoroutineTask[P, R]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...
