"""Tables for people. Bold only on a terminal; cells are never cut when the output is a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from celeriac.cli.output import echo, is_terminal
from celeriac.model.clock import aware
from celeriac.model.durations import duration
from celeriac.ports.operations import QueueCounts

__all__ = ["call", "duration", "show", "tell_uncounted", "until", "when"]

PIPE_WIDTH = 10_000  # columns
LAST_WIDTH = 24  # character columns: the least width of the last column on a narrow terminal
GAP = 2  # character columns between two table columns
CELL_LENGTH = 80  # characters: the longest text for a call's arguments


def tell_uncounted(queues: Iterable[QueueCounts]) -> None:
    """Say why numbers of messages are shown as "?", or as "400+"."""
    for why in dict.fromkeys(queue.uncounted for queue in queues if queue.uncounted):
        echo(why, err=True)


def show(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "", empty: str = "None.",
         numbers: Sequence[str] = ()) -> None:  # fmt: skip
    """Print a table, or the text `empty` if it has no rows; `numbers` names the right-aligned columns.

    Only the last column is cut to fit the terminal. If the other columns do not fit, lines wrap.
    """
    lines = [[_cell(value) for value in row] for row in rows]
    widths = [max(cell_len(cell) for cell in column) for column in zip(columns, *lines, strict=True)]
    least = sum(widths[:-1]) + GAP * len(widths) + min(widths[-1], LAST_WIDTH)
    width = max(Console().width, least) if is_terminal() else PIPE_WIDTH
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    if title:
        console.print(title, style="bold")
    if not lines:
        console.print(empty)
        return
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column, needed in zip(columns, widths, strict=True):
        table.add_column(column.upper(), justify="right" if column in numbers else "left", no_wrap=True,
                         min_width=needed if column != columns[-1] else None)  # fmt: skip
    for line in lines:
        table.add_row(*line)
    console.print(table)


def _cell(value: Any) -> str:
    """Return a value as one line without control characters."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def when(instant: float | None) -> str:
    """Return an instant in local time: `12:00:00` if it is today, else `2026-01-01 12:00:00`; empty for None."""
    if not instant:
        return ""
    found = aware(instant).astimezone()
    today = found.date() == datetime.now().astimezone().date()
    return found.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def until(instant: float | None, now: float) -> str:
    """Return how far ahead an instant is, as text, whole seconds at least; empty for None.

    >>> until(1_000.0, 940.4), until(1_000.0, 1_000.0), until(1_000.0, 1_075.0)
    ('in 1 min 0 s', 'now', '1 min 15 s late')
    """
    if instant is None:
        return ""
    left = round(instant - now)
    if abs(left) < 1:
        return "now"
    return f"in {duration(left)}" if left > 0 else f"{duration(-left)} late"


def call(arguments: tuple[list[Any], dict[str, Any]] | None) -> str:
    """Return a call's arguments as Python source, cut to a readable length."""
    if arguments is None:
        return "(cannot be decoded here)"
    args, kwargs = arguments
    text = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
    return text if len(text) <= CELL_LENGTH else f"{text[: CELL_LENGTH - 1]}…"
