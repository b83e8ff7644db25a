"""The app: the configuration, the tasks, and the broker and backend that the configuration names.

`Celeriac` is the object that users make. Tasks, signatures, results, workflows and the worker hold it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack

from celeriac.app.builtin_tasks import BuiltinTasks
from celeriac.app.connections import (
    file_url,
    history_of,
    needs_notices,
    open_backend,
    open_broker,
    sends_notices,
    sends_outcomes,
)
from celeriac.app.registering import MAIN
from celeriac.app.scheduling import Scheduling
from celeriac.errors import ArgumentsError, NotRegistered
from celeriac.lazy import LazyModule
from celeriac.model.arguments import args_of, kwargs_of
from celeriac.model.clock import Clock
from celeriac.model.masks import masked
from celeriac.model.message import Message
from celeriac.model.options import CallOptions, text
from celeriac.ports.complete import in_thread
from celeriac.signals import SetupSignal, after_task_publish, before_task_publish
from celeriac.tasks import shared
from celeriac.tasks.builtin_names import MAIL
from celeriac.tasks.custom_ids import afree_ids, free_ids
from celeriac.tasks.message_template import MessageTemplate
from celeriac.tasks.pickling import address_of, app_at
from celeriac.tasks.protocols import Template
from celeriac.tasks.result import AsyncResult
from celeriac.tasks.signature import Signature
from celeriac.tasks.task import Task
from celeriac.tasks.tracing import Sending, Tracing

if TYPE_CHECKING:
    from celeriac.app import control as app_control
    from celeriac.app import notices
    from celeriac.app.control import Control
    from celeriac.canvas import functions as canvas_functions
    from celeriac.canvas import map as canvas_map
    from celeriac.canvas import workflows as canvas_workflows
    from celeriac.canvas.group_result import GroupResult
    from celeriac.canvas.workflow import Workflow
    from celeriac.canvas.workflows import Workflows
    from celeriac.mail import tasks as mailing
    from celeriac.ports import delays
    from celeriac.ports.backend import Backend
    from celeriac.ports.broker import Broker
    from celeriac.ports.history import History
    from celeriac.tasks import publish_signals
else:  # what few callers of tasks need
    app_control = LazyModule("celeriac.app.control")
    notices = LazyModule("celeriac.app.notices")
    canvas_functions = LazyModule("celeriac.canvas.functions")
    canvas_map = LazyModule("celeriac.canvas.map")
    canvas_workflows = LazyModule("celeriac.canvas.workflows")
    mailing = LazyModule("celeriac.mail.tasks")
    delays = LazyModule("celeriac.ports.delays")
    publish_signals = LazyModule("celeriac.tasks.publish_signals")

__all__ = ["Celeriac"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

DATABASE_NAME = "celeriac.db"


class Celeriac(Scheduling):
    """An app. `app = Celeriac("shop")` is enough: it stores messages and results in `celeriac.db` beside its file.

    Settings are keywords (`task_acks_late=False`); `app.conf` has all of them.
    """

    def __init__(self, main: str | None = None, *, clock: Clock | None = None, environ: Mapping[str, str] | None = None,
                 **settings: Any) -> None:  # fmt: skip
        super().__init__(settings, os.environ if environ is None else environ)
        self._folder, module = _caller(sys._getframe(1))
        self._made_in = str(sys._getframe(1).f_globals.get("__name__"))
        self.main = main or module
        self.clock = clock or Clock()
        self.tracing = Tracing(self)
        self.on_after_configure = SetupSignal("on_after_configure")
        self.on_after_finalize = SetupSignal("on_after_finalize")
        self.canvas = canvas_functions
        self.builtin_tasks = BuiltinTasks(self)
        self._broker: Broker | None = None
        self._backend: Backend | None = None
        self._history: History | None = None
        self._opened: dict[str, Any] = {}  # the three of them: what threads open at once, only one of them keeps
        self._templates: dict[str, MessageTemplate] = {}
        shared.register_app(self)

    # --- Configuration and tasks: see also `scheduling.py`, `configuring.py`, `registering.py` --------

    def _configuration_changed(self) -> None:
        self._templates.clear()
        self.tracing.configuration_changed()
        super()._configuration_changed()

    def import_tasks(self) -> None:
        """Import the modules with tasks, and send `on_after_configure` and `on_after_finalize`."""
        if self.framework is not None:
            self.framework.set_up(self)
        super().import_tasks()
        self.on_after_configure.send(self)
        self.on_after_finalize.send(self)

    def known_task(self, name: str) -> Task[Any, Any]:
        """Return a registered or built-in task by its name. Raises `NotRegistered`."""
        task = self.tasks.get(name) or self.builtin_tasks.get(name)
        if task is None:
            raise NotRegistered(name, self.tasks)
        return task

    def message_template(self, task: str) -> Template:
        """Return what makes a task's messages for workflows. The task need not be registered here."""
        if task in self.tasks or task in self.builtin_tasks:
            return self.known_task(task).workflow_template()
        if task not in self._templates:
            if not isinstance(task, str):
                name = getattr(task, "name", "shop.add")
                raise ArgumentsError(f"send_task needs the name of a task, {name!r}, not {task!r}.")
            self._templates[task] = MessageTemplate(self, text(task, "the name of a task"), {})
        return self._templates[task]

    # --- Sending --------------------------------------------------------------------------------------

    def publish(self, messages: Sequence[Message], batch: Sending | None = None) -> bool:
        """Send messages. With `task_always_eager`, send nothing and return False: the caller runs them instead.

        `batch` is the span of what they are a part of, if it is sent in several steps: see `Tracing.batch`.
        """
        if self.conf.task_always_eager:
            return False
        if self.tracing.is_possible and (spans := self.tracing.spans()) is not None:
            with spans.sending(messages, batch) as traced:
                self._publish(traced)
        else:
            self._publish(messages)
        return True

    def _publish(self, messages: Sequence[Message]) -> None:
        if before_task_publish.receivers:
            messages = publish_signals.send_before_publish(messages)
        self.broker.publish(messages)
        if after_task_publish.receivers:
            publish_signals.send_after_publish(messages)

    async def apublish(self, messages: Sequence[Message], batch: Sending | None = None) -> bool:
        """Coroutine version of `publish`."""
        if self.conf.task_always_eager:
            return False
        if self.tracing.is_possible and (spans := self.tracing.spans()) is not None:
            with spans.sending(messages, batch) as traced:
                await self._apublish(traced)
        else:
            await self._apublish(messages)
        return True

    async def _apublish(self, messages: Sequence[Message]) -> None:
        if before_task_publish.receivers:
            messages = publish_signals.send_before_publish(messages)
        await self.broker.apublish(messages)
        if after_task_publish.receivers:
            publish_signals.send_after_publish(messages)

    def send_task(self, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                  **options: Unpack[CallOptions]) -> AsyncResult[Any]:  # fmt: skip
        """Send a message for a task by its name. The task need not be registered here."""
        if name in self.tasks:  # as in Celery, an override of `apply_async` may call `send_task`
            return Task.apply_async(self.tasks[name], args, kwargs, **options)
        message = self.message_template(name).message(args_of(args), kwargs_of(kwargs), options)
        if options.get("task_id") is not None and not self.conf.task_always_eager:
            free_ids(self, [message.id])
        if not self.publish([message]):
            return self.known_task(name).run_eagerly(message)
        return AsyncResult(message.id, self, name, message.ignore_result)

    async def asend_task(self, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                         **options: Unpack[CallOptions]) -> AsyncResult[Any]:  # fmt: skip
        """Coroutine version of `send_task`."""
        if name in self.tasks:
            task = self.tasks[name]
            if task.overrides_sending:
                return await in_thread(partial(Task.apply_async, task, args, kwargs, **options))
            return await task.aapply_async(args, kwargs, **options)
        message = self.message_template(name).message(args_of(args), kwargs_of(kwargs), options)
        if options.get("task_id") is not None and not self.conf.task_always_eager:
            await afree_ids(self, [message.id])
        if not await self.apublish([message]):
            return self.known_task(name).run_eagerly(message)
        return AsyncResult(message.id, self, name, message.ignore_result)

    def mail_admins(self, subject: str, body: str) -> AsyncResult[None]:
        """Send a mail to `mail_admins`, by a worker. It is sent at once, and does not count for `mail_max_per_hour`.

        Raises `ImproperlyConfigured` if there are none.
        """
        mailing.check_mail(self)
        return self.send_task(MAIL, (mailing.mail_call(self, subject, body),), **mailing.mail_options(self))

    async def amail_admins(self, subject: str, body: str) -> AsyncResult[None]:
        """Coroutine version of `mail_admins`."""
        mailing.check_mail(self)
        return await self.asend_task(MAIL, (mailing.mail_call(self, subject, body),), **mailing.mail_options(self))

    def map(self, task: Task[Any, R], items: Iterable[Any], *, window: int = 1000,
            return_exceptions: bool = False) -> Iterator[R]:  # fmt: skip
        """Yield the result of `task(item)` for each item, in order, computed by the workers.

        At most `window` calls are sent and not yielded at any time, so the iterable may be endless. An exception is
        raised when its item's turn comes, and ends the map; with `return_exceptions` it is yielded instead.
        """
        return canvas_map.map_tasks(task, items, window=window, return_exceptions=return_exceptions)

    def amap(self, task: Task[Any, R], items: Iterable[Any], *, window: int = 1000,
             return_exceptions: bool = False) -> AsyncGenerator[R, None]:  # fmt: skip
        """Coroutine version of `map`."""
        return canvas_map.amap_tasks(task, items, window=window, return_exceptions=return_exceptions)

    def signature(self, task: str | Mapping[str, Any], args: Sequence[Any] = (),
                  kwargs: Mapping[str, Any] | None = None, *, immutable: bool = False,
                  **options: Any) -> Any:  # fmt: skip
        """Return a signature by the task's name, or the signature, chain, group or chord from the data of `to_dict`."""
        if isinstance(task, Mapping):
            return Signature.from_dict(task, self)
        return Signature(self, task, args, kwargs, options, immutable)

    @property
    def workflows(self) -> Workflows:
        """Sends, runs and finds workflows."""
        return self._part("workflows", lambda: canvas_workflows.Workflows(self))

    @property
    def control(self) -> Control:
        """Sends commands to workers."""
        return self._part("control", lambda: app_control.Control(self))

    def AsyncResult(self, id: str) -> AsyncResult[Any]:  # noqa: N802 - Celery's name
        """Return the result of an earlier call by its id."""
        return AsyncResult(id, self)

    def GroupResult(self, id: str) -> GroupResult[Any] | None:  # noqa: N802 - Celery's name
        """Return the group that was saved with this id, or None."""
        return self.workflows.restore(id)

    def workflow(self, id: str) -> Workflow:
        """Return a workflow that was sent by its id (`result.workflow_id`), or raise `WorkflowError`."""
        return self.workflows.find(id)

    def beside(self, name: str) -> str:
        """Return the path of a file beside the app's own, where its database is by default."""
        return os.path.join(self._folder, name)

    # --- Broker and backend ---------------------------------------------------------------------------

    @property
    def broker_url(self) -> str:
        """The URL of the broker: the setting, or the database beside the app's file."""
        url: str | None = self.conf.broker_url
        return url or file_url(self.beside(DATABASE_NAME))

    @property
    def broker(self) -> Broker:
        """The broker, made on first use."""
        if self._broker is None:
            made = open_broker(self.broker_url, self.conf, self.clock)
            made.keep_delays_in(lambda: delays.delay_store(self.backend), self.conf.broker_delays)
            if self.framework is not None:
                self.framework.opened(made)
            self._broker = self._kept("broker", made)
        return self._broker

    @property
    def sends_outcomes(self) -> bool:
        """Whether outcomes are sent to their callers (`rpc://`), whose address each message must carry."""
        return sends_outcomes(self.backend_url, lambda: self.backend)

    @property
    def sends_notices(self) -> bool:
        """Whether callers are told that outcomes were stored, on a channel that each message names."""
        return sends_notices(self.backend_url, lambda: self.backend)

    @property
    def backend_url(self) -> str:
        """The URL of the result backend: the setting, or the URL of the broker."""
        url: str | None = self.conf.result_backend
        return url or self.broker_url

    @property
    def backend(self) -> Backend:
        """The result backend, made on first use."""
        if self._backend is None:
            made = open_backend(self.backend_url, self.broker_url, self.conf, self.clock)
            if needs_notices(made):
                made.notices = notices.NoticeListener(lambda: self.broker, made)
            if self.framework is not None:
                self.framework.opened(made)
            self._backend = self._kept("backend", made)
        return self._backend

    @property
    def history(self) -> History | None:
        """The history, of `history_url` or else of the result backend; made on first use. None: none is kept.

        Raises `ImproperlyConfigured` if the URL is of a store that keeps no history.
        """
        if self._history is None and self.conf.history != "off":
            url: str | None = self.conf.history_url
            keeper = self.backend if url is None else open_backend(url, self.broker_url, self.conf, self.clock)
            self._history = self._kept("history", history_of(keeper, url))
        return self._history

    def _kept(self, what: str, made: T) -> T:
        """Return the one that all threads use: the first that was made. There is no lock that a fork could inherit."""
        kept: T = self._opened.setdefault(what, made)
        return kept

    def close(self) -> None:
        """Close the connections of broker, backend and history. The next use opens them again."""
        if self._history is not None:
            self._history.close()
        if self._broker is not None:
            self._broker.close()
        if self._backend is not None:
            if self._backend.notices is not None:
                self._backend.notices.close()
            self._backend.close()
        self._broker = self._backend = self._history = None
        self._opened = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return app_at, address_of(self, self._made_in)

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<Celeriac {self.main}: {len(self.tasks)} tasks, {masked(self.broker_url)}>"


def _caller(frame: FrameType) -> tuple[str, str | None]:
    """Return the folder of the file that makes the app, and its module's name unless it is the running script."""
    file, module = frame.f_globals.get("__file__"), frame.f_globals.get("__name__")
    folder = os.path.dirname(os.path.realpath(file)) if file else os.getcwd()
    return folder, module if module not in MAIN else None
