"""The benchmarks on Redis in one table: a row for each measure, a column for each contender.

For the eye at the end of a run, and, from the JSON of a run, for the page (`page.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import number

__all__ = ["MEASURES", "Measure", "Summary", "summarise"]


@dataclass(frozen=True)
class Measure:
    """A benchmark's row: what it is called, and which of its figures is shown."""

    title: str
    figure: Callable[[Mapping[str, Any]], float]
    unit: str = ""


MEASURES: dict[str, Measure] = {
    "redis-drain": Measure("no-op tasks drained, no results", lambda told: told["best"], "/s"),
    "redis-drain-results": Measure("no-op tasks drained, results kept", lambda told: told["best"], "/s"),
    "redis-delay": Measure("delay() one by one", lambda told: told["best"], "/s"),
    "redis-delay-many": Measure("delay_many of 10,000", lambda told: told["best"], "/s"),
    "redis-roundtrip": Measure("delay().get(), median", lambda told: told["median_ms"], "ms"),
    "redis-sleep": Measure("10 ms tasks, 8 children: share of the ideal", lambda told: told["share"] * 100, "%"),
    "redis-coroutines": Measure("1,000 coroutines of 1 s", lambda told: told["seconds"], "s"),
    "redis-growth": Measure("1,000,000 tasks: the supervisor grows by",
                            lambda told: told["most_mb"] - told["before_mb"], "MB"),
    "redis-memory": Measure("a waiting message in Redis", lambda told: told["bytes"], "bytes"),
}  # fmt: skip


@dataclass
class Summary:
    """Columns and rows, as texts."""

    columns: Sequence[str] = ()
    rows: list[Sequence[str]] = field(default_factory=list)


def summarise(reports: Sequence[Mapping[str, Any]]) -> Summary:
    """Return the table of those reports (as `--json` writes them) that are of Redis."""
    mine = [report for report in reports if report["name"] in MEASURES]
    told_by_all = [told for report in mine for told in report["figures"].values() if not told.get("bound")]
    titles = list(dict.fromkeys(_title(told["title"]) for told in told_by_all))
    summary = Summary(("", *titles, "held", "against the bar", ""))
    for report in mine:
        measure = MEASURES[report["name"]]
        shown = {_title(told["title"]): number(measure.figure(told)) for told in report["figures"].values()}
        cells = (f"{measure.title}, {measure.unit}", *(shown.get(title, "") for title in titles))
        for place, bar in enumerate(report["bars"]):
            aim = f"{'≥' if bar['at_least'] else '<'} {bar['limit']:g} {bar['unit']}"
            met = bar["value"] >= bar["limit"] if bar["at_least"] else bar["value"] < bar["limit"]
            what = f"{number(bar['value'])} {bar['unit']}"
            if bar["unit"] == "×":
                what += f" ({_against(bar['what'])})"
            verdict = "met" if met else "missed"
            summary.rows.append((*(cells if not place else [""] * len(cells)), what, aim, verdict))
    return summary


def _title(title: str) -> str:
    return title.partition(",")[0]


def _against(what: str) -> str:
    return "Celery" if "Celery" in what else "fastest"
