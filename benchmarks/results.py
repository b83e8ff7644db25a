"""Benchmarks of result stores: each backend against a bare loop of its client, and a drain against Celery."""

from __future__ import annotations

from typing import Any

from benchmarks.compare import compare_rates, describe, drain_for
from benchmarks.figures import Bar, Report, number
from benchmarks.peers.base import KEPT, RESULTS_VARIABLE
from benchmarks.rabbitmq_server import running as running_rabbitmq
from benchmarks.result_servers import STORES, running
from benchmarks.stage import BenchmarkError, Stage

__all__ = ["drain", "stores"]

ISSUE = 15
OURS, CELERY = "celeriac_rabbitmq_postgresql", "celery_rabbitmq_postgresql"
CHILDREN = 2
ROUNDS = 2
DRAIN_SECONDS = 4.0  # of work, computed from a contender's pace
BATCH = 256  # outcomes in one call of `store`: about what a busy worker settles at once
STORE_SECONDS = 3.0
ALIKE = {"mongodb": ["bare_mongodb_indexed"]}  # bare loops that write what the backend's features need, by store


def drain(stage: Stage) -> Report:
    """RabbitMQ and PostgreSQL: no-op tasks drained, results kept."""
    title = f"RabbitMQ and PostgreSQL: waiting no-op tasks, {CHILDREN} children, results kept"
    report = Report("results-drain", title, issue=ISSUE)
    with stage.exporting({RESULTS_VARIABLE: KEPT}), running(stage, "postgresql"), running_rabbitmq(stage) as node:
        measure = drain_for(stage, report, DRAIN_SECONDS, CHILDREN)
        report.notes.append(f"rabbitmq-server {node.version}; PostgreSQL with its defaults: each commit is synced.")
        return compare_rates(stage, report, OURS, [CELERY], measure, over={CELERY: 15.0}, rounds=ROUNDS)


def stores(stage: Stage) -> Report:
    """Each store: outcomes stored by its backend, in batches, and by a bare loop of its client."""
    report = Report("results-stores", f"Final outcomes stored, in batches of {BATCH}", issue=ISSUE)
    report.columns = ("", "backend per s", "bare client per s", "bare ÷ ours")
    for name, store in STORES.items():
        best: dict[str, float] = {}
        with running(stage, name):
            contenders = stage.contenders([f"celeriac_{name}", f"bare_{name}", *ALIKE.get(name, ())])
            for _ in range(stage.rounds(ROUNDS)):
                for one in contenders:
                    stage.say(f"results-stores: {store.title}, {one.title}")
                    with stage.scratch() as folder:
                        result: dict[str, Any] = stage.ask(folder, one.name, "store", BATCH,
                                                           stage.amount(int(STORE_SECONDS), 1))  # fmt: skip
                    best[one.name] = max(best.get(one.name, 0.0), result["rate"])
        if len(best) < 2:
            raise BenchmarkError(f"{store.title}: a driver is missing: {stage.missing}")
        ours, bare, *alike = best.values()
        report.rows.append((store.title, number(ours), number(bare), f"{bare / ours:.2f}×"))
        report.figures[name] = {"ours": ours, "bare": bare}
        for rate in alike:
            report.rows.append((f"{store.title}, bare with our indexes", "", number(rate), f"{rate / ours:.2f}×"))
            report.figures[name]["bare_with_indexes"] = rate
        report.bars.append(Bar(f"{store.title}: bare ÷ ours", bare / ours, 1.5, "×"))
        describe(report, contenders)
    report.notes.append("Best of the rounds, which alternate. The bare loop writes rows or values of the same size, "
                        "each batch in one call, and learns of each whether it was new.")  # fmt: skip
    return report
