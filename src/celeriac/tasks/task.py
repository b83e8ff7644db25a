"""A task: a registered function and its options. Calling it runs the function; `delay` sends a message.

`@app.task` makes one. Workers run its messages through `Executor`, which calls `Task.call`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, MethodType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar, Unpack, cast

from celeriac.errors import EncodeError, NotRegistered, UnknownOption
from celeriac.model.arguments import Arguments, args_of, kwargs_of
from celeriac.model.clock import Duration
from celeriac.model.message import COROUTINE, PLAIN, Message
from celeriac.model.options import CallOptions, check_class, check_task, rate
from celeriac.ports.complete import in_thread
from celeriac.tasks.custom_ids import afree_ids, free_ids
from celeriac.tasks.eager_result import EagerResult
from celeriac.tasks.hooks import HOOKS, after_before_start
from celeriac.tasks.message_template import MessageTemplate
from celeriac.tasks.on_commit import send_made, send_on_commit
from celeriac.tasks.overrides import OverridingTemplate, capturing
from celeriac.tasks.pickling import task_at
from celeriac.tasks.protocols import App, Template
from celeriac.tasks.request import Request
from celeriac.tasks.result import AsyncResult
from celeriac.tasks.running import RunningTask
from celeriac.tasks.sending_many import asend_batches, send_batches, send_each
from celeriac.tasks.signature import Signature
from celeriac.tasks.task_options import declare_options, given_options

__all__ = ["CoroutineTask", "Task", "Tasks"]

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

LINKS = frozenset({"link", "link_error"})  # options that contain calls of other tasks


class Tasks(dict[str, "Task[Any, Any]"]):
    """`app.tasks`: tasks by name. Looking up an unknown name raises `NotRegistered`, a `KeyError`."""

    def __missing__(self, name: str) -> Task[Any, Any]:
        raise NotRegistered(name, self)


class Task(RunningTask, Generic[P, R]):
    """A function that workers can run. Made by `@app.task`.

    A subclass (`@app.task(base=…)`) may set options as attributes, override hooks, `__call__` and `apply_async`; the
    options of the decorator override its own. A subclass with a method `run` is a task itself: `app.register_task`.
    """

    declared: ClassVar[dict[str, Any]] = {}
    early_options: Mapping[str, Any] = MappingProxyType({})  # set before it is registered
    is_registered: bool = False
    overrides_sending: bool = True  # while it is not registered

    if TYPE_CHECKING:
        queue: str
        priority: int
        expires: Duration | None
        serializer: str
        acks_late: bool
        ignore_result: bool
        track_started: bool
        soft_time_limit: Duration | None
        time_limit: Duration | None
        rate_limit: str | float | None
        max_retries: int | None
        default_retry_delay: Duration | None

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        declare_options(cls)

    def __init__(self, app: App | None = None, function: Callable[..., Any] | None = None, name: str = "",
                 options: Mapping[str, Any] = MappingProxyType({}), bind: bool = False) -> None:  # fmt: skip
        if app is not None and function is not None:
            self.attach(app, function, name, options, bind)

    def attach(self, app: App, function: Callable[..., Any], name: str, options: Mapping[str, Any], bind: bool,
               source: Any = None) -> None:  # fmt: skip
        """Become the task of a function in an app. Called once, when the task is registered.

        `source` has the names and the docstring of the task, if not the function.
        """
        kind, source = type(self), source or function
        check_class(kind)
        options = check_task({**given_options(self), **options})
        self.app = app
        self.name = name
        self.function = function
        self.bind = bind
        self.options = options
        self.is_registered = True
        self.run = MethodType(function, self) if bind else function  # type: ignore[method-assign]
        self.body: Callable[..., Any] = self if kind.__call__ is not Task.__call__ else self.run
        self.is_coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(kind.__call__)
        self.lane = COROUTINE if self.is_coroutine else PLAIN
        self.arguments = Arguments(function, name, bind)
        self.hooks = frozenset(hook for hook in HOOKS if getattr(kind, hook) is not getattr(RunningTask, hook))
        if "before_start" in self.hooks:
            self.body = after_before_start(self, self.body)
        self._notice_overrides()
        self.__name__ = getattr(source, "__name__", name)
        self.__qualname__ = getattr(source, "__qualname__", name)
        self.__module__ = source.__module__
        self.__doc__ = source.__doc__
        self.__wrapped__ = function
        self.options_changed()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "apply_async":
            self._notice_overrides()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name == "apply_async":
            self._notice_overrides()

    def _notice_overrides(self) -> None:
        """Find out whether `apply_async` or `delay` is not ours: overridden by the class, or replaced in a test."""
        ours = getattr(self.apply_async, "__func__", None) is Task.apply_async and type(self).delay is Task.delay
        self.overrides_sending = not ours

    def options_changed(self) -> None:
        """Derive what depends on the options."""
        self.checks_arguments = self.options.get("typing", True)
        self.configuration_changed()

    def configuration_changed(self) -> None:
        """Drop what was derived from the configuration."""
        self._template: MessageTemplate | None = None
        self._retry_policy = None

    # --- Running in this process ----------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function in this process, like any function."""
        return cast(R, self.run(*args, **kwargs))

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, like any function. A task class may define it, in place of a decorated function."""
        raise NotImplementedError(f"{type(self).__qualname__} has no method `run`, and is the task of no function.")

    def call(self, request: Request) -> Any:
        """Call the function for an attempt. `Executor` calls this; a subclass may override it."""
        return self.body(*request.args, **request.kwargs)

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
        if self.overrides_sending:
            return self.apply_async(args, kwargs)
        message = self._checked_message(args, kwargs)
        return self._result_of(message) if self.app.publish([message]) else self.run_eagerly(message)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Coroutine version of `delay`."""
        if self.overrides_sending:
            if type(self).delay is not Task.delay:
                return await in_thread(self.delay, *args, **kwargs)
            return await self.aapply_async(args, kwargs)
        message = self._checked_message(args, kwargs)
        return self._result_of(message) if await self.app.apublish([message]) else self.run_eagerly(message)

    def apply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                    **options: Unpack[CallOptions]) -> AsyncResult[R]:  # fmt: skip
        """Send a message, with options: `add.apply_async((2, 2), queue="math", countdown=10)`."""
        if self.overrides_sending and (captured := self._captured(args, kwargs, options)) is not None:
            return self._result_of(captured)
        if options.get("link") is not None and self.s().leads_on(options):
            return self.s().apply_async(args, kwargs, **options)
        message = self._checked_message(args_of(args), kwargs_of(kwargs), options)
        if options.get("task_id") is not None and not self.app.conf.task_always_eager:
            free_ids(self.app, [message.id])
        return self._result_of(message) if self.app.publish([message]) else self.run_eagerly(message)

    async def aapply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                           **options: Unpack[CallOptions]) -> AsyncResult[R]:  # fmt: skip
        """Coroutine version of `apply_async`. It runs an override of that in a thread, unless it is overridden too."""
        if self.overrides_sending and type(self).aapply_async is Task.aapply_async:
            return await in_thread(self.apply_async, args, kwargs, **options)
        if options.get("link") is not None and self.s().leads_on(options):
            return await self.s().aapply_async(args, kwargs, **options)
        message = self._checked_message(args_of(args), kwargs_of(kwargs), options)
        if options.get("task_id") is not None and not self.app.conf.task_always_eager:
            await afree_ids(self.app, [message.id])
        return self._result_of(message) if await self.app.apublish([message]) else self.run_eagerly(message)

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send a message when the transaction of Django's default database commits; see `apply_async_on_commit`."""
        return self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *,
                              using: str | None = None, robust: bool = False,
                              **options: Unpack[CallOptions]) -> AsyncResult[R]:  # fmt: skip
        """Send a message when the transaction of the database `using` commits: at once, if there is none.

        The arguments are checked and encoded now, and the result is returned now. If the transaction is rolled back,
        nothing is sent. With `robust`, an error of sending is logged and not raised by the commit.
        """
        if self.overrides_sending or (options.get("link") is not None and self.s().leads_on(options)):
            args, kwargs, id = args_of(args), kwargs_of(kwargs), options.pop("task_id", None)
            if self.checks_arguments:
                self.arguments.check(args, kwargs)
            rest: dict[str, Any] = {**options}
            return send_on_commit(
                self, id, lambda id: self.apply_async(args, kwargs, task_id=id, **rest), using, robust
            )
        message = self._checked_message(args_of(args), kwargs_of(kwargs), options)
        return send_made(self, message, options, using, robust)

    def delay_many(self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]],
                   **options: Unpack[CallOptions]) -> Sequence[AsyncResult[R]]:  # fmt: skip
        """Send many messages in batches; each call is a tuple of arguments, or a dict of named ones.

        The arguments of a list of calls are checked before the first is sent; those of an iterator are checked, and all
        are encoded, a thousand at a time. An exception after some were sent has their results in its attribute `sent`.
        """
        if self.overrides_sending:
            return self._send_each(calls, options)
        batches = self._batches(calls, options)
        return self._run_all_eagerly(batches) if self.app.conf.task_always_eager else send_batches(self, batches)

    async def adelay_many(self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]],
                          **options: Unpack[CallOptions]) -> Sequence[AsyncResult[R]]:  # fmt: skip
        """Coroutine version of `delay_many`."""
        if self.overrides_sending:
            return await in_thread(self._send_each, calls, options)
        batches = self._batches(calls, options)
        if self.app.conf.task_always_eager:
            return self._run_all_eagerly(batches)
        return await asend_batches(self, batches)

    def _batches(self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]],
                 options: Mapping[str, Any]) -> Iterator[list[Message]]:  # fmt: skip
        return self.message_template().batches(calls, options, self.arguments if self.checks_arguments else None)

    def _run_all_eagerly(self, batches: Iterable[list[Message]]) -> list[AsyncResult[R]]:
        return [self.run_eagerly(message) for messages in batches for message in messages]

    def _send_each(self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]],
                   options: CallOptions) -> list[AsyncResult[R]]:  # fmt: skip
        """Send calls one by one, by the `apply_async` (or `delay`) of the task's class."""
        if options.get("task_id") is not None:
            raise UnknownOption("task_id applies to a single call; each of many calls gets its own id.")
        by_delay = type(self).delay is not Task.delay and not options

        def send(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncResult[R]:
            return self.delay(*args, **kwargs) if by_delay else self.apply_async(args, kwargs, **options)

        return send_each(send, calls, self.arguments if self.checks_arguments else None)

    def _captured(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None,
                  options: Mapping[str, Any]) -> Message | None:  # fmt: skip
        """Return the message of a call that a workflow captures, or None if this is not such a call."""
        template = capturing.get()
        if template is None or template.task is not self:
            return None
        message = self.message_template().message(args_of(args), kwargs_of(kwargs), options)
        template.made.append(message)
        return message

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
            self._template = MessageTemplate(self.app, self.name, self.options, self.lane, self.arguments)
        return self._template

    def workflow_template(self) -> Template:
        """Return what makes the messages of this task in workflows."""
        if type(self).apply_async is not Task.apply_async:
            return OverridingTemplate(self)
        return self.message_template()

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

    @property
    def rate(self) -> float | None:
        """How many attempts a worker may start per second, or None for no limit."""
        limit = self.options.get("rate_limit", self.app.conf.task_default_rate_limit)
        return rate(limit) if limit else None

    def __reduce__(self) -> tuple[Any, ...]:
        return task_at, (self.app, self.name, self.__module__)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


declare_options(Task)


class CoroutineTask(Task[P, R]):
    """A task whose function is a coroutine function. Calling it returns the coroutine."""

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            """Call the function in this process. Await what it returns."""
