"""The request: the attempt that is running, as its task sees it (`self.request`, `celeriac.current_request()`).

`Executor` makes one for each attempt. In a function that is called directly, and outside tasks, `Task.request` is a
`DirectRequest`, so that unit tests can call tasks as functions.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, ClassVar

from celeriac.errors import Retry
from celeriac.model.clock import aware
from celeriac.model.message import PLAIN, Link, Message
from celeriac.tasks.protocols import AnyTask

__all__ = ["DirectRequest", "Report", "Request", "current", "current_request"]

Report = Callable[[Message, str, bytes | None], None]  # of a state, with its encoded data
"""Receives the states before the end (STARTED, PROGRESS, custom ones) with their `meta`."""


class _Absent:
    """An attribute of Celery's request without a counterpart: reading it raises `AttributeError`, which says why."""

    def __init__(self, instead: str) -> None:
        self._instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, request: Any, owner: type) -> Any:
        raise AttributeError(f"A request has no {self._name!r} in Celeriac: {self._instead}.")


IN_THE_TREE = "a workflow is stored once, and app.workflow(id) finds it"


class Request:
    """The attempt that is running, as its task sees it."""

    __slots__ = ("args", "asked", "deliveries", "is_eager", "kwargs", "message", "outer", "report", "started", "steps",
                 "task", "worker")  # fmt: skip

    called_directly: ClassVar[bool] = False
    """Whether the task was called as a function, and not by a worker or `apply`."""

    # Attributes of Celery's request that are the same for all, and None for most tasks there too.
    utc: ClassVar[bool] = True
    logfile = loglevel = origin = shadow = None

    redelivered = _Absent('`delivery_info["redelivered"]` says it, and `deliveries` counts')
    chain = _Absent(IN_THE_TREE)
    chord = _Absent(IN_THE_TREE)
    group_index = _Absent(IN_THE_TREE)
    replaced_task_nesting = _Absent(IN_THE_TREE)
    children = _Absent("`AsyncResult.children` has the steps that follow in a workflow")
    stamps = _Absent("`stamp` adds headers, which are in `headers`")
    stamped_headers = _Absent("`stamp` adds headers, which are in `headers`")
    as_execution_options = _Absent("self.retry keeps the options of the call")
    update = _Absent("pass options to self.retry, or write self.update_state")

    def __init__(self, message: Message, task: AnyTask, args: list[Any], kwargs: dict[str, Any], *,
                 deliveries: int = 1, worker: str = "", is_eager: bool = False, started: float = 0.0,
                 report: Report | None = None, outer: Request | None = None) -> None:  # fmt: skip
        self.message = message
        self.task = task
        self.args = args
        self.kwargs = kwargs
        self.deliveries = deliveries + message.requeued
        self.worker = worker
        self.is_eager = is_eager
        self.started = started
        self.report = report
        self.outer = outer  # the attempt that called `apply`, if this one runs eagerly inside another
        self.asked: Retry | None = None  # of `retry(throw=False)`: the attempt ends as this, however it ends
        self.steps: Iterator[Coroutine[Any, Any, None]] | None = None  # what to await after a coroutine task

    @property
    def id(self) -> str:
        """The task's id; None in a function that was called directly."""
        return self.message.id

    @property
    def name(self) -> str:
        """The task's name."""
        return self.message.task

    @property
    def retries(self) -> int:
        """The number of attempts before this one."""
        return self.message.attempt - 1

    @property
    def attempt(self) -> int:
        """The number of this attempt; the first is 1."""
        return self.message.attempt

    @property
    def queue(self) -> str:
        """The queue that the message came from."""
        return self.message.queue

    @property
    def priority(self) -> int:
        """The priority, 0 to 9; higher is sooner."""
        return self.message.priority

    @property
    def delivery_info(self) -> dict[str, Any]:
        """The queue, the priority and whether the message was delivered before, under Celery's names."""
        return {"exchange": "", "routing_key": self.queue, "priority": self.priority,
                "redelivered": self.deliveries > 1}  # fmt: skip

    @property
    def properties(self) -> dict[str, Any]:
        """The id, the priority and the address of the caller, under Celery's names."""
        return {"correlation_id": self.id, "reply_to": self.reply_to, "priority": self.priority}

    @property
    def correlation_id(self) -> str:
        """The task's id, under another of Celery's names."""
        return self.id

    @property
    def reply_to(self) -> str | None:
        """The address that the outcome, or a notice of it, is sent to; None if neither is sent."""
        return self.message.reply_to or None

    @property
    def headers(self) -> dict[str, Any]:
        """The headers of the call."""
        return self.message.headers

    @property
    def root_id(self) -> str:
        """The id of the task at the root: the first that led to this one."""
        return self.message.root_id or self.message.id

    @property
    def parent_id(self) -> str | None:
        """The id of the task that sent this one, or that precedes it in a workflow: after a group, its last to end."""
        return self.message.parent_id

    @property
    def group_id(self) -> str | None:
        """The id of the group that the task belongs to."""
        return self.message.group_id

    @property
    def group(self) -> str | None:
        """The id of the group that the task belongs to, under Celery's name."""
        return self.message.group_id

    taskset = group

    @property
    def callbacks(self) -> Sequence[Link] | None:
        """What is sent when the task succeeds (`link`), or None."""
        return self.message.link or None

    @property
    def errbacks(self) -> Sequence[Link] | None:
        """What is sent when the task fails (`link_error`), or None."""
        return self.message.link_error or None

    @property
    def ignore_result(self) -> bool:
        """Whether the result is not stored."""
        return self.message.ignore_result

    @property
    def eta(self) -> datetime | None:
        """The time before which the task was not to start, if there was one."""
        return aware(self.message.due_at) if self.message.due_at is not None else None

    @property
    def expires(self) -> datetime | None:
        """The time at which the task expires, if there is one."""
        return aware(self.message.expires_at) if self.message.expires_at is not None else None

    @property
    def timelimit(self) -> tuple[float | None, float | None]:
        """The hard and the soft time limit (seconds), in Celery's order."""
        return self.message.time_limit, self.message.soft_time_limit

    @property
    def time_limit(self) -> float | None:
        """The hard time limit (seconds)."""
        return self.message.time_limit

    @property
    def soft_time_limit(self) -> float | None:
        """The soft time limit (seconds)."""
        return self.message.soft_time_limit

    @property
    def hostname(self) -> str:
        """The name of the worker."""
        return self.worker

    @property
    def blocks_child(self) -> bool:
        """Whether waiting in this task keeps a child from all other work."""
        return not self.is_eager and self.task.lane == PLAIN

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or else the header of this name, or else `default`."""
        return getattr(self, name, self.headers.get(name, default))

    def __repr__(self) -> str:
        return f"<Request {self.message.task}[{self.id}] attempt {self.attempt}>"


class DirectRequest(Request):
    """The request of a function that was called directly: no attempt, no id, no options of a call."""

    __slots__ = ()

    called_directly = True

    def __init__(self, task: AnyTask) -> None:
        super().__init__(Message(id="", task=task.name), task, [], {})

    @property
    def id(self) -> Any:
        """None: there is no message."""
        return None

    @property
    def root_id(self) -> Any:
        """None: there is no message."""
        return None

    @property
    def blocks_child(self) -> bool:
        """False: there is no child."""
        return False

    def __repr__(self) -> str:
        return f"<Request {self.message.task}, called directly>"


current: ContextVar[Request | None] = ContextVar("celeriac_request", default=None)


def current_request() -> Request | None:
    """Return the request of the running task, or None outside a task."""
    return current.get()
