"""Divides a worker's free slots among the lines of a lane. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from celeriac.brokers.queue_server.topology import Line

__all__ = ["divide"]


def divide(lines: Sequence[Line], counts: Sequence[int], free: int) -> tuple[list[int], int]:
    """Return each line's share of the free slots, and how many slots are left over.

    Slots go to the lines of the highest priority first, evenly to those where messages wait, then to the next priority.

    >>> divide([Line("a", "plain", 9), Line("b", "plain", 5), Line("c", "plain", 5)], [1, 10, 2], 8)
    ([1, 5, 2], 0)
    """
    shares = [0] * len(lines)
    for _, group in groupby(range(len(lines)), key=lambda number: lines[number].priority):
        busy = [number for number in group if counts[number]]
        while busy and free:
            part = max(1, free // len(busy))
            for number in busy:
                more = min(part, counts[number] - shares[number], free)
                shares[number] += more
                free -= more
            busy = [number for number in busy if shares[number] < counts[number]]
    return shares, free
