"""The benchmarks on one server in one table: a row for each measure, a column for each contender.

Printed at the end of a run, and put into the page from the JSON of a run (`page.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import number

__all__ = ["SERVERS", "Measure", "Server", "Summary", "summarise"]


@dataclass(frozen=True)
class Measure:
    """A benchmark's row: its title, and which of its figures is shown."""

    title: str
    figure: Callable[[Mapping[str, Any]], float]
    unit: str = ""


@dataclass(frozen=True)
class Server:
    """The measures of one server: its program, and its benchmarks in the order of their rows."""

    title: str
    program: str
    measures: Mapping[str, Measure]

    def reports(self, reports: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the reports of this server, as `--json` writes them."""
        return [report for report in reports if report["name"] in self.measures]


def _best(told: Mapping[str, Any]) -> float:
    return float(told["best"])


def _median(told: Mapping[str, Any]) -> float:
    return float(told["median_ms"])


SERVERS: dict[str, Server] = {
    "redis": Server("Redis", "redis-server", {
        "redis-drain": Measure("no-op tasks drained, no results", _best, "/s"),
        "redis-drain-results": Measure("no-op tasks drained, results kept", _best, "/s"),
        "redis-delay": Measure("delay() one by one", _best, "/s"),
        "redis-delay-many": Measure("delay_many of 10,000", _best, "/s"),
        "redis-roundtrip": Measure("delay().get(), median", _median, "ms"),
        "redis-sleep": Measure("10 ms tasks, 8 children: share of the ideal", lambda told: told["share"] * 100, "%"),
        "redis-coroutines": Measure("1,000 coroutines of 1 s", lambda told: told["seconds"], "s"),
        "redis-growth": Measure("1,000,000 tasks: the supervisor grows by",
                                lambda told: told["most_mb"] - told["before_mb"], "MB"),
        "redis-memory": Measure("a waiting message in Redis", lambda told: told["bytes"], "bytes"),
    }),
    "rabbitmq": Server("RabbitMQ", "rabbitmq-server", {
        "rabbitmq-drain": Measure("no-op tasks drained, no results", _best, "/s"),
        "rabbitmq-delay": Measure("delay() one by one, confirmed", _best, "/s"),
        "rabbitmq-delay-many": Measure("delay_many of 10,000, confirmed", _best, "/s"),
        "rabbitmq-roundtrip": Measure("delay().get() over rpc://, median", _median, "ms"),
    }),
}  # fmt: skip
"""By group of benchmarks."""


@dataclass
class Summary:
    """Columns and rows of text."""

    columns: Sequence[str] = ()
    rows: list[Sequence[str]] = field(default_factory=list)


def summarise(reports: Sequence[Mapping[str, Any]], server: Server) -> Summary:
    """Return the table of this server's reports, as `--json` writes them."""
    mine = server.reports(reports)
    told_by_all = [told for report in mine for told in report["figures"].values() if not told.get("bound")]
    titles = list(dict.fromkeys(_title(told["title"]) for told in told_by_all))
    summary = Summary(("", *titles, "result", "bar", ""))
    for report in mine:
        measure = server.measures[report["name"]]
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
    return "fastest" if "fastest" in what else what.rpartition("÷ ")[2]
