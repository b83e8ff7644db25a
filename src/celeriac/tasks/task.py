"""A task: a registered function and its options. Calling it runs the function; `delay` sends a message.

`@app.task` makes one. Workers run its messages through `Executor`, which calls `Task.call`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, Unpack, cast

import msgspec

from celeriac import states
from celeriac.errors import CeleriacError, EncodeError, MaxRetriesExceeded, NotRegistered, Replaced, Retry
from celeriac.model.arguments import Arguments, args_of, kwargs_of
from celeriac.model.clock import Duration, instant, seconds
from celeriac.model.message import COROUTINE, PLAIN, Message
from celeriac.model.options import CallOptions, check_task, declared, rate, text
from celeriac.model.retry import RetryPolicy
from celeriac.model.serialization import dumps
from celeriac.tasks.custom_ids import afree_ids, free_ids
from celeriac.tasks.execution import Request, current
from celeriac.tasks.message_template import MessageTemplate
from celeriac.tasks.pickling import task_at
from celeriac.tasks.protocols import App
from celeriac.tasks.result import AsyncResult, EagerResult
from celeriac.tasks.results import Results
from celeriac.tasks.signature import Signature

__all__ = ["CoroutineTask", "Task", "Tasks"]

P = ParamSpec("P")
R = TypeVar("R")

RESERVED_STATES = states.READY_STATES | {states.RETRY, states.REPLACED}  # `update_state` refuses them
LINKS = frozenset({"link", "link_error"})  # options that contain calls of other tasks


class Tasks(dict[str, "Task[Any, Any]"]):
    """`app.tasks`: tasks by name. Looking up an unknown name raises `NotRegistered`, a `KeyError`."""

    def __missing__(self, name: str) -> Task[Any, Any]:
        raise NotRegistered(name, self)


class Task(Generic[P, R]):
    """A function that workers can run. Made by `@app.task`.

    A subclass (`@app.task(base=…)`) may set options as attributes; the options of the decorator override them.
    """

    def __init__(self, app: App, function: Callable[..., Any], name: str, options: Mapping[str, Any],
                 bind: bool = False) -> None:  # fmt: skip
        self.app = app
        self.name = name
        self.function = function
        self.bind = bind
        self.options = check_task({**declared(type(self), Task), **options})
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.lane = COROUTINE if self.is_coroutine else PLAIN
        self.arguments = Arguments(function, name, bind)
        self.checks_arguments: bool = self.options.get("typing", True)
        self.autoretry_for: tuple[type[BaseException], ...] = self.options.get("autoretry_for", ())
        self.dont_autoretry_for: tuple[type[BaseException], ...] = self.options.get("dont_autoretry_for", ())
        self._template: MessageTemplate | None = None
        self._retry_policy: RetryPolicy | None = None
        self.__name__ = getattr(function, "__name__", name)
        self.__qualname__ = getattr(function, "__qualname__", name)
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    # --- Running in this process ----------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function in this process, like any function."""
        return cast(R, self.function(self, *args, **kwargs) if self.bind else self.function(*args, **kwargs))

    def call(self, request: Request) -> Any:
        """Call the function for an attempt. `Executor` calls this; a subclass may override it."""
        if self.bind:
            return self.function(self, *request.args, **request.kwargs)
        return self.function(*request.args, **request.kwargs)

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
              **options: Unpack[CallOptions]) -> AsyncResult[R]:  # fmt: skip
        """Run the task in this process, with its retries but without their delays, and return its result.

        Arguments and result are encoded and decoded, as for a task that is sent.
        """
        if options.get("link") is not None and self.s().leads_on(options):
            return self.s().apply(args, kwargs, **options)
        return self.run_eagerly(self._checked_message(args_of(args), kwargs_of(kwargs), options))

    def run_eagerly(self, message: Message) -> AsyncResult[R]:
        """Run a message of this task in this process, and return its result."""
        result: EagerResult[R] = EagerResult(self.app.workflows.run_message(message), self.app)
        if self.app.conf.task_eager_propagates:
            result.get()
        return result

    # --- Sending --------------------------------------------------------------------------------------

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send a message that calls the function with these arguments."""
        message = self._checked_message(args, kwargs)
        return self._result_of(message) if self.app.publish([message]) else self.run_eagerly(message)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Coroutine version of `delay`."""
        message = self._checked_message(args, kwargs)
        return self._result_of(message) if await self.app.apublish([message]) else self.run_eagerly(message)

    def apply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                    **options: Unpack[CallOptions]) -> AsyncResult[R]:  # fmt: skip
        """Send a message, with options: `add.apply_async((2, 2), queue="math", countdown=10)`."""
        if options.get("link") is not None and self.s().leads_on(options):
            return self.s().apply_async(args, kwargs, **options)
        message = self._checked_message(args_of(args), kwargs_of(kwargs), options)
        if options.get("task_id") is not None and not self.app.conf.task_always_eager:
            free_ids(self.app, [message.id])
        return self._result_of(message) if self.app.publish([message]) else self.run_eagerly(message)

    async def aapply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                           **options: Unpack[CallOptions]) -> AsyncResult[R]:  # fmt: skip
        """Coroutine version of `apply_async`."""
        if options.get("link") is not None and self.s().leads_on(options):
            return await self.s().aapply_async(args, kwargs, **options)
        message = self._checked_message(args_of(args), kwargs_of(kwargs), options)
        if options.get("task_id") is not None and not self.app.conf.task_always_eager:
            await afree_ids(self.app, [message.id])
        return self._result_of(message) if await self.app.apublish([message]) else self.run_eagerly(message)

    def delay_many(self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]],
                   **options: Unpack[CallOptions]) -> Sequence[AsyncResult[R]]:  # fmt: skip
        """Send many messages in batches; each call is a tuple of arguments, or a dict of named ones.

        The arguments of a list of calls are checked before the first is sent; those of an iterator are checked, and all
        are encoded, a thousand at a time. An exception after some were sent has their results in its attribute `sent`.
        """
        if self.app.conf.task_always_eager:
            return self._run_all_eagerly(calls, options)
        results: Results[R] = Results(self.app, self.name)
        try:
            for messages in self._batches(calls, options):
                self.app.publish(messages)
                results.add(messages)
        except Exception as error:
            _attach_sent(error, results)
            raise
        return results

    async def adelay_many(self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]],
                          **options: Unpack[CallOptions]) -> Sequence[AsyncResult[R]]:  # fmt: skip
        """Coroutine version of `delay_many`."""
        if self.app.conf.task_always_eager:
            return self._run_all_eagerly(calls, options)
        results: Results[R] = Results(self.app, self.name)
        try:
            for messages in self._batches(calls, options):
                await self.app.apublish(messages)
                results.add(messages)
        except Exception as error:
            _attach_sent(error, results)
            raise
        return results

    def _run_all_eagerly(self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]],
                         options: Mapping[str, Any]) -> list[AsyncResult[R]]:  # fmt: skip
        return [self.run_eagerly(message) for messages in self._batches(calls, options) for message in messages]

    def _batches(self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]],
                 options: Mapping[str, Any]) -> Iterator[list[Message]]:  # fmt: skip
        return self.message_template().batches(calls, options, self.arguments if self.checks_arguments else None)

    def _checked_message(self, args: tuple[Any, ...], kwargs: dict[str, Any],
                         options: Mapping[str, Any] | None = None) -> Message:  # fmt: skip
        if self.checks_arguments:
            self.arguments.check(args, kwargs)
        try:
            return self.message_template().message(args, kwargs, options)
        except EncodeError as error:
            if options and not LINKS.isdisjoint(options):
                raise  # the argument may be one of a linked task
            raise self.arguments.with_name(error, args, kwargs) from error.__cause__

    def _result_of(self, message: Message) -> AsyncResult[R]:
        return AsyncResult(message.id, self.app, self.name, message.ignore_result)

    def message_template(self) -> MessageTemplate:
        """Return the template of this task's messages, made on the first call."""
        if self._template is None:
            self.arguments.prepare()
            self._template = MessageTemplate(self.app, self.name, self.options, self.lane)
        return self._template

    def configuration_changed(self) -> None:
        """Drop what was derived from the configuration."""
        self._template = self._retry_policy = None

    # --- Signatures -----------------------------------------------------------------------------------

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """Return a signature. It may be partial: arguments that are missing can be given later."""
        return Signature(self.app, self.name, args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """Return an immutable signature, which ignores further arguments."""
        return Signature(self.app, self.name, args, kwargs, immutable=True)

    def signature(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *,
                  immutable: bool = False, **options: Any) -> Signature[R]:  # fmt: skip
        """Return a signature with options."""
        return Signature(self.app, self.name, args, kwargs, options, immutable)

    subtask = signature

    def map(self, items: Iterable[Any]) -> Signature[list[R]]:
        """Return one call that runs this task for each item in sequence; its result is a list."""
        made: Signature[list[R]] = self.app.canvas.xmap(self, items)
        return made

    def starmap(self, items: Iterable[Iterable[Any]]) -> Signature[list[R]]:
        """Like `map`, but each item holds the arguments of a call."""
        made: Signature[list[R]] = self.app.canvas.xstarmap(self, items)
        return made

    def chunks(self, items: Iterable[Iterable[Any]], size: int) -> Any:
        """Return a group of `starmap` calls with up to `size` items each."""
        return self.app.canvas.chunks(self, items, size)

    def AsyncResult(self, id: str) -> AsyncResult[R]:  # noqa: N802 - Celery's name
        """Return the result of an earlier call by its id."""
        return AsyncResult(id, self.app, self.name)

    # --- In the running task --------------------------------------------------------------------------

    @property
    def request(self) -> Request:
        """The attempt that is running. Raises `CeleriacError` outside a task."""
        request = current.get()
        if request is None:
            raise CeleriacError(f"{self.name} is not running as a task, so it has no request. "
                                "Call it with .delay(), or .apply() in a test.")  # fmt: skip
        return request

    def retry(self, *, exc: BaseException | None = None, countdown: Duration | None = None,
              eta: datetime | None = None, max_retries: int | None = None) -> NoReturn:  # fmt: skip
        """End this attempt and schedule the next.

        Always raises: `Retry`, or if no attempt is left, `exc`, else the exception being handled, else
        `MaxRetriesExceeded`.
        """
        request = self.request
        exc = exc or sys.exc_info()[1]
        policy = self.retry_policy(request.message)
        if max_retries is not None:
            policy = msgspec.structs.replace(policy, max_retries=max_retries)
        if not policy.allows(request.attempt):
            if exc is not None:
                raise exc
            raise MaxRetriesExceeded(f"{self.name}[{request.id}] was retried {request.retries} times, its maximum.")
        if eta is not None:
            delay = max(0.0, instant(eta, "eta") - self.app.clock.now())
        elif countdown is not None:
            delay = seconds(countdown, "countdown")
        else:
            delay = policy.delay_after(request.attempt)
        raise Retry(str(exc) if exc is not None else f"{self.name} asked for a retry", exc=exc, delay=delay)

    def replace(self, part: Any) -> NoReturn:
        """End this attempt, and run a signature or a workflow instead of this task: its result becomes the task's.

        Always raises. Callers and tasks that wait for this task wait for the replacement. As for `retry`, sending it
        and ending the attempt are one atomic step.
        """
        raise Replaced(self.app.workflows.replacement(self.request, part))

    def progress(self, done: float, total: float | None = None, **more: Any) -> None:
        """Report progress: `result.info` becomes `{"done": …, "total": …, **more}`."""
        self.update_state(states.PROGRESS, {"done": done, "total": total, **more})

    def update_state(self, state: str, meta: Any = None) -> None:
        """Set a custom state. `meta`, which must be serialisable, becomes `result.info`."""
        if text(state, "state") in RESERVED_STATES:
            raise ValueError(f"Only Celeriac sets the state {state!r}. Return or raise instead, or use another name.")
        request = self.request
        if request.report is not None:
            request.report(request.message, state, meta)
        else:
            dumps(meta)  # raises what it would raise in a worker

    def retry_policy(self, message: Message) -> RetryPolicy:
        """Return how often and when an attempt of a message is retried."""
        if self._retry_policy is None:
            self._retry_policy = RetryPolicy.of(self.options, self.app.conf.task_max_retries)
        if message.max_retries is not None:
            return msgspec.structs.replace(self._retry_policy, max_retries=message.max_retries)
        return self._retry_policy

    @property
    def rate(self) -> float | None:
        """How many attempts a worker may start per second, or None for no limit."""
        limit = self.options.get("rate_limit", self.app.conf.task_default_rate_limit)
        return rate(limit) if limit else None

    def __reduce__(self) -> tuple[Any, ...]:
        return task_at, (self.app, self.name, self.__module__)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class CoroutineTask(Task[P, R]):
    """A task whose function is a coroutine function. Calling it returns the coroutine."""

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            """Call the function in this process. Await what it returns."""


def _attach_sent(error: Exception, results: Results[Any]) -> None:
    """Give an error the results of the calls that were sent before it."""
    if results.ids:
        error.sent = results  # type: ignore[attr-defined]
        error.add_note(f"{len(results):,} calls were sent before this error; `error.sent` has their results.")
