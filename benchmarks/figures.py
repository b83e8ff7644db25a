"""The report of a benchmark: rows to print, figures for programs, and bars to reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

__all__ = ["Bar", "Report", "number", "paired", "percentile"]


@dataclass(frozen=True)
class Bar:
    """One figure, and the limit that it must meet."""

    what: str
    value: float
    limit: float
    unit: str
    at_least: bool = False  # whether `limit` is a minimum; otherwise the value must be below it

    @property
    def met(self) -> bool:
        """Whether the limit is met."""
        return self.value >= self.limit if self.at_least else self.value < self.limit

    @property
    def aim(self) -> str:
        """The limit as text."""
        return f"{'≥' if self.at_least else '<'} {self.limit:g} {self.unit}"

    def __str__(self) -> str:
        return f"{self.what}: {number(self.value)} {self.unit} (bar {self.aim})"


@dataclass
class Report:
    """The result of one benchmark. Each of `rows` has one text per column; `figures` is written by --json."""

    name: str
    title: str
    columns: Sequence[str] = ()
    rows: list[Sequence[str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)  # by contender: versions and settings
    issue: int = 2  # the issue that defines its bars


def number(value: float) -> str:
    """Return a figure as text, rounded to a readable number of digits.

    >>> number(12643.7), number(3.14159), number(0.02345)
    ('12,644', '3.14', '0.023')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a fraction `share` of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def paired(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios of values that were measured next to each other.

    Of two that hardly differ, it tells which is less: a fast or a slow minute of the machine is in both of a pair.

    >>> paired([90, 60, 88], [100, 66, 99])
    0.9
    """
    return median(value / other for value, other in zip(values, others, strict=True))
