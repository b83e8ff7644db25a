"""Which child runs which delivery: the emptiest of its lane, but for suspects. No I/O.

Which of a hundred coroutines killed the child that they shared, nobody can tell; the hundred are run again together,
for most deaths have nothing to do with them. Those at their last delivery are suspects: each child begins no two of
them within `SUSPECT_SECONDS` (the rest come again after it), so that a death soon after convicts the newest alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from heapq import heapify, heapreplace
from typing import Final

from celeriac.model.message import COROUTINE, LANES
from celeriac.ports.broker import Delivery
from celeriac.worker.pools.child_handle import ChildHandle

__all__ = ["SUSPECT_SECONDS", "CrashBlame", "assign"]

SUSPECT_SECONDS: Final = 0.2
CONVICTED_SECONDS: Final = 1.0
"""A child that dies within this time after its newest suspect was begun, was killed by that; later, by any of them."""


class CrashBlame:
    """Whom a child's death may be laid to."""

    def __init__(self, max_deliveries: int) -> None:
        self._last = max(2, max_deliveries)

    def falls_on(self, delivery: Delivery) -> bool:
        """Say whether a delivery is its message's last, after others that shared their child."""
        return delivery.deliveries >= self._last and delivery.message.lane == COROUTINE

    def tries(self, child: ChildHandle) -> bool:
        """Say whether a child has begun a suspect just now."""
        since = time.monotonic() - SUSPECT_SECONDS
        return any(run.since > since and self.falls_on(run.delivery) for run in child.running.values())

    def acquits(self, child: ChildHandle) -> set[int]:
        """Return which of a dead child's runs are suspects, and have not killed it: another was begun after them."""
        suspects = [run for run in child.running.values() if self.falls_on(run.delivery)]
        if not suspects or time.monotonic() - suspects[-1].since > CONVICTED_SECONDS:
            return set()
        return {run.index for run in suspects[:-1]}


class _Place:
    """A child, how many more it can take, and what it is to take. The roomiest comes first."""

    __slots__ = ("batch", "child", "room", "suspect")

    def __init__(self, child: ChildHandle, room: int) -> None:
        self.child = child
        self.room = room
        self.batch: list[Delivery] = []
        self.suspect = False

    def __lt__(self, other: _Place) -> bool:
        return self.room > other.room


def assign(deliveries: Sequence[Delivery], rooms: Iterable[tuple[ChildHandle, int]],
           blame: CrashBlame) -> tuple[list[tuple[ChildHandle, list[Delivery]]], list[Delivery]]:  # fmt: skip
    """Return what each child is to take, in the order of the deliveries; and those for which there is no room."""
    lanes: dict[str, list[_Place]] = {lane: [] for lane in LANES}
    for child, room in rooms:
        if room > 0:
            lanes[child.lane].append(_Place(child, room))
    places = [place for lane in lanes.values() for place in lane]
    for lane in lanes.values():
        heapify(lane)
    homeless: list[Delivery] = []
    for delivery in deliveries:
        lane = lanes[delivery.message.lane]
        if not lane or lane[0].room <= 0:
            homeless.append(delivery)
        elif delivery.deliveries > 1 and blame.falls_on(delivery):
            calm = (place for place in lane if place.room > 0 and not place.suspect)
            place = min((place for place in calm if not blame.tries(place.child)), default=None)
            if place is not None:
                place.batch.append(delivery)
                place.room -= 1
                place.suspect = True
                heapify(lane)
            else:
                homeless.append(delivery)
        else:
            emptiest = lane[0]
            emptiest.batch.append(delivery)
            emptiest.room -= 1
            heapreplace(lane, emptiest)
    return [(place.child, place.batch) for place in places if place.batch], homeless
