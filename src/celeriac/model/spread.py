"""A spread: how durations are distributed, in bounded memory. It can be added to, merged, stored and sent.

Workers keep one for each kind of attempt (`worker/statistics.py`), the history keeps them by time (`ports/history.py`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from celeriac.model.gate import Duration

__all__ = ["GROWTH", "SMALLEST", "Count", "Spread"]

GROWTH: Final = 1.05
SMALLEST: Final = 1e-6  # seconds
SCALE: Final = 1 / math.log(GROWTH)
OFFSET: Final = math.log(SMALLEST) * SCALE

Count = Annotated[int, Meta(ge=0, le=1 << 60)]
Bucket = Annotated[int, Meta(ge=0, le=1000)]
Total = Annotated[float, Meta(ge=0.0, le=1e18)]


class Spread(msgspec.Struct, array_like=True):
    """Durations in buckets whose bounds grow by 5 %: percentiles are exact to 2.5 %.

    Logarithmic buckets with a relative error are the idea of DDSketch (Masson, Rim, Lee, VLDB 2019).
    """

    n: Count = 0
    total: Total = 0.0  # seconds
    least: Duration = 0.0
    most: Duration = 0.0
    buckets: dict[Bucket, Count] = {}

    def add(self, durations: Sequence[float]) -> None:
        """Count durations (seconds)."""
        count = len(durations)
        if not count:
            return
        # This is called for each batch that a worker settles: the common cases are fast.
        least, most = (min(durations), max(durations)) if count > 1 else (durations[0], durations[0])
        if least < self.least or not self.n:
            self.least = least
        if most > self.most:
            self.most = most
        self.n += count
        self.total += sum(durations)
        if least <= SMALLEST:
            durations = [max(duration, SMALLEST) for duration in durations]
        buckets, scale, offset = self.buckets, SCALE, OFFSET
        if count == 1:
            bucket = max(0, int(math.log(durations[0]) * scale - offset))
            buckets[bucket] = buckets.get(bucket, 0) + 1
            return
        for found, times in Counter([(one * scale - offset) // 1.0 for one in map(math.log, durations)]).items():
            bucket = max(0, int(found))
            buckets[bucket] = buckets.get(bucket, 0) + times

    def merge(self, other: Spread) -> None:
        """Count what another has counted."""
        if not other.n:
            return
        self.least = other.least if not self.n else min(self.least, other.least)
        self.most = max(self.most, other.most)
        self.n += other.n
        self.total += other.total
        buckets = self.buckets  # pages of a week merge some ten thousand of them
        known = buckets.get
        for bucket, count in other.buckets.items():
            buckets[bucket] = known(bucket, 0) + count

    def copy(self) -> Spread:
        """Return the same, which does not change with this."""
        return Spread(self.n, self.total, self.least, self.most, {**self.buckets})

    def percentile(self, share: float) -> float:
        """Return the duration (seconds) that this share (0 to 1) of all durations did not exceed."""
        wanted = share * self.n
        for bucket in sorted(self.buckets):
            wanted -= self.buckets[bucket]
            if wanted <= 0:
                middle: float = SMALLEST * GROWTH ** (bucket + 0.5)
                return min(max(middle, self.least), self.most)
        return self.most

    def up_to(self, bound: float) -> int:
        """Return how many durations were not above a bound (seconds), exact to one bucket: for histograms."""
        last = int(math.log(bound / SMALLEST) * SCALE) if bound > SMALLEST else 0
        return sum(count for bucket, count in self.buckets.items() if bucket <= last)

    def cumulative(self, bounds: Sequence[float]) -> list[int]:
        """Return how many durations were not above each bound (seconds, ascending), exact to 2.5 %: for histograms.

        No number shrinks as more is counted: `least` and `most` are not used for that reason.
        """
        limits = [math.floor(math.log(bound / SMALLEST) * SCALE - 0.5) for bound in bounds]
        counts = [0] * (len(bounds) + 1)
        for bucket, count in self.buckets.items():
            counts[bisect_left(limits, bucket)] += count
        return [*accumulate(counts[:-1])]

    def summary(self) -> dict[str, float]:
        """Return mean, min, max, p50, p95 and p99 in seconds."""
        if not self.n:
            return {}
        return {
            "mean": self.total / self.n,
            "min": self.least,
            "p50": self.percentile(0.50),
            "p95": self.percentile(0.95),
            "p99": self.percentile(0.99),
            "max": self.most,
        }
