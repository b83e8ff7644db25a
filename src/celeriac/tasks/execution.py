"""Running one attempt: a message goes in, an `Outcome` comes out, whatever the task does.

    decode → rebuild → call → encode

Every ending of the user's function becomes an outcome here, `SystemExit` and `MemoryError` included. What this cannot
see (a killed child, a time limit that had to be enforced from outside) becomes an outcome in the worker's pool. Called
by the worker's children, and by `Task.apply`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celeriac import signals, states
from celeriac.errors import EncodeError, Ignore, Reject, Replaced, Retry, TaskRevoked
from celeriac.model.clock import seconds
from celeriac.model.failure import Failure
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import JSON, decode, serializer
from celeriac.tasks.context import Request, current
from celeriac.tasks.error_callback import told
from celeriac.tasks.protocols import App

__all__ = ["Executor"]

log = logging.getLogger("celeriac.tasks.execution")

CONTROL_FLOW = (Retry, Replaced, TaskRevoked, Ignore, Reject)
"""What is raised to say how the attempt is to end, and is no failure."""

Report = Callable[[Message, str, Any], None]


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
        """Run a plain task."""
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
        """Run a coroutine task. `drive` may wrap the coroutine, to interrupt it from outside."""
        started, clock = time.time(), time.perf_counter()
        request = None
        try:
            request = self._prepare(message, deliveries, started)
            current.set(request)  # this asyncio task's own context
            coroutine = request.task.call(request)
            value = await (drive(coroutine) if drive is not None else coroutine)
        except BaseException as error:  # noqa: BLE001 - every ending is an outcome
            return self._raised(message, request, error, started, time.perf_counter() - clock)
        return self._returned(message, request, value, started, time.perf_counter() - clock)

    def run_any(self, message: Message, deliveries: int = 1) -> Outcome:
        """Run a task of either lane to its end, here and now."""
        task = self._app.tasks.get(message.task)
        if task is not None and task.is_coroutine:
            return self._app.broker.complete(self.arun(message, deliveries))
        return self.run(message, deliveries)

    # --- The steps ------------------------------------------------------------------------------------

    def _prepare(self, message: Message, deliveries: int, started: float) -> Request:
        task = self._app.tasks.get(message.task) or self._app.known_task(message.task)
        args, kwargs = decode(message.content_type, message.body, self._accept)
        if message.failed is not None:
            args = [*told(message.failed, task, args), *args]
        args, kwargs = task.arguments.rebuild(args, kwargs)
        report = None if message.ignore_result else self._report  # a success will not be kept, and could not follow
        request = Request(message, task, args, kwargs, deliveries=deliveries, worker=self._worker,
                          is_eager=self._is_eager, started=started, report=report,
                          outer=current.get() if self._is_eager else None)  # fmt: skip
        if message.track_started and report is not None:
            report(message, states.STARTED, None)
        if signals.task_prerun:
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
            if signals.task_success:
                signals.task_success.send(request.task, task_id=message.id, result=value)
            return self._ended(request, outcome)
        except BaseException as error:  # noqa: BLE001 - a time limit, or a property of the user's own
            if isinstance(error, EncodeError):
                error = error.within(f"The return value of {message.task}", 0)
            return self._raised(message, request, error, started, runtime)

    def _raised(self, message: Message, request: Request | None, error: BaseException, started: float,
                runtime: float) -> Outcome:  # fmt: skip
        outcome = self._outcome(message, states.FAILURE, started, runtime)
        try:
            self._judge(outcome, message, request, error)
            return self._ended(request, outcome)
        except BaseException as escaped:
            log.exception("%s[%s] has failed: what it raised could not be dealt with", message.task, message.id)
            outcome = self._outcome(message, states.FAILURE, started, runtime)
            if isinstance(escaped, TaskRevoked):  # terminated, in a thread, at this very moment
                outcome.state = states.REVOKED
            outcome.failure = Failure.of(escaped)
            return outcome

    def _judge(self, outcome: Outcome, message: Message, request: Request | None, error: BaseException) -> None:
        """Say in an outcome what an exception makes of the attempt: what it asks for, another attempt, or a failure."""
        steers = isinstance(error, CONTROL_FLOW) and not error.of_another
        asked = error if steers else self._autoretry(message, request, error)
        task = request.task if request is not None else None
        match asked:
            case None:
                outcome.failure = Failure.of(error)
                if signals.task_failure and request is not None:
                    signals.task_failure.send(task, task_id=message.id, exception=error, args=request.args,
                                              kwargs=request.kwargs)  # fmt: skip
            case Retry():
                outcome.state, outcome.retry_delay = states.RETRY, seconds(asked.delay, "the delay of a Retry")
                outcome.failure = Failure.of(asked.exc or asked)
                signals.task_retry.send(task, task_id=message.id, exception=asked.exc, delay=asked.delay)
            case Replaced():
                outcome.state, outcome.following = states.REPLACED, asked.following
            case TaskRevoked():
                outcome.state, outcome.failure = states.REVOKED, Failure.of(asked)
            case Ignore():
                outcome.state = states.IGNORED
            case Reject():
                outcome.rejected, outcome.requeue, outcome.failure = True, bool(asked.requeue), Failure.of(asked)

    def _autoretry(self, message: Message, request: Request | None, error: BaseException) -> Retry | None:
        """Return the retry that `autoretry_for` makes of an exception; None for no more."""
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
        if signals.task_postrun and request is not None:
            signals.task_postrun.send(request.task, task_id=outcome.id, args=request.args, kwargs=request.kwargs,
                                      outcome=outcome)  # fmt: skip
        return outcome
