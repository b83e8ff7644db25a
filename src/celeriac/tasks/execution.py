"""Running one attempt: a message goes in, an `Outcome` comes out, whatever the task does.

    decode → rebuild → call → encode

The worker's children and threads call `Executor`, and so do eager runs (`Task.apply`). Every way in which the user's
function can end becomes an outcome here, `SystemExit` and `MemoryError` included. The worker's pool makes the outcome
where the child cannot: it was killed, or its hard time limit passed. `hooks.py` tells the user's code of the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import CoroutineType
from typing import Any, TypeAlias

from celeriac import states
from celeriac.errors import EncodeError, Ignore, MessageTooLarge, Reject, Replaced, Retry, TaskRevoked
from celeriac.model.clock import seconds
from celeriac.model.compression import COMPRESSED_FROM, compressor, method
from celeriac.model.failure import Failure
from celeriac.model.message import Failed, Message
from celeriac.model.outcome import Outcome
from celeriac.model.retry import exhausted
from celeriac.model.serialization import JSON, decode, serializer
from celeriac.signals import task_postrun, task_prerun, task_success
from celeriac.tasks.hooks import are_told, tell
from celeriac.tasks.protocols import AnyTask, App
from celeriac.tasks.request import Report, Request, current

__all__ = ["Executor", "compress_value", "error_callback_count", "without_arguments"]

log = logging.getLogger("celeriac.tasks.execution")

ControlFlow = Retry | Replaced | TaskRevoked | Ignore | Reject
CONTROL_FLOW = (Retry, Replaced, TaskRevoked, Ignore, Reject)
"""Exceptions that choose how the attempt ends. They are not failures."""

Types: TypeAlias = tuple[type[BaseException], ...]


class Executor:
    """Runs attempts for one app, in one process."""

    def __init__(self, app: App, worker: str = "", report: Report | None = None, is_eager: bool = False) -> None:
        self._app = app
        self._tracing = app.tracing
        self._worker = worker
        self._report = report
        self._is_eager = is_eager
        self._accept = frozenset(app.conf.accept_content)
        self._serializer = serializer(app.conf.result_serializer)
        self._result_max_bytes = app.conf.result_max_bytes
        self._compression = method(app.conf.result_compression) if app.conf.result_compression is not None else None

    def run(self, message: Message, deliveries: int = 1) -> Outcome:
        """Run one attempt of a plain task."""
        if self._tracing.is_possible and (spans := self._tracing.spans()) is not None:
            with spans.processing(message, self._worker, self._is_eager) as attempt:
                return attempt.ended(self._run(message, deliveries))
        return self._run(message, deliveries)

    def _run(self, message: Message, deliveries: int) -> Outcome:
        started, clock = time.time(), time.perf_counter()
        request = None
        try:
            request = self._prepare(message, deliveries, started)
            token = current.set(request)
            try:
                if task_prerun.receivers:
                    _send_prerun(request)
                value = request.task.call(request)
            finally:
                current.reset(token)
        except BaseException as error:  # noqa: BLE001 - every ending is an outcome
            return self._raised(message, request, error, started, time.perf_counter() - clock)
        return self._returned(message, request, value, started, time.perf_counter() - clock)

    async def arun(self, message: Message, deliveries: int = 1,
                   drive: Callable[[Any], Any] | None = None) -> Outcome:  # fmt: skip
        """Run one attempt of a coroutine task. `drive` may wrap the coroutine, to interrupt it from outside."""
        if self._tracing.is_possible and (spans := self._tracing.spans()) is not None:
            with spans.processing(message, self._worker, self._is_eager) as attempt:
                return attempt.ended(await self._arun(message, deliveries, drive))
        return await self._arun(message, deliveries, drive)

    async def _arun(self, message: Message, deliveries: int, drive: Callable[[Any], Any] | None) -> Outcome:
        started, clock = time.time(), time.perf_counter()
        request = None
        try:
            request = await self._aprepare(message, deliveries, started)
            current.set(request)  # in the context of this asyncio task alone
            if task_prerun.receivers:
                _send_prerun(request)
            coroutine = request.task.call(request)
            value = await (drive(coroutine) if drive is not None else coroutine)
        except BaseException as error:  # noqa: BLE001 - every ending is an outcome
            outcome = self._raised(message, request, error, started, time.perf_counter() - clock)
        else:
            outcome = self._returned(message, request, value, started, time.perf_counter() - clock)
        if request is not None and request.steps is not None:
            for step in request.steps:
                await step
        return outcome

    def run_any(self, message: Message, deliveries: int = 1) -> Outcome:
        """Run one attempt of a task of either lane in this thread, and wait for its end."""
        task = self._app.tasks.get(message.task) or self._app.builtin_tasks.get(message.task)
        if task is not None and task.is_coroutine:
            return self._app.broker.complete(self.arun(message, deliveries))
        return self.run(message, deliveries)

    # --- The steps ------------------------------------------------------------------------------------

    def _prepare(self, message: Message, deliveries: int, started: float) -> Request:
        task = self._app.tasks.get(message.task) or self._app.known_task(message.task)
        if message.omitted:
            raise without_arguments(message)
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
        return request

    async def _aprepare(self, message: Message, deliveries: int, started: float) -> Request:
        """Prepare an attempt of a coroutine task: in a thread, if its arguments are loaded from a database."""
        task = self._app.tasks.get(message.task)
        if task is not None and task.arguments.loads and self._app.framework is not None:
            return await self._app.framework.in_thread(self._prepare, message, deliveries, started)
        return self._prepare(message, deliveries, started)

    def _returned(self, message: Message, request: Request, value: Any, started: float, runtime: float) -> Outcome:
        if request.asked is not None:  # by `retry(throw=False)`
            return self._raised(message, request, request.asked, started, runtime)
        if isinstance(value, CoroutineType):
            return self._raised(message, request, _not_awaited(message.task, value), started, runtime)
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
                if self._compression is not None and not message.gives_result:
                    compress_value(outcome, self._compression)
        except BaseException as error:  # noqa: BLE001 - a time limit, or code of the user's that encoding calls
            if isinstance(error, EncodeError):
                error = error.within(f"The return value of {message.task}", 0)
            return self._raised(message, request, error, started, runtime)
        if request.task.hooks or task_success.receivers or task_postrun.receivers:
            self._tell(request, outcome, value)
        return outcome

    def _raised(self, message: Message, request: Request | None, error: BaseException, started: float,
                runtime: float) -> Outcome:  # fmt: skip
        outcome = self._outcome(message, states.FAILURE, started, runtime)
        try:
            returned = self._classify(outcome, message, request, error)
        except BaseException as escaped:
            log.exception("%s[%s] failed, and handling its exception failed too", message.task, message.id)
            outcome = self._outcome(message, states.FAILURE, started, runtime)
            if isinstance(escaped, TaskRevoked):  # raised in this thread by `terminate`, at this moment
                outcome.state = states.REVOKED
            outcome.failure = Failure.of(escaped, message.task)
            returned = escaped
        told = request or self._bare_request(message)
        if told is not None and are_told(told):
            self._tell(told, outcome, returned)
        return outcome

    def _classify(self, outcome: Outcome, message: Message, request: Request | None,
                  error: BaseException) -> BaseException:  # fmt: skip
        """Set an outcome to what an exception means: the ending that it asks for, another attempt, or a failure.

        Returns the exception that says so.
        """
        ending = _asked_for(error) or self._autoretry(request, error)
        if isinstance(ending, Retry) and not ending.is_allowed:  # `retry` has not made it
            policy = self._app.known_task(message.task).retry_policy(message)
            if not policy.allows(message.attempt):
                why = ending.exc or exhausted(message.task, message.id, message.attempt)
                ending, error = None, why if why.__traceback__ else why.with_traceback(error.__traceback__)
            elif ending.delay is None:
                ending.delay = policy.delay_after(message.attempt)
        match ending:
            case None:
                outcome.failure = Failure.of(error, message.task)
            case Retry():
                delay = max(0.0, seconds(ending.delay or 0.0, "the delay of a Retry"))
                outcome.state, outcome.retry_delay = states.RETRY, delay
                outcome.failure = Failure.of(ending.exc or ending, message.task)
                if ending.following is not None:
                    outcome.following = [ending.following]
            case Replaced():
                outcome.state, outcome.following = states.REPLACED, ending.following
            case TaskRevoked():
                outcome.state, outcome.failure = states.REVOKED, Failure.of(ending)
            case Ignore():
                outcome.state = states.IGNORED
            case Reject():
                outcome.rejected, outcome.requeue = True, bool(ending.requeue)
                outcome.failure = Failure.of(ending, message.task)
        return ending or error

    def _autoretry(self, request: Request | None, error: BaseException) -> Retry | None:
        """Return the retry that `retry(throw=False)` or `autoretry_for` makes of an exception; None if there is none.

        Whether an attempt is left, and when it is due, is not decided here.
        """
        if request is None:
            return None
        if request.asked is not None:
            return request.asked
        task = request.task
        return Retry(exc=error) if _is_retried(error, task.autoretry_for, task.dont_autoretry_for) else None

    def _outcome(self, message: Message, state: str, started: float, runtime: float) -> Outcome:
        return Outcome(id=message.id, task=message.task, state=state, attempt=message.attempt, worker=self._worker,
                       started_at=started, done_at=started + runtime, runtime=runtime, group_id=message.group_id,
                       parent_id=message.parent_id, root_id=message.root_id, reply_to=message.reply_to,
                       place=message.place)  # fmt: skip

    def _bare_request(self, message: Message) -> Request | None:
        """Return the request of a message whose arguments cannot be decoded; None if its task is not known here."""
        task = self._app.tasks.get(message.task)
        if task is None:
            return None
        return Request(message, task, [], {}, worker=self._worker, is_eager=self._is_eager)

    def _tell(self, request: Request, outcome: Outcome, returned: Any) -> None:
        """Call hooks and receivers. Those of a coroutine task may be coroutines, which `arun` awaits."""
        steps = tell(request, outcome, returned)
        if request.task.is_coroutine and current.get() is request:
            request.steps = steps
            return
        token = current.set(request)
        try:
            for step in steps:
                self._app.broker.complete(step)
        except Exception:  # a time limit passed meanwhile
            log.exception("The end of %s[%s] was told to a part of its hooks and receivers", request.name, request.id)
        finally:
            current.reset(token)


def compress_value(outcome: Outcome, name: str) -> None:
    """Compress a return value, if that makes it smaller."""
    if outcome.value is not None and len(outcome.value) >= COMPRESSED_FROM:
        smaller = compressor(name)(outcome.value)
        if len(smaller) < len(outcome.value):
            outcome.value, outcome.compression = smaller, name


def _asked_for(error: BaseException) -> ControlFlow | None:
    """Return the ending that a task has asked for by an exception, if it is one or a group has one in it."""
    left = [error]
    while left:
        one = left.pop()
        if isinstance(one, BaseExceptionGroup):  # as `asyncio.TaskGroup` raises it
            left += reversed(one.exceptions)
        elif isinstance(one, CONTROL_FLOW) and not one.of_another:
            return one
    return None


def _is_retried(error: BaseException, wanted: Types, unwanted: Types) -> bool:
    """Return whether the classes say that a task is retried after this.

    After a group, as `asyncio.TaskGroup` raises it, if it is for the group or for all that are in it, and none of them
    is unwanted.
    """
    left = [(error, wanted)]  # groups may be in groups, hundreds of levels deep
    while left:
        one, wanted = left.pop()
        if isinstance(one, unwanted):
            return False
        if isinstance(one, BaseExceptionGroup):
            within = (BaseException,) if isinstance(one, wanted) else wanted
            left += [(member, within) for member in one.exceptions]
        elif not isinstance(one, wanted):
            return False
    return True


def _not_awaited(task: str, coroutine: CoroutineType[Any, Any, Any]) -> EncodeError:
    coroutine.close()
    return EncodeError(
        f"{task} returned a coroutine, which nobody has awaited: await it there. If its function is `async def`, and a "
        "decorator above it is not, make the decorator's function `async def`, too."
    )


def _send_prerun(request: Request) -> None:
    task_prerun.send(request.task, task_id=request.id, task=request.task, args=request.args,
                             kwargs=request.kwargs)  # fmt: skip


def without_arguments(message: Message) -> MessageTooLarge:
    """Return the error of a message whose arguments were omitted, because the results in them are too large."""
    return MessageTooLarge(
        f"The results that {message.task} was to receive make a message of {message.omitted:,} bytes, more "
        "than `worker_message_max_bytes` allows. Store the data, and return its paths or keys instead."
    )


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
