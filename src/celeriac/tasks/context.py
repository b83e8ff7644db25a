"""What a running task knows about itself: `self.request`, or `celeriac.current_request()`."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from celeriac.model.clock import aware
from celeriac.model.message import PLAIN, Message
from celeriac.tasks.protocols import AnyTask

__all__ = ["Request", "current", "current_request"]


class Request:
    """One attempt, as its task sees it."""

    __slots__ = ("args", "deliveries", "is_eager", "kwargs", "message", "outer", "report", "started", "task", "worker")

    def __init__(self, message: Message, task: AnyTask, args: list[Any], kwargs: dict[str, Any], *,
                 deliveries: int = 1, worker: str = "", is_eager: bool = False, started: float = 0.0,
                 report: Callable[[Message, str, Any], None] | None = None,
                 outer: Request | None = None) -> None:  # fmt: skip
        self.message = message
        self.task = task
        self.args = args
        self.kwargs = kwargs
        self.deliveries = deliveries
        self.worker = worker
        self.is_eager = is_eager
        self.started = started
        self.report = report
        self.outer = outer  # the attempt inside which this one is applied

    @property
    def id(self) -> str:
        """The task's id."""
        return self.message.id

    @property
    def retries(self) -> int:
        """How many attempts there were before this one."""
        return self.message.attempt - 1

    @property
    def attempt(self) -> int:
        """This attempt's number; the first is 1."""
        return self.message.attempt

    @property
    def queue(self) -> str:
        """The queue that the message was in."""
        return self.message.queue

    @property
    def priority(self) -> int:
        """0 to 9, higher is sooner."""
        return self.message.priority

    @property
    def delivery_info(self) -> dict[str, Any]:
        """The queue, the priority and whether it was delivered before, by their names in Celery."""
        return {"exchange": "", "routing_key": self.queue, "priority": self.priority,
                "redelivered": self.deliveries > 1}  # fmt: skip

    @property
    def headers(self) -> dict[str, Any]:
        """The headers that the call carried."""
        return self.message.headers

    @property
    def root_id(self) -> str:
        """The id of the task that all this began with."""
        return self.message.root_id or self.message.id

    @property
    def parent_id(self) -> str | None:
        """The id of the task that sent this one."""
        return self.message.parent_id

    @property
    def group_id(self) -> str | None:
        """The id of the group that this task is in."""
        return self.message.group_id

    @property
    def eta(self) -> datetime | None:
        """When the task was due, if the call named a time."""
        return aware(self.message.due_at) if self.message.due_at is not None else None

    @property
    def expires(self) -> datetime | None:
        """When the task expires."""
        return aware(self.message.expires_at) if self.message.expires_at is not None else None

    @property
    def timelimit(self) -> tuple[float | None, float | None]:
        """The hard and the soft time limit (seconds), in Celery's order."""
        return self.message.time_limit, self.message.soft_time_limit

    @property
    def hostname(self) -> str:
        """The name of the worker."""
        return self.worker

    @property
    def blocks_child(self) -> bool:
        """Whether waiting here would keep a child from all other work."""
        return not self.is_eager and self.task.lane == PLAIN

    def __repr__(self) -> str:
        return f"<Request {self.message.task}[{self.id}] attempt {self.attempt}>"


current: ContextVar[Request | None] = ContextVar("celeriac_request", default=None)


def current_request() -> Request | None:
    """Return the request of the task that is running here, or None outside a task."""
    return current.get()
