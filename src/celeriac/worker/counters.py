"""Counts what happens in a worker besides the ends of attempts: deliveries, lost children and leases, dead letters.

The duties add to it, at most once a batch, under the names in `metrics/counts.py`. `Recorder` writes what is new into
the history, slot by slot, as it does with attempts; `metrics_server.py` shows the sums since the worker started.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from celeriac.ports.history import Counted

__all__ = ["Counters"]


class Counters:
    """What one worker has counted."""

    def __init__(self) -> None:
        self._before: Counter[Counted] = Counter()  # since the worker started, without what is new
        self.new: dict[Counted, int] = {}
        """What belongs to no slot yet."""
        self.slots: dict[int, Counter[Counted]] = defaultdict(Counter)
        """What belongs to a slot, by its beginning, until that is closed: it may have been written before."""

    def add(self, name: str, count: int = 1, task: str = "", queue: str = "", reason: str = "") -> None:
        """Count something."""
        self.count(Counted(name, task, queue, reason), count)

    def count(self, counted: Counted, count: int) -> None:
        """Count something that happens for each batch: this is faster than `add`."""
        self.new[counted] = self.new.get(counted, 0) + count

    @property
    def ever(self) -> Counter[Counted]:
        """All that was counted since the worker started."""
        return self._before + Counter(self.new)

    def assign(self, at: int) -> None:
        """Let what is new belong to a slot that is not final."""
        self.slots[at].update(self.new)
        self._before.update(self.new)
        self.new.clear()

    def close(self, at: int) -> None:
        """Forget a slot that was written as final, or is dropped."""
        self.slots.pop(at, None)
