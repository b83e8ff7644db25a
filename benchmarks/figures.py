"""What a benchmark comes back with: rows for the eye, figures for the programs, and bars to hold them against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Bar", "Report", "number", "percentile"]


@dataclass(frozen=True)
class Bar:
    """One figure and what it must reach."""

    what: str
    value: float
    limit: float
    unit: str
    at_least: bool = False  # else: below

    @property
    def met(self) -> bool:
        """Say whether it was reached."""
        return self.value >= self.limit if self.at_least else self.value < self.limit

    @property
    def aim(self) -> str:
        """What it must reach, in words."""
        return f"{'≥' if self.at_least else '<'} {self.limit:g} {self.unit}"

    def __str__(self) -> str:
        return f"{self.what}: {number(self.value)} {self.unit} (bar {self.aim})"


@dataclass
class Report:
    """One benchmark's outcome. `rows` have as many texts as `columns`; `figures` is what --json writes."""

    name: str
    title: str
    columns: Sequence[str] = ()
    rows: list[Sequence[str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)  # by contender, with its versions
    issue: int = 2  # which says what its bars are


def number(value: float) -> str:
    """Return a figure with as many digits as it deserves.

    >>> number(12643.7), number(3.14159), number(0.02345)
    ('12,644', '3.14', '0.023')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the others does not pass (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
