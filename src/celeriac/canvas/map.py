"""A map that uses tasks: `app.map(task, items)`, in order, streaming, in bounded memory.

A window of calls is on its way at any time. When the oldest has its result, that is yielded, its outcome is dropped
from the backend, and the next item is sent. So an endless iterable costs no more memory, here or in the broker, than
the window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

from celeriac.model.options import CallOptions
from celeriac.model.outcome import Outcome
from celeriac.tasks.result import LONG, AsyncResult, EagerResult, forbid_waiting
from celeriac.tasks.task import Task

__all__ = ["amap_tasks", "map_tasks"]

R = TypeVar("R")

ASK = 200  # ids asked for at a time


def map_tasks(task: Task[Any, R], items: Iterable[Any], *, window: int = 1000,
              return_exceptions: bool = False) -> Iterator[R]:  # fmt: skip
    """Yield `task(item)` for each item, in order."""
    forbid_waiting()
    work: _Window[R] = _Window(task, items, window)
    while True:
        work.add(task.delay_many(work.next_calls(), **work.options))
        if not work.waiting:
            return
        if wanted := work.wanted():
            work.arrived(task.app.backend.fetch(wanted, wait=LONG))
        done = work.take()
        for result in done:
            yield result.get(propagate=not return_exceptions)
        if wanted:
            task.app.backend.forget([result.id for result in done])


async def amap_tasks(task: Task[Any, R], items: Iterable[Any], *, window: int = 1000,
                     return_exceptions: bool = False) -> AsyncIterator[R]:  # fmt: skip
    """Do as `map_tasks`, for coroutines."""
    work: _Window[R] = _Window(task, items, window)
    while True:
        work.add(await task.adelay_many(work.next_calls(), **work.options))
        if not work.waiting:
            return
        if wanted := work.wanted():
            work.arrived(await task.app.backend.afetch(wanted, wait=LONG))
        done = work.take()
        for result in done:
            yield await result.aget(propagate=not return_exceptions)
        if wanted:
            await task.app.backend.aforget([result.id for result in done])


class _Window(Generic[R]):
    """The calls that are on their way, oldest first, and the outcomes that came before their turn."""

    def __init__(self, task: Task[Any, R], items: Iterable[Any], size: int) -> None:
        if size < 1:
            raise ValueError(f"window takes a whole number from 1 up, not {size!r}")
        self.waiting: deque[AsyncResult[R]] = deque()
        self.options: CallOptions = {}
        if task.options.get("ignore_result", task.app.conf.task_ignore_result):
            self.options = {"ignore_result": False}  # what a map yields has to be kept until then
        self._task = task
        self._items = iter(items)
        self._size = size
        self._early: dict[str, Outcome] = {}

    def next_calls(self) -> list[tuple[Any]]:
        """Return the calls that the window has room for; a quarter of it at a time, so that they go in batches."""
        room = self._size - len(self.waiting)
        if self.waiting and room < self._size // 4:
            return []
        return [(item,) for item in islice(self._items, room)]

    def add(self, results: Iterable[AsyncResult[R]]) -> None:
        self.waiting.extend(results)
        for result in self.waiting:
            if isinstance(result, EagerResult):
                self._early[result.id] = result.outcome

    def wanted(self) -> list[str]:
        """Return the ids to ask for: the oldest that are not known."""
        ids = (result.id for result in self.waiting if result.id not in self._early)
        return list(islice(ids, ASK))

    def arrived(self, outcomes: dict[str, Outcome]) -> None:
        self._early.update({id: outcome for id, outcome in outcomes.items() if outcome.ready})

    def take(self) -> list[AsyncResult[R]]:
        """Take the results from the front whose turn has come."""
        taken: list[AsyncResult[R]] = []
        while self.waiting and self.waiting[0].id in self._early:
            result = self.waiting.popleft()
            taken.append(EagerResult(self._early.pop(result.id), self._task.app))
        return taken
