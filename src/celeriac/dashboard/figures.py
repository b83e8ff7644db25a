"""Figures: what was counted by time, read from the history once for all pages of this process.

Steps that are over are read once, and kept; those that may still change are read again, when somebody asks, for at
most one part in `SHARE` of the time.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from celeriac import states
from celeriac.dashboard.charts import RANGES, Range
from celeriac.model.history import Sums
from celeriac.ports.history import History, Point
from celeriac.web.site import Site

__all__ = ["Figures", "Flow", "Period", "figures_of", "flow_of", "flows_by"]

SHARE: Final = 20
FRESH: Final = 1.0  # seconds
LATE: Final = 90.0  # seconds, within which workers have usually written what ended
AGAIN: Final = 900.0  # seconds, after which all steps are read again: a worker may have been cut off for long
BY: Final = ("task", "queue", "state")


class Flow(NamedTuple):
    """What ended in a time: how many, by state; how long they ran and had waited."""

    seconds: float
    counts: Mapping[str, int]
    sums: Sums

    @property
    def total(self) -> int:
        """How many attempts ended."""
        return self.sums.n

    @property
    def rate(self) -> float:
        """How many ended per second."""
        return self.total / self.seconds if self.seconds > 0 else 0.0

    @property
    def failed(self) -> float | None:
        """The share of failures among what ended for good; None if nothing did."""
        failures = self.counts.get(states.FAILURE, 0)
        ended = failures + self.counts.get(states.SUCCESS, 0)
        return failures / ended if ended else None

    def runtime(self, share: float) -> float | None:
        """Return a percentile of the runtimes (seconds); None if nothing ran."""
        return self.sums.runtime.percentile(share) if self.sums.runtime.n else None

    def wait(self, share: float) -> float | None:
        """Return a percentile of the waits before (seconds); None if nothing ran."""
        return self.sums.wait.percentile(share) if self.sums.wait.n else None


class Period(NamedTuple):
    """What was counted from `since` to `until`, by steps."""

    range: Range
    since: float
    until: float
    points: list[Point]

    def last(self, seconds: float) -> Period:
        """Return the end of it: the whole steps that began within so many seconds."""
        first = int(self.until - seconds) // self.range.step * self.range.step
        return self._replace(since=max(self.since, first), points=[one for one in self.points if one.at >= first])


class Figures:
    """Reads what was counted."""

    def __init__(self, site: Site, history: History) -> None:
        self._site = site
        self._history = history
        self._kept: dict[str, _Kept] = {}

    async def period(self, name: str) -> Period:
        """Return what was counted in one of the `RANGES`."""
        kept = self._kept.setdefault(name, _Kept(RANGES[name]))
        async with kept.lock:
            if time.monotonic() >= kept.fresh_until:
                begun = time.monotonic()
                await self._read(kept)
                now = time.monotonic()
                kept.fresh_until = now + max(FRESH, (now - begun) * SHARE)
        return kept.period

    async def _read(self, kept: _Kept) -> None:
        now, step = self._site.app.clock.now(), kept.range.step
        first = int(now - kept.range.seconds) // step * step
        if time.monotonic() >= kept.again_at:
            kept.points.clear()
            kept.until, kept.again_at = 0.0, time.monotonic() + AGAIN
        since = max(first, int(kept.until - LATE) // step * step)
        points = await self._site.read(self._history.series(since, now, step, by=BY))
        kept.points = {at: some for at, some in kept.points.items() if first <= at < since}
        for point in points:
            kept.points.setdefault(point.at, []).append(point)
        kept.until = now
        kept.period = Period(kept.range, first, now, [one for some in kept.points.values() for one in some])


class _Kept:
    """What was read of a range."""

    def __init__(self, range: Range) -> None:
        self.range = range
        self.lock = asyncio.Lock()
        self.points: dict[int, list[Point]] = {}
        self.until = 0.0
        self.fresh_until = self.again_at = 0.0  # monotonic
        self.period = Period(range, 0.0, 0.0, [])


def figures_of(site: Site) -> Figures | None:
    """Return the figures of a site; None if its app keeps no history."""
    history = site.app.history
    if history is None:
        return None
    if site.figures is None:
        site.figures = Figures(site, history)
    found: Figures = site.figures
    return found


def flow_of(points: Iterable[Point], seconds: float) -> Flow:
    """Return all of that together."""
    counts: dict[str, int] = defaultdict(int)
    sums = Sums()
    for point in points:
        counts[point.state] += point.sums.n
        sums.merge(point.sums)
    return Flow(seconds, counts, sums)


def flows_by(period: Period, name: Callable[[Point], str]) -> dict[str, Flow]:
    """Return what each name has of it: the queue, say, or the task of a point."""
    found: dict[str, list[Point]] = defaultdict(list)
    for point in period.points:
        found[name(point)].append(point)
    return {name: flow_of(points, period.until - period.since) for name, points in found.items()}
