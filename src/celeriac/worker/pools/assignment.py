"""Assigns deliveries to children: how many each may hold (`Pace`), and which child gets which (`assign`). No I/O.

**Pace.** A child that runs short tasks one at a time needs some sent ahead, or it waits for the supervisor between any
two. Behind a long task nothing should wait that could run elsewhere (P9). So as many tasks are sent ahead as make up a
few milliseconds: the depth grows by doubling, and returns to one as soon as a task takes long.

**Crash blame.** If a child dies that ran a hundred coroutines, nothing shows which of them killed it. All are run again
together, since most did nothing. Those at their last delivery are suspects: a child starts at most one of them within
`SUSPECT_SECONDS` (the others are given back until then), so that a death soon after it is blamed on that one alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from heapq import heapify, heapreplace
from typing import Final

from celeriac.model.message import COROUTINE, LANES
from celeriac.ports.broker import Delivery
from celeriac.worker.pools.child_handle import ChildHandle

__all__ = ["STALL_SECONDS", "SUSPECT_SECONDS", "CrashBlame", "Pace", "assign"]

AHEAD_SECONDS: Final = 0.005  # how much work is sent ahead
STALL_SECONDS: Final = 0.02  # what waits behind a task that takes longer is recalled
DEEPEST: Final = 512
SHORT_SECONDS: Final = 0.0125  # behind a task that takes less, one is always sent ahead: it starts soon enough
WEIGHT: Final = 0.1  # of the newest runtime in the moving average

SUSPECT_SECONDS: Final = 0.2
BLAME_SECONDS: Final = 1.0
"""A child that dies within this time of starting a suspect was killed by the newest one; later, by any of them."""


class Pace:
    """How many runs a plain child may hold, from the runtimes of those that ended."""

    def __init__(self) -> None:
        self.depth = 1
        self._mean: float | None = None  # seconds; an exponentially weighted moving average

    def ran(self, runtimes: Sequence[float]) -> None:
        """Adjust the depth to runtimes (seconds), the oldest first."""
        mean = runtimes[0] if self._mean is None else self._mean
        for runtime in runtimes:
            mean += WEIGHT * (runtime - mean)
        self._mean = mean
        longest = max(runtimes)
        if longest > STALL_SECONDS:
            self.stalled(longest)
            return
        target = max(1 + (mean < SHORT_SECONDS), min(DEEPEST, int(AHEAD_SECONDS / max(mean, 1e-5))))
        self.depth = min(target, self.depth << min(len(runtimes), 8))

    def stalled(self, runtime: float) -> None:
        """Send nothing ahead: a task has already taken this long (seconds)."""
        self._mean = runtime if self._mean is None else max(self._mean, runtime)
        self.depth = 1


class CrashBlame:
    """Which coroutine is blamed for a child's death."""

    def __init__(self, max_deliveries: int) -> None:
        self._last = max(2, max_deliveries)

    def is_suspect(self, delivery: Delivery) -> bool:
        """Return whether this is a coroutine's last delivery, after children that it shared with others died."""
        return delivery.deliveries >= self._last and delivery.message.lane == COROUTINE

    def has_new_suspect(self, child: ChildHandle) -> bool:
        """Return whether a child has started a suspect within `SUSPECT_SECONDS`."""
        since = time.monotonic() - SUSPECT_SECONDS
        return any(run.since > since and self.is_suspect(run.delivery) for run in child.running.values())

    def cleared(self, child: ChildHandle) -> set[int]:
        """Return the indices of a dead child's suspects that did not kill it: a newer suspect did."""
        suspects = [run for run in child.running.values() if self.is_suspect(run.delivery)]
        if not suspects or time.monotonic() - suspects[-1].since > BLAME_SECONDS:
            return set()
        return {run.index for run in suspects[:-1]}


class _Candidate:
    """A child, its free slots, and the deliveries assigned to it. The one with the most free slots sorts first."""

    __slots__ = ("batch", "child", "free", "has_suspect")

    def __init__(self, child: ChildHandle, free: int) -> None:
        self.child = child
        self.free = free
        self.batch: list[Delivery] = []
        self.has_suspect = False

    def __lt__(self, other: _Candidate) -> bool:
        return self.free > other.free


def assign(deliveries: Sequence[Delivery], free: Iterable[tuple[ChildHandle, int]],
           blame: CrashBlame) -> tuple[list[tuple[ChildHandle, list[Delivery]]], list[Delivery]]:  # fmt: skip
    """Return the deliveries for each child, in order, and those that no child can take.

    `free` has the number of free slots of each child. The child with the most gets the next delivery of its lane.
    """
    lanes: dict[str, list[_Candidate]] = {lane: [] for lane in LANES}
    for child, slots in free:
        if slots > 0:
            lanes[child.lane].append(_Candidate(child, slots))
    candidates = [candidate for lane in lanes.values() for candidate in lane]
    for lane in lanes.values():
        heapify(lane)
    unassigned: list[Delivery] = []
    for delivery in deliveries:
        lane = lanes[delivery.message.lane]
        if not lane or lane[0].free <= 0:
            unassigned.append(delivery)
        elif delivery.deliveries > 1 and blame.is_suspect(delivery):
            eligible = (one for one in lane if one.free > 0 and not one.has_suspect)
            chosen = min((one for one in eligible if not blame.has_new_suspect(one.child)), default=None)
            if chosen is not None:
                chosen.batch.append(delivery)
                chosen.free -= 1
                chosen.has_suspect = True
                heapify(lane)
            else:
                unassigned.append(delivery)
        else:
            emptiest = lane[0]
            emptiest.batch.append(delivery)
            emptiest.free -= 1
            heapreplace(lane, emptiest)
    return [(one.child, one.batch) for one in candidates if one.batch], unassigned
