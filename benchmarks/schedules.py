"""Benchmarks of one scheduler, on SQLite and Redis, against Celery's beat. No worker runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.compare import describe
from benchmarks.figures import Bar, Report, number, percentile
from benchmarks.redis_server import running
from benchmarks.stage import Stage

__all__ = ["due", "idle", "start"]

ISSUE = 14
OURS = ("celeriac_beat_sqlite", "celeriac_beat_redis")
CELERY = "celery_beat"
PERIOD = 100  # seconds
HOUR = 3600
FULL, QUICK = 100_000, 2_000  # schedules
FEW = 1_000  # of Celery's, all due each second


@contextmanager
def _report(stage: Stage, name: str, title: str) -> Iterator[Report]:
    report = Report(name, title, issue=ISSUE)
    with running(stage):
        yield report


def due(stage: Stage) -> Report:
    """100,000 schedules, of which 1,000 fall due at each second: how many ticks are sent, and how late."""
    count, seconds = stage.amount(FULL, QUICK), stage.amount(60, 5)
    each = count // PERIOD
    with _report(stage, "schedules-due", f"{count:,} schedules, of which {each:,} fall due at each second") as report:
        report.columns = ("", "due per s", "sent per s", "p50 ms late", "p99 ms late", "CPU %")
        contenders = stage.contenders([*OURS, CELERY])
        for one in contenders:
            stage.say(f"schedules-due: {one.title}")
            number_of, period = (min(FEW, count), 1) if one.name == CELERY else (count, PERIOD)
            with stage.scratch() as folder:
                stage.ask(folder, one.name, "schedule", number_of, period)
                result = stage.ask(folder, one.name, "beat", seconds, number_of, period)
            late = [value * 1e3 for value in result.pop("late")]
            expected, rate = number_of / period, result["sent"] / result["seconds"]
            p50, p99 = (percentile(late, 0.5), percentile(late, 0.99)) if late else (0.0, 0.0)
            shown = (number(p50), number(p99)) if late else ("–", "–")
            report.rows.append((_title(one.name, one.title), number(expected), number(rate), *shown,
                                number(result["cpu_percent"])))  # fmt: skip
            report.figures[one.name] = {**result, "due_per_second": expected, "p50_ms": p50, "p99_ms": p99}
            if one.name in OURS:
                server = _title(one.name, one.title)
                report.bars.append(Bar(f"{server}: p99 after its time", p99, 250.0, "ms"))
                report.bars.append(Bar(f"{server}: sent ÷ due", rate / expected, 0.95, "×", at_least=True))
        describe(report, contenders)
        report.notes.append(f"Celery's beat has {FEW:,} schedules with an interval of a second. Each interval begins "
                            "when the last tick was sent, so that no tick is late; it sends fewer. A tick counts as "
                            "sent when its message is stored. Ours counts from when it has sent what fell due before "
                            "it was started.")  # fmt: skip
        return report


def idle(stage: Stage) -> Report:
    """100,000 schedules, of which none falls due: CPU and memory of the scheduler."""
    count, seconds = stage.amount(FULL, QUICK), stage.amount(20, 5)
    with _report(stage, "schedules-idle", f"{count:,} schedules, of which none falls due for {seconds} s") as report:
        report.columns = ("", "CPU %", "highest RSS MB")
        contenders = stage.contenders([*OURS, CELERY])
        for one in contenders:
            stage.say(f"schedules-idle: {one.title}")
            with stage.scratch() as folder:
                stage.ask(folder, one.name, "schedule", count, 10 * 24 * HOUR)
                result = stage.ask(folder, one.name, "beat", seconds, count, 10 * 24 * HOUR)
            result.pop("late")
            server = _title(one.name, one.title)
            report.rows.append((server, number(result["cpu_percent"]), number(result["rss_mb"])))
            report.figures[one.name] = result
            if one.name in OURS:
                report.bars.append(Bar(f"{server}: CPU", result["cpu_percent"], 1.0, "%"))
                report.bars.append(Bar(f"{server}: RSS", result["rss_mb"], 100.0, "MB"))
        describe(report, contenders)
        report.notes.append("CPU from two seconds after the start. Celery holds its schedules in memory.")
        return report


def start(stage: Stage) -> Report:
    """The start of a scheduler with 100,000 schedules that code declares."""
    count = stage.amount(FULL, QUICK)
    with _report(stage, "schedules-start", f"Start with {count:,} schedules that code declares") as report:
        report.columns = ("", "first start, s", "next start, s")
        contenders = stage.contenders([*OURS, CELERY])
        for one in contenders:
            stage.say(f"schedules-start: {one.title}")
            with stage.scratch() as folder:
                result = stage.ask(folder, one.name, "declare", count)
            server = _title(one.name, one.title)
            report.rows.append((server, number(result["first"]), number(result["again"])))
            report.figures[one.name] = result
            if one.name in OURS:
                report.bars.append(Bar(f"{server}: next start", result["again"], 2.0, "s"))
        describe(report, contenders)
        report.notes.append("Until the first look at what is due. Declaring them is not counted; the first start "
                            "stores them, a next one compares them.")  # fmt: skip
        return report


def _title(name: str, title: str) -> str:
    return f"{title} on {'SQLite' if name.endswith('sqlite') else 'Redis'}"
