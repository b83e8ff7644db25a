"""Counts attempts by task and state, and their runtimes. Filled by `Settler`, shown by `celeriac inspect stats`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from celeriac.model.outcome import Outcome

__all__ = ["Runtimes", "Statistics"]


class Runtimes:
    """Runtimes in buckets whose bounds grow by 5 %: percentiles are exact to 2.5 %, in bounded memory.

    Logarithmic buckets with a relative error are the idea of DDSketch (Masson, Rim, Lee, VLDB 2019).
    """

    GROWTH = 1.05
    SMALLEST = 1e-6  # seconds

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.least = math.inf
        self.most = 0.0
        self._buckets: Counter[int] = Counter()
        self._scale = 1 / math.log(self.GROWTH)

    def add(self, runtimes: Sequence[float]) -> None:
        """Count runtimes (seconds)."""
        self.count += len(runtimes)
        self.total += sum(runtimes)
        self.least = min(self.least, *runtimes)
        self.most = max(self.most, *runtimes)
        log, scale, smallest = math.log, self._scale, self.SMALLEST
        self._buckets.update([int(log(time / smallest) * scale) if time > smallest else 0 for time in runtimes])

    def percentile(self, share: float) -> float:
        """Return the runtime (seconds) that this share (0 to 1) of all runtimes did not exceed."""
        wanted = share * self.count
        for bucket in sorted(self._buckets):
            wanted -= self._buckets[bucket]
            if wanted <= 0:
                middle: float = self.SMALLEST * self.GROWTH ** (bucket + 0.5)
                return min(max(middle, self.least), self.most)
        return self.most

    def summary(self) -> dict[str, float]:
        """Return mean, min, max, p50, p95 and p99 in seconds."""
        if not self.count:
            return {}
        return {
            "mean": self.total / self.count,
            "min": self.least,
            "p50": self.percentile(0.50),
            "p95": self.percentile(0.95),
            "p99": self.percentile(0.99),
            "max": self.most,
        }


class Statistics:
    """Counts and runtimes since the worker started."""

    def __init__(self) -> None:
        self._states: dict[str, Counter[str]] = {}
        self._runtimes: dict[str, Runtimes] = {}

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count outcomes."""
        alike: dict[tuple[str, str], list[float]] = {}
        for outcome in outcomes:
            alike.setdefault((outcome.task, outcome.state), []).append(outcome.runtime)
        for (task, state), runtimes in alike.items():
            if task not in self._states:
                self._states[task] = Counter()
                self._runtimes[task] = Runtimes()
            self._states[task][state] += len(runtimes)
            ran = [runtime for runtime in runtimes if runtime]
            if ran:
                self._runtimes[task].add(ran)

    def summary(self) -> dict[str, Any]:
        """Return count, states and runtimes by task."""
        return {
            task: {"count": states.total(), "states": dict(states), **self._runtimes[task].summary()}
            for task, states in self._states.items()
        }
