"""What a worker is told when it starts; everything else it takes from the app's settings."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from celeriac.model.message import COROUTINE, PLAIN

if TYPE_CHECKING:
    from celeriac.app.app import Celeriac

__all__ = ["WorkerOptions"]


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's own options. None means: as the settings say."""

    name: str = ""
    queues: tuple[str, ...] = ()
    concurrency: int = 1  # children for plain functions
    coroutine_children: int = 1
    coroutine_concurrency: int = 100  # at a time in each of those
    pool: str = "processes"
    lease_seconds: float = 15.0
    grace_seconds: float = 25.0
    max_deliveries: int = 3
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None  # KiB
    unknown_task_seconds: float = 3600.0

    @classmethod
    def of(cls, app: Celeriac, *, name: str | None = None, queues: Sequence[str] | None = None,
           concurrency: int | None = None, pool: str | None = None, grace_seconds: float | None = None,
           max_tasks_per_child: int | None = None,
           max_memory_per_child: int | None = None) -> WorkerOptions:  # fmt: skip
        """Return the options, what is not given filled in from the settings. Raises `UnknownQueue`."""
        conf = app.conf
        for queue in queues or ():
            app.check_queue(queue)
        chosen = pool or conf.worker_pool
        lanes = {task.lane for task in app.tasks.values()}
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
        )

    @property
    def capacity(self) -> dict[str, int]:
        """How many attempts can run at a time, by lane."""
        return {PLAIN: self.concurrency, COROUTINE: self.coroutine_children * self.coroutine_concurrency}
