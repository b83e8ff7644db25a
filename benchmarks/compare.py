"""Compares contenders: each round measures Celeriac and then every peer, so that a slow phase affects all of them.

A rate is the best of all rounds, because noise can only make it slower. Latencies of all rounds are combined. A bar
compares Celeriac with the fastest peer, or with a named one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.figures import Bar, Report, number, percentile
from benchmarks.stage import BenchmarkError, Contender, Stage

__all__ = ["compare_latencies", "compare_rates", "describe", "drain_for", "drain_once", "send_many_once", "send_once",
           "send_together"]  # fmt: skip

FEWEST = 1_000  # tasks of a drain
SLOW_SECONDS = 8  # a measurement is stopped after this; the rate is computed from what was done by then
Measure = Callable[[Stage, Contender], dict[str, Any]]


def compare_rates(stage: Stage, report: Report, ours: str, peers: Sequence[str], measure: Measure,
                  bar: float | None = None, bounds: Sequence[str] = (), peers_measure: Measure | None = None,
                  over: Mapping[str, float] | None = None, at_least: float | None = None,
                  rounds: int = 3) -> Report:  # fmt: skip
    """Fill a report with rates per second. `bounds` are measured for comparison, but are not peers.

    `bar` is the required ratio to the fastest peer; `over` has the required ratios to named contenders; `at_least` is
    the required rate.
    """
    contenders = stage.contenders([ours, *peers, *bounds])
    rates = _measured(stage, report, contenders, {ours: measure}, peers_measure or measure, rounds)
    best = {name: max(result["rate"] for result in rounds) for name, rounds in rates.items()}
    report.columns = ("", "per second, best", "median", "rounds", "ours ÷ its")
    for one in contenders:
        each = [result["rate"] for result in rates[one.name]]
        ratio = "" if one.name == ours else f"{best[ours] / best[one.name]:.2f}×"
        report.rows.append((one.title, number(best[one.name]), number(median(each)), str(len(each)), ratio))
        report.figures[one.name] = {"title": one.title, "best": best[one.name], "rounds": rates[one.name],
                                    "bound": one.name in bounds and one.name not in (over or {})}  # fmt: skip
    describe(report, contenders)
    for one in contenders:
        if over and one.name in over:
            ratio = best[ours] / best[one.name]
            report.bars.append(Bar(f"ours ÷ {one.title}", ratio, over[one.name], "×", at_least=True))
    if at_least is not None:
        report.bars.append(Bar("ours", best[ours], at_least, "per second", at_least=True))
    beaten = [best[name] for name in peers if name in best]
    if bar is not None and beaten:
        report.bars.append(Bar("ours ÷ the fastest peer", best[ours] / max(beaten), bar, "×", at_least=True))
    report.notes.append("Best of the rounds, which alternate between the contenders.")
    return report


def compare_latencies(stage: Stage, report: Report, ours: str, peers: Sequence[str], count: int,
                      bar_ms: float | None = None, bar_ratio: float | None = None, bounds: Sequence[str] = (),
                      seconds: float = SLOW_SECONDS) -> Report:  # fmt: skip
    """Fill a report with round-trip times in milliseconds. `bounds` are measured for comparison, but are not peers.

    `bar_ms` is the required median; `bar_ratio` is the required ratio of the fastest peer's median to ours.
    """
    contenders = stage.contenders([ours, *peers, *bounds])

    def measure(stage: Stage, one: Contender) -> dict[str, Any]:
        with stage.scratch() as folder, stage.worker(folder, one.name, 2):
            stage.ask(folder, one.name, "ping")
            return stage.ask(folder, one.name, "roundtrips", count, seconds)

    results = _measured(stage, report, contenders, {}, measure, rounds=2)
    times = {name: [second * 1e3 for one in rounds for second in one["seconds"]] for name, rounds in results.items()}
    report.columns = ("", "median ms", "p99 ms", "round trips", "its ÷ ours")
    for one in contenders:
        mine = times[one.name]
        ratio = "" if one.name == ours else f"{median(mine) / median(times[ours]):.2f}×"
        report.rows.append((one.title, number(median(mine)), number(percentile(mine, 0.99)), str(len(mine)), ratio))
        report.figures[one.name] = {"title": one.title, "median_ms": median(mine), "p99_ms": percentile(mine, 0.99),
                                    "count": len(mine), "bound": one.name in bounds}  # fmt: skip
    describe(report, contenders)
    if bar_ms is not None:
        report.bars.append(Bar("median of delay().get()", median(times[ours]), bar_ms, "ms"))
    beaten = [median(times[name]) for name in peers if name in times]
    if bar_ratio is not None and beaten:
        ratio = min(beaten) / median(times[ours])
        report.bars.append(Bar("the fastest peer's median ÷ ours", ratio, bar_ratio, "×", at_least=True))
    report.notes.append("All rounds combined; they alternate between the contenders. One caller, an idle worker.")
    return report


def _measured(stage: Stage, report: Report, contenders: Sequence[Contender], special: dict[str, Measure],
              measure: Measure, rounds: int) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    results: dict[str, list[dict[str, Any]]] = {one.name: [] for one in contenders}
    for turn in range(1, stage.rounds(rounds) + 1):
        for one in contenders:
            stage.say(f"{report.name}: round {turn} of {stage.rounds(rounds)}, {one.title}")
            results[one.name].append(special.get(one.name, measure)(stage, one))
    return results


def describe(report: Report, contenders: Sequence[Contender]) -> None:
    """Add the contenders' versions and settings to the report."""
    for one in contenders:
        versions = ", ".join(f"{package} {version}" for package, version in one.versions.items())
        report.settings[one.title] = f"{versions}: {one.settings}" if versions else one.settings


# --- Measures of a rate -------------------------------------------------------------------------------


def send_once(count: int, seconds: float = SLOW_SECONDS) -> Measure:
    """Return a measure: one producer, one call per message."""

    def measure(stage: Stage, one: Contender) -> dict[str, Any]:
        with stage.scratch() as folder:
            return stage.ask(folder, one.name, "send", count, seconds)

    return measure


def send_together(count: int, callers: int, seconds: float = SLOW_SECONDS) -> Measure:
    """Return a measure: several producers, threads of one process, one call per message."""

    def measure(stage: Stage, one: Contender) -> dict[str, Any]:
        with stage.scratch() as folder:
            return stage.ask(folder, one.name, "send_together", count, callers, seconds)

    return measure


def send_many_once(count: int) -> Measure:
    """Return a measure: one producer, `count` messages in the fastest way."""

    def measure(stage: Stage, one: Contender) -> dict[str, Any]:
        with stage.scratch() as folder:
            return stage.ask(folder, one.name, "send_many", count)

    return measure


def drain_once(count: int | Callable[[Contender], int], children: int) -> Measure:
    """Return a measure: a worker drains messages sent before its start, timed from the first completion to the last."""
    count_of = count if callable(count) else lambda one: count

    def measure(stage: Stage, one: Contender) -> dict[str, Any]:
        count = count_of(one)
        with stage.scratch() as folder:
            stage.ask(folder, one.name, "fill", count)
            watching = stage.watching(folder, one.name, count, SLOW_SECONDS)
            with watching as wait, stage.worker(folder, one.name, children):
                wait()  # for the first completion
                result = wait()
        if not result["count"]:
            raise BenchmarkError(f"{one.title} completed no task, or all before the first poll: use more tasks.")
        return result

    return measure


def drain_for(stage: Stage, report: Report, seconds: float, children: int) -> Measure:
    """Return a measure: a drain of as many messages as a contender needs about `seconds` for; note it in the report."""
    report.notes.append(f"Each contender drains as many tasks as it needs about {seconds:g} s for; polled every 20 ms.")
    share = stage.amount(100, 10) / 100
    return drain_once(lambda one: max(FEWEST, int(one.pace * share * seconds)), children)
