"""A progress bar for a set of tasks: wrap a group's results or a map, and iterate as before.

    for result in track(group(add.s(i, i) for i in range(100)).delay(), "Adding"):
        print(result.get())

    for total in track(app.map(add, pairs), "Adding", total=len(pairs)):
        print(total)

On a terminal this draws a bar; elsewhere (a log, a pipe) it writes a line every few seconds and one at the end.
The output goes to stderr, so that it does not mix with what the program writes to stdout.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar, overload

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from celeriac import states
from celeriac.canvas.group_result import GroupResult
from celeriac.model.clock import Duration
from celeriac.model.message import new_id
from celeriac.tasks.result import AsyncResult
from celeriac.tasks.results import Results

__all__ = ["atrack", "track"]

R = TypeVar("R")
T = TypeVar("T")

LINE_SECONDS: Final = 5.0  # between two lines when the output is not a terminal


@overload
def track(results: GroupResult[R] | Sequence[AsyncResult[R]], description: str = ..., *, total: int | None = ...,
          timeout: Duration | None = ..., console: Console | None = ...) -> Iterator[AsyncResult[R]]: ...  # fmt: skip


@overload
def track(results: Iterable[T], description: str = ..., *, total: int | None = ...,
          console: Console | None = ...) -> Iterator[T]: ...  # fmt: skip


def track(results: Any, description: str = "Tasks", *, total: int | None = None, timeout: Duration | None = None,
          console: Console | None = None) -> Iterator[Any]:  # fmt: skip
    """Yield results as they arrive, and draw a progress bar.

    For a `GroupResult` (or a list of `AsyncResult`), yields each `AsyncResult` when its task has ended, whether it
    succeeded or failed; raises `ResultTimeout` after `timeout` seconds. For any other iterable, such as
    `app.map(...)`, yields its items; pass `total` if their number is known. Exceptions among the items count
    as failures.
    """
    whole = _set_of(results, timeout)
    bar = _Bar(console, description, _length(results, total))
    return _track(results if whole is None else whole.as_completed(timeout), bar)


def _track(results: Iterable[T], bar: _Bar) -> Iterator[T]:
    with bar:
        for result in results:
            bar.advance(result)
            yield result


@overload
def atrack(results: GroupResult[R] | Sequence[AsyncResult[R]], description: str = ..., *, total: int | None = ...,
           timeout: Duration | None = ...,
           console: Console | None = ...) -> AsyncGenerator[AsyncResult[R], None]: ...  # fmt: skip


@overload
def atrack(results: AsyncIterable[T], description: str = ..., *, total: int | None = ...,
           console: Console | None = ...) -> AsyncGenerator[T, None]: ...  # fmt: skip


def atrack(results: Any, description: str = "Tasks", *, total: int | None = None, timeout: Duration | None = None,
           console: Console | None = None) -> AsyncGenerator[Any, None]:  # fmt: skip
    """Coroutine version of `track`, for a `GroupResult` or `app.amap(...)`."""
    whole = _set_of(results, timeout)
    bar = _Bar(console, description, _length(results, total))
    return _atrack(results if whole is None else whole.aas_completed(timeout), bar)


async def _atrack(results: AsyncIterable[T], bar: _Bar) -> AsyncGenerator[T, None]:
    with bar:
        async for result in results:
            bar.advance(result)
            yield result


def _set_of(results: Any, timeout: Duration | None) -> GroupResult[Any] | None:
    """Return the tasks to wait for; None if `results` does its own waiting."""
    if isinstance(results, GroupResult):
        return results
    if isinstance(results, list | tuple | Results) and all(isinstance(item, AsyncResult) for item in results):
        return GroupResult(new_id(), list(results))
    if timeout is not None:
        raise TypeError("timeout goes with a GroupResult or a list of AsyncResult; a map does its own waiting.")
    return None


def _length(results: Any, total: int | None) -> int | None:
    if total is None and hasattr(results, "__len__"):
        return len(results)
    return total


class _Bar:
    """Shows the progress: a bar on a terminal, lines elsewhere."""

    def __init__(self, console: Console | None, description: str, total: int | None) -> None:
        self._console = console = console or Console(stderr=True)
        self._description = description
        self._total = total
        self._done = self._failed = 0
        self._began = self._printed_at = time.monotonic()
        self._task = TaskID(0)
        self._progress: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            name = TextColumn("{task.description}", markup=False)
            counts = TextColumn("{task.fields[counts]}", markup=False)
            # If stdout is a terminal too, what the caller prints goes above the bar; otherwise leave stdout alone.
            self._progress = Progress(name, BarColumn(), counts, TimeElapsedColumn(), TimeRemainingColumn(),
                                      console=console, redirect_stdout=sys.stdout.isatty())  # fmt: skip

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
            self._task = self._progress.add_task(self._description, total=self._total, counts=self._counts())
        return self

    def advance(self, result: Any) -> None:
        """Count one result."""
        self._done += 1
        self._failed += _is_failure(result)
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done, counts=self._counts())
        elif time.monotonic() - self._printed_at >= LINE_SECONDS:
            self._printed_at = time.monotonic()
            self._print(f"{self._description}: {self._counts()}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:  # fmt: skip
        if self._progress is not None:
            if self._total is None:  # the total was unknown until now: show the bar as full
                self._progress.update(self._task, total=self._done)
            self._progress.stop()
        else:
            self._print(f"{self._description}: {self._counts()} in {time.monotonic() - self._began:.1f} s")

    def _counts(self) -> str:
        whole = f"{self._done:,}" if self._total is None else f"{self._done:,} of {self._total:,}"
        return f"{whole}, {self._failed:,} failed" if self._failed else whole

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _is_failure(result: Any) -> bool:
    if isinstance(result, AsyncResult):  # from a group: it already holds its outcome, so this makes no request
        return result.state in (states.FAILURE, states.REVOKED)
    return isinstance(result, BaseException)
