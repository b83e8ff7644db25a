"""`app.map(task, items)`: a streaming map that runs in the workers, in order and in bounded memory.

A window of calls is sent and not yielded at any time. When the oldest has its result, the result is yielded, its
outcome is deleted from the backend, and the next item is sent. So even an endless iterable needs no more memory than
the window, here and in the broker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

from celeriac.model.options import CallOptions
from celeriac.model.outcome import Outcome
from celeriac.tasks.eager_result import EagerResult
from celeriac.tasks.result import LONG, AsyncResult, forbid_waiting
from celeriac.tasks.task import Task

__all__ = ["amap_tasks", "map_tasks"]

R = TypeVar("R")

FETCH_BATCH = 200  # ids fetched at a time


def map_tasks(task: Task[Any, R], items: Iterable[Any], *, window: int = 1000,
              return_exceptions: bool = False) -> Iterator[R]:  # fmt: skip
    """Yield the result of `task(item)` for each item, in order."""
    return _map(_Window(task, items, window), return_exceptions)


def _map(work: _Window[R], return_exceptions: bool) -> Iterator[R]:
    forbid_waiting()
    task = work.task
    while True:
        work.add(task.delay_many(work.next_calls(), **work.options))
        if not work.waiting:
            return
        if missing := work.missing():
            work.arrived(task.app.backend.fetch(missing, wait=LONG))
        done = work.pop_ready()
        for result in done:
            yield result.get(propagate=not return_exceptions)
        if missing:
            task.app.backend.forget([result.id for result in done])


def amap_tasks(task: Task[Any, R], items: Iterable[Any], *, window: int = 1000,
               return_exceptions: bool = False) -> AsyncGenerator[R, None]:  # fmt: skip
    """Coroutine version of `map_tasks`."""
    return _amap(_Window(task, items, window), return_exceptions)


async def _amap(work: _Window[R], return_exceptions: bool) -> AsyncGenerator[R, None]:
    task = work.task
    while True:
        work.add(await task.adelay_many(work.next_calls(), **work.options))
        if not work.waiting:
            return
        if missing := work.missing():
            work.arrived(await task.app.backend.afetch(missing, wait=LONG))
        done = work.pop_ready()
        for result in done:
            yield await result.aget(propagate=not return_exceptions)
        if missing:
            await task.app.backend.aforget([result.id for result in done])


class _Window(Generic[R]):
    """The calls that have been sent and not yielded, oldest first, and the outcomes that have arrived."""

    def __init__(self, task: Task[Any, R], items: Iterable[Any], size: int) -> None:
        if not hasattr(task, "delay_many"):  # a task, or one of `shared_task`
            raise TypeError(f"map takes a task and the items to call it with, app.map(add, [1, 2]), not {task!r} as "
                            "the task. For calls with more arguments use a group of signatures.")  # fmt: skip
        if not isinstance(items, Iterable):
            raise TypeError(f"map takes a task and the items to call it with, app.map(add, [1, 2]), not {items!r} as "
                            "the items: they must be iterable.")  # fmt: skip
        if size < 1:
            raise ValueError(f"window must be 1 or more, not {size!r}")
        self.waiting: deque[AsyncResult[R]] = deque()
        self.options: CallOptions = {}
        if task.options.get("ignore_result", task.app.conf.task_ignore_result):
            self.options = {"ignore_result": False}  # outcomes must be stored until they are yielded
        self.task = task
        self._items = iter(items)
        self._size = size
        self._early: dict[str, Outcome] = {}

    def next_calls(self) -> list[tuple[Any]]:
        """Return the calls that the window has room for. To send in batches, none until a quarter of it is free."""
        room = self._size - len(self.waiting)
        if self.waiting and room < self._size // 4:
            return []
        return [(item,) for item in islice(self._items, room)]

    def add(self, results: Iterable[AsyncResult[R]]) -> None:
        self.waiting.extend(results)
        for result in self.waiting:
            if isinstance(result, EagerResult):
                self._early[result.id] = result.outcome

    def missing(self) -> list[str]:
        """Return the ids to fetch: the oldest whose outcomes have not arrived."""
        ids = (result.id for result in self.waiting if result.id not in self._early)
        return list(islice(ids, FETCH_BATCH))

    def arrived(self, outcomes: dict[str, Outcome]) -> None:
        self._early.update({id: outcome for id, outcome in outcomes.items() if outcome.ready})

    def pop_ready(self) -> list[AsyncResult[R]]:
        """Remove and return the results at the front whose outcomes have arrived."""
        ready: list[AsyncResult[R]] = []
        while self.waiting and self.waiting[0].id in self._early:
            result = self.waiting.popleft()
            ready.append(EagerResult(self._early.pop(result.id), self.task.app))
        return ready
