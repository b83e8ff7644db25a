"""The overview: what runs, how well, and what is wrong."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from markupsafe import Markup
from msgspec.structs import replace

from celeriac import states
from celeriac.dashboard.charts import RANGES, Range, columns_of, rate_chart, sparkline
from celeriac.dashboard.figures import Flow, Period, figures_of, flow_of, flows_by
from celeriac.dashboard.pages import SELDOM, Context, Entry, Pages
from celeriac.dashboard.troubles import troubles
from celeriac.dashboard.view import View
from celeriac.errors import BackendError, BrokerError
from celeriac.model.filters import Filter
from celeriac.model.history import Attempt, FailureSignature
from celeriac.ports.history import Point
from celeriac.ports.operations import QueueCounts
from celeriac.web.collecting import receivers

__all__ = ["PAGES", "SHORT", "QueueRow", "drained", "queue_rows"]

PAGES = Pages()
NOW: Final = 300.0  # seconds: what "now" means for rates
SHORT: Final = "1h"
"""The range that numbers and sparklines are about."""

BARS: Final = 30  # of a sparkline
LATEST: Final = 6  # failures
MOST_TYPES: Final = 50
MOST_QUEUES: Final = 50
NEVER: Final = 30 * 86_400.0  # seconds


@PAGES.page("overview", "/", "queues:read", "Overview", entry=Entry(10, "o"))
async def _overview(view: View) -> Context:
    ranges = [(name, view.with_query(range=name)) for name in RANGES]
    return {"range": view.choice("range", tuple(RANGES)), "ranges": ranges}


@PAGES.fragment("overview", "status", ("queues", "workers", "failures"), shared=True)
async def _status(view: View) -> Context:
    collected = await view.collected()
    found = troubles(collected, view.site.pulse.trends, await _signatures(view), view.app.main or "APP")
    return {"troubles": found, "collected": collected}


async def _signatures(view: View) -> Sequence[FailureSignature]:
    """Return the failure signatures that may be a trouble: new ones, and those that are back."""
    history = view.app.history
    if history is None or not view.may("tasks:read"):
        return []
    try:
        return await view.site.read(history.signatures(Filter(since=view.now - 3600.0), None, 20))
    except (BackendError, BrokerError):
        return []  # the history is away, which is told


@PAGES.fragment("overview", "numbers", ("queues", "tasks"), shared=True)
async def _numbers(view: View) -> Context:
    counts = await view.counts()
    period = await _period(view, SHORT)
    flow = _recent(period) if period is not None else None
    ready = sum(one.ready for one in counts)
    slope = view.site.pulse.trends.slope()
    before = flow_of(period.points, period.until - period.since) if period is not None else None
    return {"flow": flow, "before": before,
            "ready": ready, "active": sum(one.active for one in counts),
            "trend": drained(ready, flow.rate if flow else None, slope), "minutes": int(NOW // 60)}  # fmt: skip


async def _period(view: View, name: str) -> Period | None:
    figures = figures_of(view.site)
    return await figures.period(name) if figures is not None and view.may("stats:read") else None


def _recent(period: Period) -> Flow:
    last = period.last(NOW)
    return flow_of(last.points, last.until - last.since)


def drained(ready: int, rate: float | None, slope: float | None) -> tuple[str, float | None]:
    """Return what becomes of a backlog: a word, and seconds or messages per second.

    >>> drained(0, 1.0, None), drained(60, 2.0, None), drained(60, 2.0, -0.5), drained(60, 2.0, 3.0)
    (('empty', None), ('work', 30.0), ('shrinks', 120.0), ('grows', 3.0))
    """
    if ready == 0:
        return "empty", None
    if slope is not None and slope >= 0.05:
        return "grows", slope
    if slope is not None and slope <= -0.05 and ready / -slope < NEVER:
        return "shrinks", ready / -slope
    if rate and ready / rate < NEVER:
        return "work", ready / rate
    return "stands", None


@PAGES.fragment("overview", "chart", ("tasks",), scope="stats:read", shared=True, every=SELDOM)
async def _chart(view: View) -> Context:
    name = view.choice("range", tuple(RANGES))
    period = await _period(view, name)
    if period is None:
        return {"chart": None}
    columns = columns_of(period.points, period.since, period.until, period.range.step)
    return {"chart": rate_chart(columns, period.range.step, zone=view.zone,
                                title=f"Tasks that ended in {period.range.words}")}


# --- Queues and types of tasks ------------------------------------------------------------------------


class QueueRow(NamedTuple):
    """A queue, as lists show it."""

    counts: QueueCounts
    oldest: float | None  # seconds that its oldest ready message has waited
    workers: int | None  # that receive from it
    out: Flow | None
    trend: tuple[str, float | None]
    bars: list[int] | None  # what ended, by steps

    @property
    def spark(self) -> Markup:
        """A sparkline of what ended; empty if that is not known."""
        return Markup("") if self.bars is None else _sparkline(self.bars, RANGES[SHORT])


async def queue_rows(view: View, counts: Sequence[QueueCounts] | None = None) -> list[QueueRow]:
    """Return these queues; all, without them."""
    collected = await view.collected()
    period = await _period(view, SHORT)
    last = flows_by(period.last(NOW), lambda point: point.queue) if period is not None else {}
    bars = _bars(period, lambda point: point.queue) if period is not None else None
    rows = []
    for one in counts if counts is not None else await view.counts():
        out = last.get(one.queue, Flow(NOW, {}, flow_of((), NOW).sums)) if period is not None else None
        workers = len(receivers(collected, one.queue)) if collected.workers is not None else None
        trend = drained(one.ready, out.rate if out else None, view.site.pulse.trends.slope(one.queue))
        oldest = collected.latencies.get(one.queue)
        rows.append(QueueRow(one, oldest, workers, out, trend, None if bars is None else bars[one.queue]))
    return rows


def _bars(period: Period, by: Callable[[Point], str]) -> defaultdict[str, list[int]]:
    """Return what ended, by queue or type of tasks, in bars of the same length; the last one ends with the period."""
    step, width = period.range.step, period.range.seconds / BARS
    newest = (math.ceil(period.until / step) - 1) * step
    found: defaultdict[str, list[int]] = defaultdict(lambda: [0] * BARS)
    for point in period.points:
        age = int((newest - point.at) / width)
        if age < BARS:
            found[by(point)][BARS - 1 - max(0, age)] += point.sums.n
    return found


def _sparkline(bars: list[int], range: Range) -> Markup:
    return sparkline(bars, f"Ended in {range.words}")


@PAGES.fragment("overview", "queues", ("queues", "workers", "tasks"), shared=True)
async def _queues(view: View) -> Context:
    rows = await queue_rows(view)
    rows.sort(key=lambda row: (-row.counts.ready, -(row.out.total if row.out else 0), row.counts.queue))
    return {"rows": rows[:MOST_QUEUES], "left_out": max(0, len(rows) - MOST_QUEUES)}


@PAGES.fragment("overview", "types", ("tasks",), scope="stats:read", shared=True, every=SELDOM)
async def _types(view: View) -> Context:
    period = await _period(view, view.choice("range", tuple(RANGES)))
    if period is None:
        return {"rows": None}
    flows = sorted(flows_by(period, lambda point: point.task).items(), key=lambda item: (-item[1].total, item[0]))
    bars = _bars(period, lambda point: point.task)
    rows = [(name, flow, _sparkline(bars[name], period.range)) for name, flow in flows[:MOST_TYPES]]
    return {"rows": rows, "left_out": max(0, len(flows) - MOST_TYPES), "words": period.range.words,
            "since": f"{period.range.seconds // 3600}h"}  # fmt: skip


# --- Failures -----------------------------------------------------------------------------------------


@PAGES.fragment("overview", "failures", ("failures",), scope="tasks:read", shared=True)
async def _failures(view: View) -> Context:
    history = view.app.history
    if history is None:
        return {"rows": None}
    page = await view.site.read(history.search(Filter(states=(states.FAILURE,)), LATEST))
    found: dict[tuple[str, int | None], Attempt] = {(one.id, one.attempt): one for one in page.rows}
    for one in view.site.pulse.failures:  # what workers told, and have not written yet
        found.setdefault((one.id, one.attempt), replace(one, traceback=""))
    return {"rows": sorted(found.values(), key=lambda one: -one.done_at)[:LATEST]}
