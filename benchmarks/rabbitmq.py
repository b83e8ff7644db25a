"""Benchmarks on RabbitMQ, against Celery and Dramatiq. Each starts its own server.

For all contenders, messages are durable, and publishers wait for confirms.
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
DRAIN_SECONDS = 4.0  # of work, computed from a contender's pace: enough to make prefetched messages negligible
SEND_ROUNDS, SEND_SECONDS = 4, 2.0  # many short rounds: each call waits for the server's disk, whose speed varies
ROUNDTRIP_SECONDS = 2.0


@contextmanager
def _report(stage: Stage, name: str, title: str, results: str = NONE) -> Iterator[Report]:
    report = Report(name, f"RabbitMQ: {title}", issue=ISSUE)
    with stage.exporting({RESULTS_VARIABLE: results}), running(stage) as node:
        yield report
        report.notes.append(f"rabbitmq-server {node.version}, one node, over TCP on this machine; durable messages, "
                            "publisher confirms.")  # fmt: skip


def drain(stage: Stage) -> Report:
    """RabbitMQ: no-op tasks drained, no results."""
    with _report(stage, "rabbitmq-drain", f"waiting no-op tasks, {CHILDREN} children, no results") as report:
        measure = drain_for(stage, report, DRAIN_SECONDS, CHILDREN)
        report.notes.append("Timed from when a tenth of the messages has been pushed to the worker until all have, by "
                            "declaring the queue passively. Prefetched messages count as ended: at most 2,000 for "
                            "Celeriac, 180 for Celery, 32 for Dramatiq; about as many at start and end.")  # fmt: skip
        return compare_rates(stage, report, OURS, PEERS, measure, over={CELERY: 7.0, DRAMATIQ: 2.0}, rounds=ROUNDS)


def delay(stage: Stage) -> Report:
    """RabbitMQ: one producer, one call per task, each confirmed."""
    with _report(stage, "rabbitmq-delay", "one producer, one delay() per task, each confirmed") as report:
        measure = send_once(stage.amount(50_000, 500), SEND_SECONDS)
        return compare_rates(stage, report, OURS, PEERS, measure, bounds=[PIKA, BOUND], over={CELERY: 3.0, PIKA: 1.0},
                             rounds=SEND_ROUNDS)  # fmt: skip


def delay_many(stage: Stage) -> Report:
    """RabbitMQ: 10,000 messages with `delay_many`; the peers one by one, as they have no bulk call; all confirmed."""
    count = stage.amount(10_000, 500)
    with _report(stage, "rabbitmq-delay-many", f"delay_many of {count:,}, confirmed; the peers one by one") as report:
        return compare_rates(stage, report, OURS, PEERS, send_many_once(count), over={CELERY: 5.0}, rounds=ROUNDS)


def roundtrip(stage: Stage) -> Report:
    """RabbitMQ: `delay().get()` with `rpc://`, median and p99; Dramatiq has no results on RabbitMQ."""
    title = "delay().get() over rpc:// with an idle worker"
    with _report(stage, "rabbitmq-roundtrip", title, AWAITED) as report:
        count = stage.amount(300, 20)
        return compare_latencies(stage, report, OURS, [CELERY], count, bar_ratio=3.0, bounds=[BOUND],
                                 seconds=ROUNDTRIP_SECONDS)  # fmt: skip
