"""Benchmarks of the hub, with CURVE, against the embedded file that it serves."""

from __future__ import annotations

from benchmarks.compare import compare_latencies, compare_rates, drain_once, send_many_once, send_once
from benchmarks.figures import Report
from benchmarks.hub_server import running
from benchmarks.stage import Stage

__all__ = ["delay", "delay_many", "drain", "roundtrip"]

ISSUE = 19
OURS, EMBEDDED = "celeriac_hub", "celeriac_sqlite"
CHILDREN = 2
ROUNDS = 3


def drain(stage: Stage) -> Report:
    """Hub: no-op tasks drained by a worker with 2 children, results kept."""
    count = stage.amount(40_000, 2_000)
    report = Report("hub-drain", f"Hub: {count:,} waiting no-op tasks, {CHILDREN} children, results kept", issue=ISSUE)
    with running(stage):
        return compare_rates(stage, report, OURS, [], drain_once(count, CHILDREN), bounds=[EMBEDDED],
                             over={EMBEDDED: 0.8}, rounds=ROUNDS)  # fmt: skip


def delay(stage: Stage) -> Report:
    """Hub: one producer, one `delay()` per task."""
    report = Report("hub-delay", "Hub: one producer, one delay() per task", issue=ISSUE)
    with running(stage):
        return compare_rates(stage, report, OURS, [], send_once(stage.amount(20_000, 1_000)), bounds=[EMBEDDED],
                             rounds=ROUNDS)  # fmt: skip


def delay_many(stage: Stage) -> Report:
    """Hub: `delay_many` of 10,000."""
    count = stage.amount(10_000, 2_000)
    report = Report("hub-delay-many", f"Hub: delay_many of {count:,}", issue=ISSUE)
    with running(stage):
        return compare_rates(stage, report, OURS, [], send_many_once(count), bounds=[EMBEDDED], rounds=ROUNDS)


def roundtrip(stage: Stage) -> Report:
    """Hub: `delay().get()`, median and p99."""
    report = Report("hub-roundtrip", "Hub: delay().get() with an idle worker", issue=ISSUE)
    with running(stage):
        return compare_latencies(stage, report, OURS, [], stage.amount(500, 50), bar_ms=1.5, bounds=[EMBEDDED])
