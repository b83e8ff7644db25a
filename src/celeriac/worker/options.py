"""The options of a worker: from its caller (the command line, tests) where given, else from the app's settings."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from celeriac.model.message import COROUTINE, PLAIN
from celeriac.tasks.builtin_names import WEBHOOK, sends_callbacks

if TYPE_CHECKING:
    from celeriac.app.app import Celeriac

__all__ = ["WorkerOptions", "listed"]

LISTED = 10  # names shown in a line of text


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one worker."""

    name: str = ""
    queues: tuple[str, ...] = ()
    concurrency: int = 1  # children that run plain functions
    coroutine_children: int = 1
    coroutine_concurrency: int = 100  # coroutines at a time in each of those children
    pool: str = "processes"
    lease_seconds: float = 15.0
    grace_seconds: float = 25.0
    max_deliveries: int = 3
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None  # KiB
    unknown_task_seconds: float = 3600.0
    beat: bool = False  # whether it runs a scheduler, too
    metrics: tuple[str, int] | None = None  # the host and port at which it serves its metrics

    @classmethod
    def of(cls, app: Celeriac, *, name: str | None = None, queues: Sequence[str] | None = None,
           concurrency: int | None = None, pool: str | None = None, grace_seconds: float | None = None,
           max_tasks_per_child: int | None = None,
           max_memory_per_child: int | None = None, beat: bool = False,
           metrics: tuple[str, int] | None = None) -> WorkerOptions:  # fmt: skip
        """Return the options. None takes the value from the app's settings. Raises `UnknownQueue`."""
        conf = app.conf
        for queue in queues or ():
            app.check_queue(queue)
        chosen = pool or conf.worker_pool
        lanes = {task.lane for task in app.tasks.values()}
        if sends_callbacks(app):
            lanes.add(app.builtin_tasks[WEBHOOK].lane)
        return cls(
            name=name or f"{app.main or 'celeriac'}@{socket.gethostname()}.{os.getpid()}",
            queues=tuple(queues or sorted(app.queues)),
            concurrency=1 if chosen == "solo" else concurrency or conf.worker_concurrency or os.cpu_count() or 1,
            coroutine_children=conf.worker_coroutine_children if COROUTINE in lanes else 0,
            coroutine_concurrency=conf.worker_coroutine_concurrency,
            pool=chosen,
            lease_seconds=conf.worker_lease_seconds,
            grace_seconds=conf.worker_grace_seconds if grace_seconds is None else grace_seconds,
            max_deliveries=conf.task_max_deliveries,
            max_tasks_per_child=max_tasks_per_child or conf.worker_max_tasks_per_child,
            max_memory_per_child=max_memory_per_child or conf.worker_max_memory_per_child,
            unknown_task_seconds=conf.worker_unknown_task_seconds,
            beat=beat or conf.worker_beat,
            metrics=metrics,
        )

    @property
    def capacity(self) -> dict[str, int]:
        """The number of attempts that can run at a time, by lane."""
        return {PLAIN: self.concurrency, COROUTINE: self.coroutine_children * self.coroutine_concurrency}


def listed(queues: Sequence[str]) -> str:
    """Return the names of at most ten queues, and how many more there are.

    >>> listed([f"q{number}" for number in range(1000)])
    'q0, q1, q2, q3, q4, q5, q6, q7, q8, q9 … and 990 more'
    """
    more = len(queues) - LISTED
    return ", ".join(queues[:LISTED]) + (f" … and {more} more" if more > 0 else "")
