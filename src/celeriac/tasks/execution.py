"""Running one attempt: a message goes in, an `Outcome` comes out, whatever the task does.

    decode → rebuild → call → encode

The worker's children and threads call `Executor`, and so do eager runs (`Task.apply`). Every way in which the user's
function can end becomes an outcome here, `SystemExit` and `MemoryError` included. The worker's pool makes the outcome
where the child cannot: it was killed, or its hard time limit passed. While the task runs, its `Request` describes the
attempt: `self.request`, or `celeriac.current_request()`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from celeriac import signals, states
from celeriac.errors import EncodeError, Ignore, Reject, Replaced, Retry, TaskRevoked
from celeriac.model.clock import aware, seconds
from celeriac.model.failure import Failure
from celeriac.model.message import PLAIN, Failed, Message
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import JSON, decode, serializer
from celeriac.tasks.protocols import AnyTask, App

__all__ = ["Executor", "Request", "current", "current_request", "error_callback_count"]

log = logging.getLogger("celeriac.tasks.execution")

CONTROL_FLOW = (Retry, Replaced, TaskRevoked, Ignore, Reject)
"""Exceptions that choose how the attempt ends. They are not failures."""

Report = Callable[[Message, str, Any], None]
"""Receives the states before the end (STARTED, PROGRESS, custom ones) with their `meta`."""


class Request:
    """The attempt that is running, as its task sees it."""

    __slots__ = ("args", "deliveries", "is_eager", "kwargs", "message", "outer", "report", "started", "task", "worker")

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

    @property
    def id(self) -> str:
        """The task's id."""
        return self.message.id

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
    def hostname(self) -> str:
        """The name of the worker."""
        return self.worker

    @property
    def blocks_child(self) -> bool:
        """Whether waiting in this task keeps a child from all other work."""
        return not self.is_eager and self.task.lane == PLAIN

    def __repr__(self) -> str:
        return f"<Request {self.message.task}[{self.id}] attempt {self.attempt}>"


current: ContextVar[Request | None] = ContextVar("celeriac_request", default=None)


def current_request() -> Request | None:
    """Return the request of the running task, or None outside a task."""
    return current.get()


class Executor:
    """Runs attempts for one app, in one process."""

    def __init__(self, app: App, worker: str = "", report: Report | None = None, is_eager: bool = False) -> None:
        self._app = app
        self._worker = worker
        self._report = report
        self._is_eager = is_eager
        self._accept = frozenset(app.conf.accept_content)
        self._serializer = serializer(app.conf.result_serializer)
        self._result_max_bytes = app.conf.result_max_bytes

    def run(self, message: Message, deliveries: int = 1) -> Outcome:
        """Run one attempt of a plain task."""
        started, clock = time.time(), time.perf_counter()
        request = None
        try:
            request = self._prepare(message, deliveries, started)
            token = current.set(request)
            try:
                value = request.task.call(request)
            finally:
                current.reset(token)
        except BaseException as error:  # noqa: BLE001 - every ending is an outcome
            return self._raised(message, request, error, started, time.perf_counter() - clock)
        return self._returned(message, request, value, started, time.perf_counter() - clock)

    async def arun(self, message: Message, deliveries: int = 1,
                   drive: Callable[[Any], Any] | None = None) -> Outcome:  # fmt: skip
        """Run one attempt of a coroutine task. `drive` may wrap the coroutine, to interrupt it from outside."""
        started, clock = time.time(), time.perf_counter()
        request = None
        try:
            request = self._prepare(message, deliveries, started)
            current.set(request)  # in the context of this asyncio task alone
            coroutine = request.task.call(request)
            value = await (drive(coroutine) if drive is not None else coroutine)
        except BaseException as error:  # noqa: BLE001 - every ending is an outcome
            return self._raised(message, request, error, started, time.perf_counter() - clock)
        return self._returned(message, request, value, started, time.perf_counter() - clock)

    def run_any(self, message: Message, deliveries: int = 1) -> Outcome:
        """Run one attempt of a task of either lane in this thread, and wait for its end."""
        task = self._app.tasks.get(message.task)
        if task is not None and task.is_coroutine:
            return self._app.broker.complete(self.arun(message, deliveries))
        return self.run(message, deliveries)

    # --- The steps ------------------------------------------------------------------------------------

    def _prepare(self, message: Message, deliveries: int, started: float) -> Request:
        task = self._app.tasks.get(message.task) or self._app.known_task(message.task)
        args, kwargs = decode(message.content_type, message.body, self._accept)
        if message.failed is not None:
            args = [*_error_callback_args(message.failed, task, len(args)), *args]
        args, kwargs = task.arguments.rebuild(args, kwargs)
        # With `ignore_result` a success is not stored, so an earlier state would stay as if the task still ran.
        report = None if message.ignore_result else self._report
        request = Request(message, task, args, kwargs, deliveries=deliveries, worker=self._worker,
                          is_eager=self._is_eager, started=started, report=report,
                          outer=current.get() if self._is_eager else None)  # fmt: skip
        if message.track_started and report is not None:
            report(message, states.STARTED, None)
        if signals.task_prerun.receivers:
            signals.task_prerun.send(task, task_id=message.id, args=args, kwargs=kwargs)
        return request

    def _returned(self, message: Message, request: Request, value: Any, started: float, runtime: float) -> Outcome:
        outcome = self._outcome(message, states.SUCCESS, started, runtime)
        try:
            if not message.ignore_result or message.link or (message.place is not None and not message.place.alone):
                chosen = self._serializer
                if chosen is not JSON and message.gives_result:
                    chosen = JSON
                outcome.value = chosen.dumps(value)
                outcome.content_type = chosen.content_type
                if len(outcome.value) > self._result_max_bytes:
                    raise EncodeError(
                        f"{message.task} returned {len(outcome.value):,} bytes, more than `result_max_bytes` allows "
                        f"({self._result_max_bytes:,}). Store the data, and return its path or key."
                    )
            if signals.task_success.receivers:
                signals.task_success.send(request.task, task_id=message.id, result=value)
            return self._ended(request, outcome)
        except BaseException as error:  # noqa: BLE001 - a time limit, or code of the user's that encoding calls
            if isinstance(error, EncodeError):
                error = error.within(f"The return value of {message.task}", 0)
            return self._raised(message, request, error, started, runtime)

    def _raised(self, message: Message, request: Request | None, error: BaseException, started: float,
                runtime: float) -> Outcome:  # fmt: skip
        outcome = self._outcome(message, states.FAILURE, started, runtime)
        try:
            self._classify(outcome, message, request, error)
            return self._ended(request, outcome)
        except BaseException as escaped:
            log.exception("%s[%s] failed, and handling its exception failed too", message.task, message.id)
            outcome = self._outcome(message, states.FAILURE, started, runtime)
            if isinstance(escaped, TaskRevoked):  # raised in this thread by `terminate`, at this moment
                outcome.state = states.REVOKED
            outcome.failure = Failure.of(escaped)
            return outcome

    def _classify(self, outcome: Outcome, message: Message, request: Request | None, error: BaseException) -> None:
        """Set an outcome to what an exception means: the ending that it asks for, another attempt, or a failure."""
        controls = isinstance(error, CONTROL_FLOW) and not error.of_another
        ending = error if controls else self._autoretry(message, request, error)
        task = request.task if request is not None else None
        match ending:
            case None:
                outcome.failure = Failure.of(error)
                if signals.task_failure.receivers and request is not None:
                    signals.task_failure.send(task, task_id=message.id, exception=error, args=request.args,
                                              kwargs=request.kwargs)  # fmt: skip
            case Retry():
                outcome.state, outcome.retry_delay = states.RETRY, seconds(ending.delay, "the delay of a Retry")
                outcome.failure = Failure.of(ending.exc or ending)
                signals.task_retry.send(task, task_id=message.id, exception=ending.exc, delay=ending.delay)
            case Replaced():
                outcome.state, outcome.following = states.REPLACED, ending.following
            case TaskRevoked():
                outcome.state, outcome.failure = states.REVOKED, Failure.of(ending)
            case Ignore():
                outcome.state = states.IGNORED
            case Reject():
                outcome.rejected, outcome.requeue, outcome.failure = True, bool(ending.requeue), Failure.of(ending)

    def _autoretry(self, message: Message, request: Request | None, error: BaseException) -> Retry | None:
        """Return the retry that `autoretry_for` makes of an exception; None if there is none, or no attempt is left."""
        if request is None:
            return None
        task = request.task
        if not isinstance(error, task.autoretry_for) or isinstance(error, task.dont_autoretry_for):
            return None
        policy = task.retry_policy(message)
        if not policy.allows(message.attempt):
            return None
        return Retry(exc=error, delay=policy.delay_after(message.attempt))

    def _outcome(self, message: Message, state: str, started: float, runtime: float) -> Outcome:
        return Outcome(id=message.id, task=message.task, state=state, attempt=message.attempt, worker=self._worker,
                       started_at=started, done_at=started + runtime, runtime=runtime, group_id=message.group_id,
                       parent_id=message.parent_id, root_id=message.root_id, reply_to=message.reply_to,
                       place=message.place)  # fmt: skip

    def _ended(self, request: Request | None, outcome: Outcome) -> Outcome:
        if signals.task_postrun.receivers and request is not None:
            signals.task_postrun.send(request.task, task_id=outcome.id, args=request.args, kwargs=request.kwargs,
                                      outcome=outcome)  # fmt: skip
        return outcome


def error_callback_count(task: AnyTask, count: int) -> int:
    """Return how many arguments are put before the `count` of an error callback's own.

    An error callback has one of Celery's two forms: `callback(failed_id, …)`, or `callback(request, exc, traceback, …)`
    if it accepts that many arguments.
    """
    return 3 if task.arguments.accepts(count + 3) else 1


def _error_callback_args(failed: Failed, task: AnyTask, count: int) -> list[Any]:
    """Return the arguments that are put before the `count` of an error callback's own."""
    if error_callback_count(task, count) == 1:
        return [failed.id]
    message = Message(id=failed.id, task=failed.task, attempt=failed.attempt, group_id=failed.group_id,
                      parent_id=failed.parent_id, root_id=failed.root_id)  # fmt: skip
    return [Request(message, task, [], {}), failed.failure.exception(), failed.failure.traceback]
