"""What workers have counted, as samples: of the whole system from the history, of one worker from its own memory.

Tasks that the app does not have are one, `(unknown)`; so are all classes of exceptions, `other`, but a hundred.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import Final, NamedTuple

from celeriac import states
from celeriac.metrics.samples import Samples
from celeriac.model.history import Sums
from celeriac.model.spread import Spread
from celeriac.ports.history import Counted
from celeriac.tasks.builtin_names import MAIL, WEBHOOK

__all__ = ["CHILDREN_LOST", "DEAD_LETTERS", "DROPPED", "LEASES_LOST", "OTHER_ERRORS", "RECEIVED", "RECOVERED",
           "REFUSED", "UNKNOWN_TASK", "Attempts", "Errors", "add_attempts", "add_celery_attempts",
           "add_counters"]  # fmt: skip

UNKNOWN_TASK: Final = "(unknown)"
OTHER_ERRORS: Final = "other"
MOST_ERRORS: Final = 100
SHOWN: Final = (states.SUCCESS, states.FAILURE, states.RETRY)  # even if none has ended so: a rate needs the zero
GENERIC: Final = "generic"  # in place of a worker's name: the sums are of all workers
REJECT: Final = "celeriac.errors.Reject"

RECEIVED: Final = "received"  # deliveries, by task and queue
RECOVERED: Final = "recovered"  # deliveries of messages that a worker or a child had lost
REFUSED: Final = "refused"  # settlements whose token was stale
LEASES_LOST: Final = "leases_lost"
CHILDREN_LOST: Final = "children_lost"  # by reason
DEAD_LETTERS: Final = "dead_letters"  # by queue and reason
DROPPED: Final = "dropped"  # attempts that are missing in the history, by reason: attempts (in full), counts

COUNTERS: Final[Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]]] = {
    RECEIVED: ("celeriac_tasks_received_total", ("task", "queue"), ()),
    RECOVERED: ("celeriac_deliveries_recovered_total", (), ("",)),
    REFUSED: ("celeriac_settlements_refused_total", (), ("",)),
    LEASES_LOST: ("celeriac_leases_lost_total", (), ("",)),
    CHILDREN_LOST: ("celeriac_children_lost_total", ("reason",),
                    ("killed", "time_limit", "memory", "exit", "terminated")),
    DEAD_LETTERS: ("celeriac_dead_letters_total", ("queue", "reason"), ()),
    DROPPED: ("celeriac_history_dropped_total", ("reason",), ("attempts", "counts")),
}  # fmt: skip
"""By the name of a counter: its metric, its labels, and the reasons that are shown with 0."""

SENT: Final = {MAIL: "celeriac_mails_total", WEBHOOK: "celeriac_webhooks_total"}
"""By the built-in task that sends it: the metric of what is sent."""

DEAD_REASONS: Final = ("lost", "rejected", "unknown", "unsettled")


class Attempts(NamedTuple):
    """Attempts that were counted together."""

    task: str
    queue: str
    state: str
    error: str
    sums: Sums


class Errors:
    """The classes of exceptions that have a name of their own: the most frequent when they are first needed, a hundred.

    A class that is chosen stays so while the process lives, and one that is not is never chosen later: otherwise
    the counter of the others would go down.
    """

    def __init__(self) -> None:
        self._shown: set[str] = set()
        self._other: set[str] = set()

    def choose(self, counted: Iterable[Attempts]) -> None:
        """Choose among the classes that are new."""
        found: Counter[str] = Counter()
        for one in counted:
            if one.state == states.FAILURE and one.error not in self._shown and one.error not in self._other:
                found[one.error] += one.sums.n
        for error, _ in found.most_common():
            (self._shown if len(self._shown) < MOST_ERRORS else self._other).add(error)
        if len(self._other) > 100 * MOST_ERRORS:
            self._other.clear()  # they are found again, and there is no room for them

    def name(self, error: str) -> str:
        """Return what is shown of a class."""
        return error.removeprefix("builtins.") if error in self._shown else OTHER_ERRORS


def add_attempts(samples: Samples, counted: Iterable[Attempts], known: Container[str], errors: Errors) -> None:
    """Add attempts that ended, by our own names."""
    counted = list(counted)
    errors.choose(counted)
    for task, queue, state, error, sums in counted:
        if task in SENT:
            samples.add(SENT[task], sums.n, state.lower())
        task = task if task in known else UNKNOWN_TASK
        for shown in SHOWN:
            samples.add("celeriac_tasks_ended_total", 0, task, queue, shown.lower())
        samples.add("celeriac_tasks_ended_total", sums.n, task, queue, state.lower())
        if state == states.FAILURE:
            samples.add("celeriac_task_failures_total", sums.n, task, queue, errors.name(error))
        samples.merge("celeriac_task_duration_seconds", sums.runtime, task, queue)
        samples.merge("celeriac_task_wait_seconds", sums.wait, task, queue)


def add_counters(samples: Samples, counters: Mapping[Counted, int], known: Container[str],
                 queues: Iterable[str]) -> None:  # fmt: skip
    """Add what else workers have counted: by name, task, queue and reason."""
    for metric, labels, reasons in COUNTERS.values():
        for reason in reasons:
            samples.add(metric, 0, *([reason] if labels else []))
    for metric in SENT.values():
        for shown in SHOWN:
            samples.add(metric, 0, shown.lower())
    for queue in queues:
        for reason in DEAD_REASONS:
            samples.add("celeriac_dead_letters_total", 0, queue, reason)
    for (name, task, queue, reason), count in counters.items():
        if name in COUNTERS:
            metric, labels, _ = COUNTERS[name]
            parts = {"task": task if task in known else UNKNOWN_TASK, "queue": queue, "reason": reason}
            samples.add(metric, count, *(parts[label] for label in labels))


# --- celery-exporter's names --------------------------------------------------------------------------

CELERY_STATES: Final = {
    states.SUCCESS: "celery_task_succeeded_total",
    states.REVOKED: "celery_task_revoked_total",
    states.RETRY: "celery_task_retried_total",
}


def add_celery_attempts(samples: Samples, counted: Iterable[Attempts],
                        counters: Mapping[Counted, int], known: Container[str],
                        errors: Errors) -> None:  # fmt: skip
    """Add the same by celery-exporter's names. As there, all counters of a task are shown once one is."""
    counted = list(counted)
    errors.choose(counted)
    for task, queue, state, error, sums in counted:
        labels = (task if task in known else UNKNOWN_TASK, GENERIC, queue)
        _show_celery(samples, labels)
        if state in CELERY_STATES:
            samples.add(CELERY_STATES[state], sums.n, *labels)
        elif error == REJECT:
            samples.add("celery_task_rejected_total", sums.n, *labels)
        elif state == states.FAILURE:
            samples.add("celery_task_failed_total", sums.n, *labels, errors.name(error).rpartition(".")[2])
        if state == states.SUCCESS:
            samples.merge("celery_task_runtime", sums.runtime, *labels)
        samples.merge("celery_task_queue_wait_time", sums.wait, *labels)
    for (name, task, queue, _), count in counters.items():
        if name == RECEIVED:
            labels = (task if task in known else UNKNOWN_TASK, GENERIC, queue)
            _show_celery(samples, labels)
            samples.add("celery_task_received_total", count, *labels)


def _show_celery(samples: Samples, labels: tuple[str, ...]) -> None:
    for name in (*CELERY_STATES.values(), "celery_task_received_total", "celery_task_rejected_total"):
        samples.add(name, 0, *labels)
    samples.add("celery_task_failed_total", 0, *labels, "")
    samples.merge("celery_task_runtime", Spread(), *labels)
