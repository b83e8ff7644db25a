"""Benchmarks of the HTTP API: requests per second beside Flower's API and a bare route, and how soon events come."""

from __future__ import annotations

from typing import Any

from benchmarks.compare import compare_rates
from benchmarks.figures import Bar, Report, number, percentile
from benchmarks.redis_server import running
from benchmarks.server import serving
from benchmarks.stage import BenchmarkError, Contender, Stage

__all__ = ["events", "send", "status"]

ISSUE = 16
OURS, FLOWER, BARE = "celeriac_web", "flower_redis", "bare_starlette"
CONNECTIONS = 8
ROUNDS = 3
SECONDS = 5.0
EVENT_SECONDS = 20.0
TASKS = 1_000  # per second, while events are awaited
LATEST_MS = 50.0
SENDING, ASKING = 0, 1


def send(stage: Stage) -> Report:
    """Requests that send a task."""
    return _requests(stage, "web-send", "Requests per second that send a task", SENDING)


def status(stage: Stage) -> Report:
    """Requests that ask for the state of a task that has ended."""
    return _requests(stage, "web-status", "Requests per second that ask for the state of an ended task", ASKING)


def _requests(stage: Stage, name: str, title: str, kind: int) -> Report:
    report = Report(name, f"{title}, {CONNECTIONS} connections", issue=ISSUE)
    seconds = stage.amount(int(SECONDS), 1)
    latest: dict[str, list[float]] = {}

    def measure(stage: Stage, one: Contender) -> dict[str, Any]:
        with stage.scratch() as folder, serving(stage, folder, one.name) as port:
            if kind == ASKING:
                with stage.worker(folder, one.name, 1):
                    found = stage.ask(folder, one.name, "requests", port, kind, CONNECTIONS, seconds)
            else:
                found = stage.ask(folder, one.name, "requests", port, kind, CONNECTIONS, seconds)
        latest.setdefault(one.title, []).extend(found.pop("times"))
        return found

    with running(stage):
        compare_rates(stage, report, OURS, [FLOWER], measure, bounds=[BARE], rounds=ROUNDS)
    for contender, times in latest.items():
        report.notes.append(f"{contender}: p99 {number(percentile(times, 0.99) * 1e3)} ms.")
    report.notes.append("One process serves, another asks; both and Redis share the machine.")
    return report


def events(stage: Stage) -> Report:
    """How long after the end of a task its event is there, at 1,000 tasks per second."""
    report = Report("web-events", f"A stream of events beside {TASKS:,} tasks per second", issue=ISSUE)
    report.columns = ("", "events", "p50 ms after the end", "p99 ms", "tasks per s")
    seconds = stage.amount(int(EVENT_SECONDS), 2)
    with running(stage):
        (one,) = stage.contenders([OURS])
        stage.say(f"web-events: {one.title}")
        with stage.scratch() as folder, serving(stage, folder, one.name) as port, \
                stage.worker(folder, one.name, 2):  # fmt: skip
            found = stage.ask(folder, one.name, "stream", port, TASKS, seconds)
    late = [second * 1e3 for second in found.pop("late")]
    if not late:
        raise BenchmarkError("There was no event.")
    p50, p99 = percentile(late, 0.5), percentile(late, 0.99)
    report.rows.append((one.title, f"{len(late):,}", number(p50), number(p99), number(found["rate"])))
    report.figures[one.name] = {**found, "events": len(late), "p50_ms": p50, "p99_ms": p99}
    report.bars.append(Bar("p99 of an event after the end of its task", p99, LATEST_MS, "ms"))
    report.settings[one.title] = one.settings
    report.notes.append("A stream has at most 50 events per second; the others are counted as dropped.")
    return report

