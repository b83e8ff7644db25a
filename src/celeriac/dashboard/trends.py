"""Trends: whether what waits becomes more or less. Seen while pages are open, by the pulse."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from celeriac.ports.operations import QueueCounts

__all__ = ["Trends"]

SPACING: Final = 2.0  # seconds between two samples that are kept
WINDOW: Final = 60.0  # seconds that a trend is made of …
LEAST: Final = 8.0  # … and from which on there is one


class _Sample(NamedTuple):
    at: float
    ready: dict[str, int]


class Trends:
    """How the numbers of ready messages change."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()

    def add(self, at: float, queues: Iterable[QueueCounts]) -> None:
        """Take how many messages are ready now."""
        if self._samples and at - self._samples[-1].at > WINDOW:
            self._samples.clear()  # nobody looked for so long
        if self._samples and at - self._samples[-1].at < SPACING:
            return
        self._samples.append(_Sample(at, {one.queue: one.ready for one in queues}))
        while at - self._samples[0].at > WINDOW:
            self._samples.popleft()

    def slope(self, queue: str | None = None) -> float | None:
        """Return by how many messages per second a queue, or all together, has grown; None if that is not known yet."""
        if not self._samples or self._samples[-1].at - self._samples[0].at < LEAST:
            return None
        first, last = self._samples[0], self._samples[-1]
        return (_ready(last, queue) - _ready(first, queue)) / (last.at - first.at)


def _ready(sample: _Sample, queue: str | None) -> int:
    return sum(sample.ready.values()) if queue is None else sample.ready.get(queue, 0)
