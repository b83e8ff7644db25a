"""Benchmarks of the hub, with CURVE, against the embedded file that it serves."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.compare import (
    compare_latencies,
    compare_rates,
    drain_once,
    send_many_once,
    send_once,
    send_together,
)
from benchmarks.figures import Bar, Report, number
from benchmarks.hub_server import running
from benchmarks.stage import BenchmarkError, Stage
from celeriac import Celeriac
from celeriac.brokers.zmq import HubBroker

__all__ = ["delay", "delay_many", "delay_together", "drain", "idle", "roundtrip"]

ISSUE = 19
OURS, EMBEDDED, BARE = "celeriac_hub", "celeriac_sqlite", "bare_zmq"
CALLERS = 8
CHILDREN = 2
ROUNDS = 3
WORKERS = 200
ENTER_SECONDS = 120.0  # for all of them
SETTLING_SECONDS = 5.0
MB = 1e6


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
        return compare_rates(stage, report, OURS, [], send_once(stage.amount(20_000, 1_000)),
                             bounds=[BARE, EMBEDDED], at_least=6_000, rounds=ROUNDS)  # fmt: skip


def delay_together(stage: Stage) -> Report:
    """Hub: eight producers, one `delay()` per task."""
    report = Report("hub-delay-eight", f"Hub: {CALLERS} producers, one delay() per task", issue=ISSUE)
    report.notes.append("The producers are threads of one process.")
    measure = send_together(stage.amount(64_000, 1_600), CALLERS)
    with running(stage):
        return compare_rates(stage, report, OURS, [], measure, bounds=[BARE, EMBEDDED], at_least=15_000,
                             rounds=ROUNDS)  # fmt: skip


def delay_many(stage: Stage) -> Report:
    """Hub: `delay_many` of 10,000."""
    count = stage.amount(10_000, 2_000)
    report = Report("hub-delay-many", f"Hub: delay_many of {count:,}", issue=ISSUE)
    with running(stage):
        return compare_rates(stage, report, OURS, [], send_many_once(count), bounds=[EMBEDDED],
                             at_least=150_000, rounds=ROUNDS)  # fmt: skip


def roundtrip(stage: Stage) -> Report:
    """Hub: `delay().get()`, median and p99."""
    report = Report("hub-roundtrip", "Hub: delay().get() with an idle worker", issue=ISSUE)
    with running(stage):
        return compare_latencies(stage, report, OURS, [], stage.amount(500, 50), bar_ms=1.5, bounds=[EMBEDDED])


def idle(stage: Stage) -> Report:
    """Hub: what 200 idle workers cost it, each with a connection of its own."""
    count, seconds = stage.amount(WORKERS, 20), stage.amount(60, 10)
    report = Report("hub-idle", f"Hub: {count} idle workers, for {seconds} s", issue=ISSUE)
    report.columns = ("", "CPU %", "requests per second", "RSS MB", "file descriptors")
    with running(stage) as hub, stage.scratch() as folder:
        assert hub.process is not None
        process = psutil.Process(hub.process.pid)
        broker = Celeriac(broker_url=hub.url).broker
        assert isinstance(broker, HubBroker)

        def figures() -> tuple[float, float, int, float, int]:
            cpu = sum(process.cpu_times()[:2])
            requests = sum(one.requests for one in broker.complete(broker.clients()))
            return time.monotonic(), cpu, requests, process.memory_info().rss / MB, process.num_fds()

        none = figures()
        with stage.started(folder, OURS, "crowd", count):
            _wait_for_workers(hub.file, count)
            time.sleep(SETTLING_SECONDS)
            before = figures()
            time.sleep(seconds)
            after = figures()
        broker.close()
    took = after[0] - before[0]
    cpu, requests = (after[1] - before[1]) / took * 100, (after[2] - before[2]) / took
    report.rows.append(("nobody", "", "", number(none[3]), str(none[4])))
    report.rows.append((f"{count} workers", number(cpu), number(requests), number(after[3]), str(after[4])))
    report.figures["hub"] = {"cpu_percent": cpu, "requests": requests, "rss_mb": after[3], "fds": after[4],
                             "rss_mb_alone": none[3], "fds_alone": none[4]}  # fmt: skip
    report.bars.append(Bar(f"CPU of the hub, {count} idle workers", cpu, 3.0, "%"))
    report.notes.append("The workers are supervisors in one process. 100 % is one core; CURVE.")
    return report


def _wait_for_workers(file: Path, count: int) -> None:
    deadline = time.monotonic() + ENTER_SECONDS
    with closing(sqlite3.connect(file)) as reader:
        while reader.execute("SELECT count(*) FROM leases").fetchone()[0] < count:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"Not all of the {count} workers have come within {ENTER_SECONDS:g} s.")
            time.sleep(0.1)
