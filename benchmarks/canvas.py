"""Benchmarks of workflows on Redis, against Celery: groups, chords and chains, from sending them to their results."""

from __future__ import annotations

from typing import Any

from benchmarks.compare import compare_rates
from benchmarks.figures import Bar, Report, number
from benchmarks.redis import redis_report
from benchmarks.stage import Contender, Stage

__all__ = ["canvas_bytes", "canvas_chain", "canvas_chord", "canvas_group", "canvas_width"]

OURS = "celeriac_canvas"
CELERY = "celery_canvas"
ISSUE = 5
CHILDREN = 2
ROUNDS = 3
GROUP, CHORD, CHAIN = 0, 1, 2


def _rates(stage: Stage, name: str, title: str, kind: int, count: int, over: float) -> Report:
    with redis_report(stage, name, title) as (report, _):
        report.issue = ISSUE
        report.notes.append(f"{CHILDREN} children; tasks per second, from sending the workflow to its result.")

        def measure(stage: Stage, one: Contender) -> dict[str, Any]:
            return _run(stage, one, kind, count)

        return compare_rates(stage, report, OURS, (CELERY,), measure, bar=over, rounds=ROUNDS)


def _run(stage: Stage, one: Contender, kind: int, count: int) -> dict[str, Any]:
    with stage.scratch() as folder, stage.worker(folder, one.name, CHILDREN):
        stage.ask(folder, one.name, "ping")
        return stage.ask(folder, one.name, "workflow", kind, count)


def canvas_group(stage: Stage) -> Report:
    """Redis: a group of 1,000 no-ops, joined."""
    count = stage.amount(1_000, 50)
    return _rates(stage, "canvas-group", f"a group of {count:,} no-ops, joined", GROUP, count, over=20.0)


def canvas_chord(stage: Stage) -> Report:
    """Redis: a chord of 1,000 no-ops."""
    count = stage.amount(1_000, 50)
    return _rates(stage, "canvas-chord", f"a chord of {count:,} no-ops", CHORD, count, over=20.0)


def canvas_chain(stage: Stage) -> Report:
    """Redis: a chain of 200."""
    count = stage.amount(200, 20)
    return _rates(stage, "canvas-chain", f"a chain of {count:,}", CHAIN, count, over=5.0)


def canvas_width(stage: Stage) -> Report:
    """Redis: the time per task of a chord of 10,000, compared with a group of 10,000; Celeriac only."""
    count = stage.amount(10_000, 200)
    with redis_report(stage, "canvas-width", f"a chord and a group of {count:,}, Celeriac only") as (report, _):
        report.issue = ISSUE
        report.columns = ("", "per task µs, best")
        (ours,) = stage.contenders([OURS])
        best = {
            what: min(_run(stage, ours, kind, count)["seconds"] for _ in range(stage.rounds(ROUNDS))) / count * 1e6
            for what, kind in (("group", GROUP), ("chord", CHORD))
        }
        report.rows = [(what, number(each)) for what, each in best.items()]
        report.figures[OURS] = {"title": ours.title, **best}
        report.bars.append(Bar("a chord ÷ a group, per task", best["chord"] / best["group"], 1.5, "×"))
        return report


def canvas_bytes(stage: Stage) -> Report:
    """Redis: the bytes that the server receives for a chain of 10,000, and for 200 chords of 10."""
    length, times = stage.amount(10_000, 100), stage.amount(200, 5)
    with redis_report(stage, "canvas-bytes", "bytes that the server receives when workflows are sent") as (report, _):
        report.issue = ISSUE
        what = {f"a chain of {length:,}": (CHAIN, length, 1), f"{times} chords of 10": (CHORD, 10, times)}
        report.columns = ("", *what)
        for one in stage.contenders([OURS, CELERY]):
            results = {}
            for title, numbers in what.items():
                with stage.scratch() as folder:
                    results[title] = stage.ask(folder, one.name, "submit", *numbers)
            cells = [f"{found['bytes']:,}" if "bytes" in found else found["failed"] for found in results.values()]
            report.rows.append((one.title, *cells))
            report.figures[one.name] = {"title": one.title, **results}
        report.notes.append("No worker is running. Messages sent later by a running chain are not included: Celeriac's "
                            "carry their position, Celery's carry the rest of the chain.")  # fmt: skip
        return report
