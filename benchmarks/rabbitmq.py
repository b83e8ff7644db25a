"""On RabbitMQ, beside Celery and Dramatiq: all on one server, which each benchmark starts.

Messages are durable, and publishers wait for confirms, whoever they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.compare import compare_latencies, compare_rates, drain_for, send_many_once, send_once
from benchmarks.figures import Report
from benchmarks.peers.base import AWAITED, NONE, RESULTS_VARIABLE
from benchmarks.rabbitmq_server import running
from benchmarks.stage import Stage

__all__ = ["delay", "delay_many", "drain", "roundtrip"]

OURS = "celeriac_rabbitmq"
CELERY = "celery_rabbitmq"
DRAMATIQ = "dramatiq_rabbitmq"
PEERS = (CELERY, DRAMATIQ)
PIKA = "bare_rabbitmq"
BOUND = "bare_driver_rabbitmq"
ISSUE = 4
CHILDREN = 2
ROUNDS = 2
DRAIN_SECONDS = 4.0  # of work, by a contender's pace: what is in its workers' hands is little beside it
SEND_ROUNDS, SEND_SECONDS = 4, 2.0  # short and many: each waits for the server's disk, which is not steady
ROUNDTRIP_SECONDS = 2.0


@contextmanager
def _report(stage: Stage, name: str, title: str, results: str = NONE) -> Iterator[Report]:
    report = Report(name, f"RabbitMQ: {title}", issue=ISSUE)
    with stage.telling({RESULTS_VARIABLE: results}), running(stage) as node:
        yield report
        report.notes.append(f"rabbitmq-server {node.version}, one node, over TCP on this machine; durable messages, "
                            "publisher confirms.")  # fmt: skip


def drain(stage: Stage) -> Report:
    """RabbitMQ: no-op tasks drained, no results."""
    with _report(stage, "rabbitmq-drain", f"waiting no-op tasks, {CHILDREN} children, no results") as report:
        measure = drain_for(stage, report, DRAIN_SECONDS, CHILDREN)
        report.notes.append("From when a tenth has been pushed to a worker to when all has, by declaring the queue "
                            "passively. Those in workers' hands count as ended: at most 2,000 of ours, 180 of "
                            "Celery's, 32 of Dramatiq's; about as many at the beginning as at the end.")  # fmt: skip
        return compare_rates(stage, report, OURS, PEERS, measure, over={CELERY: 7.0, DRAMATIQ: 2.0}, rounds=ROUNDS)


def delay(stage: Stage) -> Report:
    """RabbitMQ: one producer, one call per task, each confirmed."""
    with _report(stage, "rabbitmq-delay", "one producer, one delay() per task, each confirmed") as report:
        measure = send_once(stage.amount(50_000, 500), SEND_SECONDS)
        return compare_rates(stage, report, OURS, PEERS, measure, bounds=[PIKA, BOUND], over={CELERY: 3.0, PIKA: 1.0},
                             rounds=SEND_ROUNDS)  # fmt: skip


def delay_many(stage: Stage) -> Report:
    """RabbitMQ: 10,000 messages by `delay_many`, the peers one by one, as they have no such call; all confirmed."""
    count = stage.amount(10_000, 500)
    with _report(stage, "rabbitmq-delay-many", f"delay_many of {count:,}, confirmed; the peers one by one") as report:
        return compare_rates(stage, report, OURS, PEERS, send_many_once(count), over={CELERY: 5.0}, rounds=ROUNDS)


def roundtrip(stage: Stage) -> Report:
    """RabbitMQ: `delay().get()` over `rpc://`, median and p99; Dramatiq has no such results."""
    title = "delay().get() over rpc:// against a worker that waits"
    with _report(stage, "rabbitmq-roundtrip", title, AWAITED) as report:
        count = stage.amount(300, 20)
        return compare_latencies(stage, report, OURS, [CELERY], count, bar_ratio=3.0, bounds=[BOUND],
                                 seconds=ROUNDTRIP_SECONDS)  # fmt: skip
