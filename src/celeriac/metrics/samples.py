"""Samples: the values of metrics at one time. `exposition.py` writes them as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from celeriac.metrics.table import Metric
from celeriac.model.spread import Spread

__all__ = ["Samples", "Value"]

Value: TypeAlias = "float | Spread"


class Samples:
    """Values by metric and labels. What is added twice to a counter or a histogram is summed up."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self.metrics = metrics
        self.values: dict[str, dict[tuple[str, ...], Value]] = {}

    def add(self, name: str, value: float, *labels: str) -> None:
        """Add to a counter."""
        values = self.values.setdefault(name, {})
        values[labels] = values.get(labels, 0) + value  # type: ignore[operator]

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        self.values.setdefault(name, {})[labels] = value

    def merge(self, name: str, spread: Spread, *labels: str) -> None:
        """Add durations to a histogram."""
        found = self.values.setdefault(name, {}).setdefault(labels, Spread())
        found.merge(spread)  # type: ignore[union-attr]
