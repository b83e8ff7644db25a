"""What a task does from inside its function (`self.request`, `self.retry` …), and the hooks of its class."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Unpack, cast, overload

import msgspec

from celeriac import states
from celeriac.errors import CeleriacError, EncodeError, MaxRetriesExceeded, Replaced, Retry
from celeriac.model.arguments import Arguments, args_of, kwargs_of
from celeriac.model.clock import Duration, instant, seconds
from celeriac.model.message import Message
from celeriac.model.options import RetryOptions, count, text
from celeriac.model.retry import RetryPolicy, exhausted
from celeriac.model.serialization import decode, dumps
from celeriac.tasks.execution import error_callback_count
from celeriac.tasks.hooks import ExceptionInfo
from celeriac.tasks.protocols import AnyTask, App
from celeriac.tasks.request import DirectRequest, Request, current

if TYPE_CHECKING:
    from celeriac.tasks.message_template import MessageTemplate

__all__ = ["RunningTask"]

RESERVED_STATES = states.READY_STATES | {states.RETRY, states.REPLACED}  # `update_state` refuses them


class RunningTask:
    """A task as its function sees it. `Task` adds what callers need."""

    app: App
    name: str = ""
    options: dict[str, Any]
    arguments: Arguments
    checks_arguments: bool
    lane: str
    is_coroutine: bool
    hooks: frozenset[str]
    autoretry_for: tuple[type[BaseException], ...]
    dont_autoretry_for: tuple[type[BaseException], ...]
    _retry_policy: RetryPolicy | None = None

    if TYPE_CHECKING:

        def message_template(self) -> MessageTemplate:
            """Return the template of this task's messages. See `Task`."""

    MaxRetriesExceededError = MaxRetriesExceeded
    """The error of `retry` when no attempt is left, under Celery's name."""

    @property
    def request(self) -> Request:
        """The attempt of this task that is running; if there is none, a request with `called_directly`."""
        request, me = current.get(), cast(AnyTask, self)
        return request if request is not None and request.task is me else DirectRequest(me)

    @overload
    def retry(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None,
              exc: BaseException | None = None, throw: Literal[True] = True, eta: datetime | None = None,
              countdown: Duration | None = None, max_retries: int | None = None,
              **options: Unpack[RetryOptions]) -> NoReturn: ...  # fmt: skip

    @overload
    def retry(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None,
              exc: BaseException | None = None, *, throw: Literal[False], eta: datetime | None = None,
              countdown: Duration | None = None, max_retries: int | None = None,
              **options: Unpack[RetryOptions]) -> Retry: ...  # fmt: skip

    def retry(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None,
              exc: BaseException | None = None, throw: bool = True, eta: datetime | None = None,
              countdown: Duration | None = None, max_retries: int | None = None,
              **options: Unpack[RetryOptions]) -> Retry:  # fmt: skip
        """End this attempt and schedule the next, with the same call unless `args`, `kwargs` or `options` change it.

        Raises `Retry`, or if no attempt is left, `exc`, else the exception being handled, else `MaxRetriesExceeded`.
        With `throw=False` it returns the `Retry`, and the function goes on: however it ends, the next attempt follows.
        In a function that was called directly it raises `exc`, or the exception being handled.
        """
        request = self.request
        if exc is None:
            exc = sys.exc_info()[1]
        elif not isinstance(exc, BaseException):
            raise TypeError(f"exc must be an exception, not {exc!r}")
        if request.called_directly:
            raise exc if exc is not None else Retry(f"{self.name} asked for a retry, but was called directly")
        policy = self.retry_policy(request.message)
        if max_retries is not None:
            policy = msgspec.structs.replace(policy, max_retries=count(max_retries, "max_retries"))
        if not policy.allows(request.attempt):
            if exc is not None:
                raise exc
            raise exhausted(self.name, request.message.id, request.attempt)
        if eta is not None:
            delay = max(0.0, instant(eta, "eta") - self.app.clock.now())
        elif countdown is not None:
            delay = max(0.0, seconds(countdown, "countdown"))
        else:
            delay = policy.delay_after(request.attempt)
        following = None
        if args is not None or kwargs is not None or options:
            try:
                following = self._next_message(request.message, args, kwargs, options)
            except Exception as error:
                raise error from exc  # which is why the task wanted a retry
        why = str(exc) if exc is not None else f"{self.name} asked for a retry"
        retry = Retry(why, exc=exc, delay=delay, following=following)
        retry.is_allowed = True
        if throw:
            raise retry
        request.asked = retry
        return retry

    def _next_message(self, message: Message, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None,
                      options: RetryOptions) -> Message:  # fmt: skip
        """Return the message of the next attempt, whose call or options differ."""
        call = None
        if args is not None or kwargs is not None or "serializer" in options:
            old = decode(message.content_type, message.body, self.app.conf.accept_content)
            before = 0 if message.failed is None else error_callback_count(cast(AnyTask, self), len(old[0]))
            call = self.arguments.changed(
                old, None if args is None else args_of(args), None if kwargs is None else kwargs_of(kwargs), before
            )
            if self.checks_arguments:
                self.arguments.check((*[None] * before, *call[0]), call[1])
        return self.message_template().next_attempt(message, options, call)

    def replace(self, part: Any) -> NoReturn:
        """End this attempt, and run a signature or a workflow instead of this task: its result becomes the task's.

        Raises, unless the task's class overrides `on_replace`. Callers and tasks that wait for this task wait for the
        replacement. As for `retry`, sending it and ending the attempt are one atomic step.
        """
        if self.request.called_directly:
            raise CeleriacError(f"{self.name} was called directly, so there is no task to replace. "
                                "In a test, run it with .apply().")  # fmt: skip
        return self.on_replace(part)  # type: ignore[misc]

    def on_replace(self, sig: Any) -> Any:
        """Replace the task. An override must return `super().on_replace(sig)`, which raises."""
        raise Replaced(self.app.workflows.replacement(self.request, sig))

    def progress(self, done: float, total: float | None = None, **more: Any) -> None:
        """Report progress: `result.info` becomes `{"done": …, "total": …, **more}`."""
        self.update_state(states.PROGRESS, {"done": done, "total": total, **more})

    def update_state(self, state: str, meta: Any = None, *, task_id: str | None = None) -> None:
        """Set a custom state. `meta`, which must be serialisable, becomes `result.info`.

        Raises `EncodeError` if it is not, or is larger than `result_max_bytes`. In a function that was called
        directly, it only checks them. `task_id` may be that of this task alone.
        """
        request = self.request
        if text(state, "state") in RESERVED_STATES:
            raise ValueError(f"Only Celeriac sets the state {state!r}. Return or raise instead, or use another name.")
        if request.id is not None and (state == request.id or task_id not in (None, request.id)):
            raise ValueError(f"A task sets its own state alone: self.update_state({state!r}, meta), without an id.")
        value = None if meta is None else dumps(meta)
        if request.called_directly:
            return
        most = self.app.conf.result_max_bytes
        if value is not None and len(value) > most:
            raise EncodeError(f"{self.name} sets a state with {len(value):,} bytes, more than `result_max_bytes` "
                              f"allows ({most:,}). Store the data, and set its path or key.")  # fmt: skip
        if request.report is not None:
            request.report(request.message, state, value)

    def retry_policy(self, message: Message) -> RetryPolicy:
        """Return how often and when an attempt of a message is retried."""
        if self._retry_policy is None:
            self._retry_policy = RetryPolicy.of(self.options, self.app.conf.task_max_retries)
        if message.max_retries is not None:
            return msgspec.structs.replace(self._retry_policy, max_retries=message.max_retries)
        return self._retry_policy

    # --- Hooks, for subclasses. They are plain or `async def`. What one raises is logged --------------------

    def before_start(self, task_id: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Called before the function, as a part of it: what it raises ends the attempt."""

    def on_success(self, retval: Any, task_id: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Called when the function has returned, and its value can be sent."""

    def on_failure(self, exc: BaseException, task_id: str, args: list[Any], kwargs: dict[str, Any],
                   einfo: ExceptionInfo) -> Any:  # fmt: skip
        """Called when the task has failed for good. `str(einfo)` is the traceback."""

    def on_retry(self, exc: BaseException, task_id: str, args: list[Any], kwargs: dict[str, Any],
                 einfo: ExceptionInfo) -> Any:  # fmt: skip
        """Called when the attempt has failed and another follows."""

    def after_return(self, status: str, retval: Any, task_id: str, args: list[Any], kwargs: dict[str, Any],
                     einfo: ExceptionInfo | None) -> Any:  # fmt: skip
        """Called after the others, when the task has ended; `retval` is what it returned or raised."""
