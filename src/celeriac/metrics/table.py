"""The metrics: name, type, labels, and where the values come from. The expositions, docs and tests use these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

__all__ = ["BUCKETS", "CELERY_BUCKETS", "CELERY_METRICS", "METRICS", "Metric", "by_name"]

Kind = Literal["counter", "gauge", "histogram"]
Source = Literal["history", "broker", "workers", "schedules", "server"]

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds (seconds): those of OpenTelemetry's conventions up to ten seconds, then what tasks need."""

CELERY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Those of celery-exporter for run times: the defaults of Prometheus' client."""


class Metric(msgspec.Struct, frozen=True):
    """A metric. The samples of a counter end in `_total`, as its name does here."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    source: Source
    by_worker: bool = False  # whether the exposition of one worker has it
    buckets: tuple[float, ...] = ()


def by_name(metrics: Sequence[Metric]) -> Mapping[str, Metric]:
    """Return metrics by name."""
    return {metric.name: metric for metric in metrics}


TASK: Final = ("task", "queue")

METRICS: Final = (
    Metric("celeriac_tasks_received_total", "counter", TASK, "Deliveries that workers took.", "history", True),
    Metric("celeriac_tasks_ended_total", "counter", (*TASK, "state"), "Attempts that ended.", "history", True),
    Metric("celeriac_task_failures_total", "counter", (*TASK, "error"),
           "Attempts that failed for good, by the class of the exception.", "history", True),
    Metric("celeriac_task_duration_seconds", "histogram", TASK, "How long attempts ran.", "history", True, BUCKETS),
    Metric("celeriac_task_wait_seconds", "histogram", TASK,
           "How long attempts could have run before they did.", "history", True, BUCKETS),
    Metric("celeriac_queue_messages", "gauge", ("queue", "state"), "Messages in a queue.", "broker"),
    Metric("celeriac_queue_latency_seconds", "gauge", ("queue",),
           "How long the oldest ready message has waited.", "broker"),
    Metric("celeriac_queue_paused", "gauge", ("queue",), "Whether a queue is paused.", "broker"),
    Metric("celeriac_queue_workers", "gauge", ("queue",), "Workers that receive from a queue.", "broker"),
    Metric("celeriac_worker_up", "gauge", ("worker",), "1 for each worker with a valid lease.", "broker", True),
    Metric("celeriac_worker_info", "gauge", ("worker", "host", "version"), "1 for each worker.", "broker", True),
    Metric("celeriac_worker_slots", "gauge", ("worker", "lane"),
           "Attempts that a worker can run at a time.", "broker", True),
    Metric("celeriac_worker_slots_busy", "gauge", ("worker", "lane"), "Attempts that run.", "workers", True),
    Metric("celeriac_children_lost_total", "counter", ("reason",),
           "Child processes that ended before their time.", "history", True),
    Metric("celeriac_deliveries_recovered_total", "counter", (),
           "Deliveries of messages that were lost with a worker or a child before.", "history", True),
    Metric("celeriac_settlements_refused_total", "counter", (),
           "Ends of attempts that were refused, because the message had another owner.", "history", True),
    Metric("celeriac_leases_lost_total", "counter", (), "Leases that workers lost while they ran.", "history", True),
    Metric("celeriac_dead_letters_total", "counter", ("queue", "reason"),
           "Messages that workers gave up on.", "history", True),
    Metric("celeriac_history_dropped_total", "counter", ("kind",),
           "Attempts that are missing in the history, in full or even in its counts.", "history", True),
    Metric("celeriac_mails_total", "counter", ("result",),
           "Attempts to send a mail to the administrators, by how they ended.", "history", True),
    Metric("celeriac_webhooks_total", "counter", ("result",),
           "Attempts to deliver a callback, by how they ended.", "history", True),
    Metric("celeriac_failure_signatures", "gauge", ("status",), "Failure signatures.", "history"),
    Metric("celeriac_schedule_ticks_total", "counter", ("entry",), "Ticks that were sent.", "schedules"),
    Metric("celeriac_schedule_lag_seconds", "gauge", ("entry",), "How long the next tick is overdue.", "schedules"),
    Metric("celeriac_http_request_duration_seconds", "histogram", ("route", "method", "status"),
           "How long requests took, of this server process.", "server", False, BUCKETS),
    Metric("celeriac_source_up", "gauge", ("source",), "Whether a source of these metrics answered.", "server"),
)  # fmt: skip
"""Our own metrics."""

CELERY: Final = ("name", "hostname", "queue_name")

CELERY_METRICS: Final = (
    Metric("celery_task_received_total", "counter", CELERY, "Deliveries that workers took.", "history"),
    Metric("celery_task_succeeded_total", "counter", CELERY, "Attempts that succeeded.", "history"),
    Metric("celery_task_failed_total", "counter", (*CELERY, "exception"), "Attempts that failed for good.", "history"),
    Metric("celery_task_rejected_total", "counter", CELERY, "Attempts that raised Reject.", "history"),
    Metric("celery_task_revoked_total", "counter", CELERY, "Tasks that were revoked or had expired.", "history"),
    Metric("celery_task_retried_total", "counter", CELERY, "Attempts after which another follows.", "history"),
    Metric("celery_task_runtime", "histogram", CELERY, "How long attempts ran that succeeded.", "history", False,
           CELERY_BUCKETS),
    Metric("celery_task_queue_wait_time", "histogram", CELERY, "How long attempts could have run before they did.",
           "history", False, BUCKETS[3:]),
    Metric("celery_worker_up", "gauge", ("hostname",), "1 for each worker with a valid lease.", "broker"),
    Metric("celery_worker_tasks_active", "gauge", ("hostname",), "Attempts that a worker runs.", "workers"),
    Metric("celery_queue_length", "gauge", ("queue_name",), "Messages that are ready.", "broker"),
    Metric("celery_active_consumer_count", "gauge", ("queue_name",), "Workers that receive from a queue.", "broker"),
    Metric("celery_active_worker_count", "gauge", ("queue_name",), "Workers that receive from a queue.", "broker"),
    Metric("celery_active_process_count", "gauge", ("queue_name",), "Children of these workers.", "broker"),
)  # fmt: skip
"""Those of celery-exporter's metrics that we can give. All but `celery_task_sent` and `celery_task_started`."""
