"""Benchmarks on the embedded SQLite file, against Huey on SQLite."""

from __future__ import annotations

from benchmarks.compare import compare_latencies, compare_rates, drain_once, send_many_once, send_once
from benchmarks.figures import Report
from benchmarks.stage import Stage

__all__ = ["delay", "delay_many", "drain", "roundtrip"]

OURS = "celeriac_sqlite"
PEERS = ("huey_sqlite", "huey_sqlite_unsynced")
BOUND = "bare_sqlite"
CHILDREN = 2
SEND_ROUNDS = 5  # many, because each commit waits for the disk, whose speed varies
BULK_ROUNDS = 9  # more, because a bulk call takes only 40 ms, so that any disturbance matters


def delay(stage: Stage) -> Report:
    """SQLite: one producer, one `delay()` per task."""
    report = Report("sqlite-delay", "SQLite: one producer, one delay() per task")
    measure = send_once(stage.amount(20_000, 1_000))
    return compare_rates(stage, report, OURS, PEERS, measure, bar=1.5, bounds=[BOUND], rounds=SEND_ROUNDS)


def delay_many(stage: Stage) -> Report:
    """SQLite: `delay_many` of 10,000; Huey one by one, as it has no bulk call."""
    count = stage.amount(10_000, 2_000)
    report = Report("sqlite-delay-many", f"SQLite: delay_many of {count:,}; the peers one by one")
    return compare_rates(stage, report, OURS, PEERS, send_many_once(count), bar=8.0, peers_measure=send_once(count),
                         rounds=BULK_ROUNDS)  # fmt: skip


def drain(stage: Stage) -> Report:
    """SQLite: no-op tasks drained by a worker with 2 children, results kept."""
    count = stage.amount(40_000, 2_000)
    report = Report("sqlite-drain", f"SQLite: {count:,} waiting no-op tasks, {CHILDREN} children, results kept")
    report.notes.append("Timed from the first result in the database to the last; Celeriac runs at least once, Huey at "
                        "most once.")  # fmt: skip
    return compare_rates(stage, report, OURS, PEERS, drain_once(count, CHILDREN), bar=3.0)


def roundtrip(stage: Stage) -> Report:
    """SQLite: `delay().get()`, median and p99."""
    report = Report("roundtrip", "SQLite: delay().get() with an idle worker")
    return compare_latencies(stage, report, OURS, PEERS, stage.amount(500, 50), bar_ms=3.0)
