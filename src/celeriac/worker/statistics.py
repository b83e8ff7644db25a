"""How many tasks of each type ran, how they ended, and how long they took."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from celeriac.outcome import Outcome

__all__ = ["Runtimes", "Statistics"]


class Runtimes:
    """Runtimes in buckets whose bounds grow by 5 %, so that a percentile is right to 2.5 % in bounded memory.

    The idea of logarithmic buckets with a relative error is that of DDSketch (Masson, Rim, Lee, VLDB 2019).
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

    def add(self, runtime: float) -> None:
        """Count a runtime (seconds)."""
        self.count += 1
        self.total += runtime
        self.least = min(self.least, runtime)
        self.most = max(self.most, runtime)
        self._buckets[int(math.log(max(runtime, self.SMALLEST) / self.SMALLEST) * self._scale)] += 1

    def percentile(self, share: float) -> float:
        """Return the runtime (seconds) that this share (0 to 1) of all did not pass."""
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
    """The worker's own book-keeping, since it started."""

    def __init__(self) -> None:
        self._states: dict[str, Counter[str]] = {}
        self._runtimes: dict[str, Runtimes] = {}

    def add(self, outcome: Outcome) -> None:
        """Count an ending."""
        states = self._states.get(outcome.task)
        if states is None:
            states = self._states[outcome.task] = Counter()
            self._runtimes[outcome.task] = Runtimes()
        states[outcome.state] += 1
        if outcome.runtime:
            self._runtimes[outcome.task].add(outcome.runtime)

    def summary(self) -> dict[str, Any]:
        """Return count, states and runtimes by task."""
        return {
            task: {"count": states.total(), "states": dict(states), **self._runtimes[task].summary()}
            for task, states in self._states.items()
        }
