"""Output while the demonstration runs: progress bars on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from contextlib import nullcontext
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["Bar", "Show"]

LINE_SECONDS = 2.0  # the least time between two lines of one bar when the output is not a terminal


class Show:
    """The console and its progress bars."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = _progress(console) if console.is_terminal else None

    def __enter__(self) -> Self:
        (self.progress or nullcontext()).__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:  # fmt: skip
        (self.progress or nullcontext()).__exit__(kind, error, traceback)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def bar(self, name: str, unit: str) -> Bar:
        """Add a bar."""
        return Bar(self, name, unit)


class Bar:
    """The progress of one job."""

    def __init__(self, show: Show, name: str, unit: str) -> None:
        self._show = show
        self._name = name
        self._unit = unit
        self._total = 0
        self._printed_at = time.monotonic()
        self._id: TaskID | None = None
        if show.progress is not None:
            self._id = show.progress.add_task(name, total=None, unit=unit, counts="waiting")

    def update(self, done: int, total: int | None = None) -> None:
        """Show that `done` of `total` are finished; without `total`, the previous one is kept."""
        self._total = total if total is not None else self._total
        counts = f"{done} of {self._total} {self._unit}"
        if self._show.progress is not None and self._id is not None:
            self._show.progress.update(self._id, completed=done, total=self._total, counts=counts)
        elif time.monotonic() - self._printed_at > LINE_SECONDS:
            self._printed_at = time.monotonic()
            self._show.say(f"  {self._name}: {counts}")

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._show.say(f"  {text}")


def _progress(console: Console) -> Progress:
    counts = TextColumn("{task.fields[counts]}")
    name = TextColumn("{task.description}")
    return Progress(name, BarColumn(20), counts, TimeElapsedColumn(), console=console)
