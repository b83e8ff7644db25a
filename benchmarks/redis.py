"""Benchmarks on Redis, against Celery, Dramatiq, Huey, Taskiq, RQ, SAQ and arq. Each starts its own server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.compare import compare_latencies, compare_rates, describe, drain_for, send_many_once, send_once
from benchmarks.figures import Bar, Report, number, paired
from benchmarks.peers.base import AWAITED, KEPT, NONE, RESULTS_VARIABLE
from benchmarks.redis_line import Line, info
from benchmarks.redis_server import ARGUMENTS, running
from benchmarks.stage import BenchmarkError, Stage

__all__ = ["coroutines", "delay", "delay_many", "drain", "drain_kept", "growth", "memory", "redis_report", "roundtrip",
           "signing", "sleeping"]  # fmt: skip

OURS = "celeriac_redis"
COROUTINES = "celeriac_coroutines"
SIGNED, ENCRYPTED = "celeriac_signed", "celeriac_encrypted"
CELERY = "celery_redis"
PEERS = (CELERY, "dramatiq_redis", "huey_redis", "taskiq_redis", "rq_redis", "saq_redis", "arq_redis")
BOUND = "bare_redis"
ISSUE = 3
CHILDREN = 2
ROUNDS = 3
SIGNING_ROUNDS = 15
DRAIN_SECONDS = 2.0  # of work to queue for each contender, computed from its pace
SEND_ROUNDS, SEND_SECONDS = 8, 0.5  # many short rounds: results depend on how the kernel schedules the two processes
ROUNDTRIP_SECONDS = 2.0
SLEEPERS, SLEEP_SECONDS = 8, 0.01
TEXT = 91  # characters, so that Celeriac's body, [args, kwargs] as JSON, has 100 bytes
SETTLING_SECONDS = 0.2
MB = 1e6


@contextmanager
def redis_report(stage: Stage, name: str, title: str, results: str = KEPT) -> Iterator[tuple[Report, Line]]:
    """Start a server; yield a report and a connection to the server."""
    report = Report(name, f"Redis: {title}", issue=ISSUE)
    with stage.exporting({RESULTS_VARIABLE: results}), running(stage) as line:
        yield report, line
        shown = " ".join(argument or '""' for argument in ARGUMENTS)
        version = info(line, "server")["redis_version"]
        report.notes.append(f"redis-server {version} {shown}, over TCP on this machine.")


# --- Draining -----------------------------------------------------------------------------------------


def _drain(stage: Stage, name: str, results: str, over_celery: float, bar: float) -> Report:
    title = f"waiting no-op tasks, {CHILDREN} children, {'results kept' if results == KEPT else 'no results'}"
    with redis_report(stage, name, title, results) as (report, _):
        measure = drain_for(stage, report, DRAIN_SECONDS, CHILDREN)
        report.notes.append("Timed from the first completion seen to the last.")
        return compare_rates(stage, report, OURS, PEERS, measure, bar, over={CELERY: over_celery}, rounds=ROUNDS)


def drain(stage: Stage) -> Report:
    """Redis: no-op tasks drained, no results."""
    return _drain(stage, "redis-drain", NONE, over_celery=50.0, bar=6.0)


def drain_kept(stage: Stage) -> Report:
    """Redis: no-op tasks drained, results kept."""
    return _drain(stage, "redis-drain-results", KEPT, over_celery=40.0, bar=5.0)


def signing(stage: Stage) -> Report:
    """Redis: what signing and encrypting cost a drain with results."""
    kept = {SIGNED: 0.95, ENCRYPTED: 0.90}
    title = f"waiting no-op tasks, {CHILDREN} children, results kept: plain, signed, encrypted"
    with redis_report(stage, "redis-signing", title) as (report, _):
        measure = drain_for(stage, report, DRAIN_SECONDS, CHILDREN)
        compare_rates(stage, report, OURS, tuple(kept), measure, rounds=SIGNING_ROUNDS)
        rates = {name: [one["rate"] for one in report.figures[name]["rounds"]] for name in (OURS, *kept)}
        for name, share in kept.items():
            title = f"{report.figures[name]['title']} ÷ plain, median of the rounds' ratios"
            report.bars.append(Bar(title, paired(rates[name], rates[OURS]), share, "×", at_least=True))
        return report


# --- Sending ------------------------------------------------------------------------------------------


def delay(stage: Stage) -> Report:
    """Redis: one producer, one call per task."""
    with redis_report(stage, "redis-delay", "one producer, one delay() per task") as (report, _):
        measure = send_once(stage.amount(50_000, 500), SEND_SECONDS)
        return compare_rates(stage, report, OURS, PEERS, measure, bar=1.3, bounds=[BOUND], over={CELERY: 10.0},
                             rounds=SEND_ROUNDS)  # fmt: skip


def delay_many(stage: Stage) -> Report:
    """Redis: 10,000 messages with `delay_many`; the peers in the fastest way that they offer."""
    count = stage.amount(10_000, 500)
    title = f"delay_many of {count:,}; the peers in their fastest way"
    with redis_report(stage, "redis-delay-many", title) as (report, _):
        return compare_rates(stage, report, OURS, PEERS, send_many_once(count), bar=5.0, rounds=ROUNDS)


# --- Waiting ------------------------------------------------------------------------------------------


def roundtrip(stage: Stage) -> Report:
    """Redis: `delay().get()`, median and p99."""
    with redis_report(stage, "redis-roundtrip", "delay().get() with an idle worker", AWAITED) as (report, _):
        count = stage.amount(300, 20)
        return compare_latencies(stage, report, OURS, PEERS, count, bar_ratio=3.0, bounds=[BOUND],
                                 seconds=ROUNDTRIP_SECONDS)  # fmt: skip


# --- Sleeping -----------------------------------------------------------------------------------------


def sleeping(stage: Stage) -> Report:
    """Redis: the share of the ideal throughput, with tasks of 10 ms and 8 children."""
    count = stage.amount(16_000, 200)  # enough to make start and end negligible
    what = f"{count:,} tasks of {SLEEP_SECONDS * 1000:g} ms, {SLEEPERS} children"
    with redis_report(stage, "redis-sleep", what) as (report, _):
        report.columns = ("", "per second", "ideal", "share")
        contenders = stage.contenders([OURS])
        for one in contenders:
            stage.say(f"{report.name}: {one.title}")
            with stage.scratch() as folder, stage.worker(folder, one.name, SLEEPERS):
                stage.ask(folder, one.name, "ping")
                result = stage.ask(folder, one.name, "naps", count, 60)
            if result["left"]:
                raise BenchmarkError(f"{one.title} did not complete {result['left']} of {count} tasks in time.")
            rate, ideal = count / result["seconds"], SLEEPERS / SLEEP_SECONDS
            report.rows.append((one.title, number(rate), number(ideal), f"{rate / ideal:.1%}"))
            report.figures[one.name] = {"title": one.title, "rate": rate, "share": rate / ideal}
            report.bars.append(Bar("share of the ideal throughput", rate / ideal * 100, 97.0, "%", at_least=True))
        describe(report, contenders)
        report.notes.append("Timed from before sending to the settlement of the last task. time.sleep() itself takes "
                            "longer than requested.")  # fmt: skip
        return report


def coroutines(stage: Stage) -> Report:
    """Redis: 1,000 coroutine tasks of `asyncio.sleep(1)`, one coroutine child."""
    count = stage.amount(1_000, 100)
    with redis_report(stage, "redis-coroutines", f"{count:,} tasks of asyncio.sleep(1), one child") as (report, _):
        report.columns = ("", "all sent after s", "all done after s")
        contenders = stage.contenders([COROUTINES])
        for one in contenders:
            stage.say(f"{report.name}: {one.title}")
            with stage.scratch() as folder, stage.worker(folder, one.name, 1):
                stage.ask(folder, one.name, "ping")
                result = stage.ask(folder, one.name, "naps", count, 60)
            if result["left"]:
                raise BenchmarkError(f"{one.title} did not complete {result['left']} of {count} tasks in time.")
            report.rows.append((one.title, number(result["sent"]), number(result["seconds"])))
            report.figures[one.name] = {"title": one.title, **result}
            report.bars.append(Bar("all done after", result["seconds"], 2.0, "s"))
        describe(report, contenders)
        report.notes.append("Timed from before sending to the settlement of the last task.")
        return report


# --- Memory -------------------------------------------------------------------------------------------


def growth(stage: Stage) -> Report:
    """Redis: how much the supervisor's memory grows while it drains 1,000,000 tasks."""
    count = stage.amount(1_000_000, 20_000)
    with redis_report(stage, "redis-growth", f"the supervisor while it drains {count:,} tasks") as (report, _):
        report.columns = ("", "before MB", "at most MB", "growth MB", "per second")
        contenders = stage.contenders([OURS])
        for one in contenders:
            with stage.scratch() as folder, stage.worker(folder, one.name, CHILDREN) as pid:
                stage.ask(folder, one.name, "ping")
                stage.ask(folder, one.name, "hold", True)
                stage.say(f"{report.name}: sending")
                stage.ask(folder, one.name, "fill", count)
                before = psutil.Process(pid).memory_info().rss / MB
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # reset the peak
                stage.say(f"{report.name}: draining")
                with stage.watching(folder, one.name, count, 300.0) as wait:
                    stage.ask(folder, one.name, "hold", False)
                    wait()
                    result = wait()
                most = _peak(pid) / MB
            report.rows.append((one.title, number(before), number(most), number(most - before), number(result["rate"])))
            figures = {"before_mb": before, "most_mb": most, "rate": result["rate"]}
            report.figures[one.name] = {"title": one.title, **figures}
            report.bars.append(Bar("supervisor grows by", most - before, 10.0, "MB"))
        describe(report, contenders)
        report.notes.append("RSS after the first task, and its peak until the last task has ended. 1 MB is 10⁶ bytes.")
        return report


def _peak(pid: int) -> int:
    """Return a process's peak resident memory in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def memory(stage: Stage) -> Report:
    """Redis: the memory that a waiting message takes."""
    count = stage.amount(10_000, 500)
    title = f"memory of {count:,} waiting messages with a body of 100 bytes"
    with redis_report(stage, "redis-memory", title, NONE) as (report, line):
        report.columns = ("", "bytes per message")
        contenders = stage.contenders([OURS, *PEERS])
        for one in contenders:
            stage.say(f"{report.name}: {one.title}")
            with stage.scratch() as folder:
                stage.ask(folder, one.name, "text", 1, TEXT)  # excludes one-time costs, such as scripts
                time.sleep(SETTLING_SECONDS)
                before = int(info(line, "memory")["used_memory"])
                stage.ask(folder, one.name, "text", count, TEXT)
                time.sleep(SETTLING_SECONDS)  # until its connections are closed
                each = (int(info(line, "memory")["used_memory"]) - before) / count
            report.rows.append((one.title, number(each)))
            report.figures[one.name] = {"title": one.title, "bytes": each}
            if one.name == OURS:
                report.bars.append(Bar("Redis's memory for a message", each, 400.0, "bytes"))
        describe(report, contenders)
        report.notes.append(f"Measured by used_memory. One argument, a text of {TEXT} characters.")
        return report
