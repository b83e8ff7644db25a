"""Signals: your own functions, called when something happens. Names, senders and arguments are Celery's.

    @signals.task_failure.connect
    def notify(sender, task_id, exception, **more): ...

Task signals are sent in the process that runs the task, worker signals in the worker's supervisor, publish
signals in the caller. An exception in a receiver, `SystemExit` included, is logged and does not reach the sender.
`KeyboardInterrupt` does: it comes from Ctrl-C.
"""

from __future__ import annotations

import inspect
import logging
import weakref
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple, TypeVar, overload

from celeriac.errors import nearest

__all__ = [
    "SetupSignal",
    "Signal",
    "after_setup_logger",
    "after_setup_task_logger",
    "after_task_publish",
    "beat_init",
    "before_task_publish",
    "schedule_missed",
    "schedule_sent",
    "schedule_skipped",
    "setup_logging",
    "task_failure",
    "task_postrun",
    "task_prerun",
    "task_received",
    "task_retry",
    "task_revoked",
    "task_success",
    "task_unknown",
    "worker_init",
    "worker_process_init",
    "worker_process_shutdown",
    "worker_ready",
    "worker_shutdown",
    "worker_shutting_down",
]

log = logging.getLogger("celeriac.signals")

Receiver = TypeVar("Receiver", bound=Callable[..., Any])

ALWAYS = ("sender", "signal")  # arguments of every signal
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class _Connection(NamedTuple):
    receiver: Callable[..., Any]  # or a weak reference to it
    sender: Any
    uid: Hashable

    def target(self) -> Callable[..., Any] | None:
        """Return the receiver, or None if it was held weakly and is gone."""
        found: Any = self.receiver
        return found() if isinstance(found, weakref.ReferenceType) else found


class Signal:
    """A list of receivers. False while it is empty, so that senders can skip preparing the arguments."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.name = name
        self.arguments = arguments
        self.receivers: list[_Connection] = []

    @overload
    def connect(self, receiver: Receiver, sender: Any = None, weak: bool = False,
                dispatch_uid: Hashable = None) -> Receiver: ...  # fmt: skip

    @overload
    def connect(self, receiver: None = None, sender: Any = None, weak: bool = False,
                dispatch_uid: Hashable = None) -> Callable[[Receiver], Receiver]: ...  # fmt: skip

    def connect(self, receiver: Receiver | None = None, sender: Any = None, weak: bool = False,
                dispatch_uid: Hashable = None) -> Any:  # fmt: skip
        """Call `receiver(sender=…, signal=…, …)` each time the signal is sent.

        With `sender`, only when that object, or the one of that name, sends it. A receiver is connected once for a
        sender; so is one of several with the same `dispatch_uid`. With `weak`, the connection ends with the receiver.
        Also a decorator: `@signal.connect`, `@signal.connect(sender=task)`. Raises `TypeError` for a function that
        cannot be called with the signal's arguments, or that asks for others.
        """
        if receiver is None:
            return partial(self.connect, sender=sender, weak=weak, dispatch_uid=dispatch_uid)
        self._check(receiver)
        if not any(found.sender == sender for found in self._found(receiver, dispatch_uid)):
            held: Any = receiver
            if weak:
                make = weakref.WeakMethod if inspect.ismethod(receiver) else weakref.ref
                held = make(receiver, self._forget)
            self.receivers = [*self.receivers, _Connection(held, sender, dispatch_uid)]
        return receiver

    def disconnect(self, receiver: Callable[..., Any] | None = None, sender: Any = None,
                   dispatch_uid: Hashable = None) -> bool:  # fmt: skip
        """Remove a receiver, named by itself or by its `dispatch_uid`; with `sender`, only its connection to that one.

        Returns whether it was connected.
        """
        gone = [found for found in self._found(receiver, dispatch_uid) if sender is None or found.sender == sender]
        self.receivers = [connection for connection in self.receivers if connection not in gone]
        return bool(gone)

    def send(self, sender: Any, **arguments: Any) -> None:
        """Call the receivers, in the order in which they were connected."""
        for receiver in self._wanted_by(sender):
            try:
                receiver(sender=sender, signal=self, **arguments)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                whole = error.__traceback__
                users = whole.tb_next if whole is not None else None  # without the frame of this function
                log.exception("A receiver of the signal %s failed: %r", self.name, receiver,
                              exc_info=(type(error), error, users or whole))  # fmt: skip

    def _wanted_by(self, sender: Any) -> list[Callable[..., Any]]:
        """Return the receivers of what an object sends."""
        targets = [connection.target() for connection in self.receivers if _is_from(connection.sender, sender)]
        return [target for target in targets if target is not None]

    def _found(self, receiver: Callable[..., Any] | None, uid: Hashable) -> list[_Connection]:
        if uid is not None:
            return [connection for connection in self.receivers if connection.uid == uid]
        return [connection for connection in self.receivers if connection.target() == receiver]

    def _forget(self, reference: Any) -> None:
        self.receivers = [connection for connection in self.receivers if connection.receiver is not reference]

    def _check(self, receiver: Callable[..., Any]) -> None:
        if not callable(receiver):
            raise TypeError(f"{self.name}.connect takes a function, not {receiver!r}")
        if inspect.iscoroutinefunction(receiver):
            raise TypeError(f"{receiver!r} cannot receive {self.name}: it is a coroutine function, and nothing would "
                            "await it. Connect a plain function.")  # fmt: skip
        try:
            parameters = inspect.signature(receiver).parameters.values()
        except ValueError:  # of a function in C, whose parameters are unknown
            return
        given = (*self.arguments, *ALWAYS)
        for parameter in parameters:
            if parameter.kind in VARIADIC or (parameter.name in given and parameter.kind != parameter.POSITIONAL_ONLY):
                continue
            if parameter.default is parameter.empty or parameter.default is None:
                raise TypeError(
                    f"{receiver!r} cannot receive {self.name}, which has no argument {parameter.name!r}."
                    f"{nearest(parameter.name, given)} It has: {', '.join(sorted(given))}."
                )
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            raise TypeError(f"{receiver!r} cannot receive {self.name}: add **kwargs to its parameters, for the "
                            "arguments that it does not name.")  # fmt: skip

    def __bool__(self) -> bool:
        return bool(self.receivers)

    def __repr__(self) -> str:
        return f"<Signal {self.name}: {len(self.receivers)} receivers>"


class SetupSignal(Signal):
    """A signal whose receivers set up an app: what they raise reaches the sender, and ends the command."""

    def send(self, sender: Any, **arguments: Any) -> None:
        """Call the receivers, in the order in which they were connected."""
        for receiver in self._wanted_by(sender):
            receiver(sender=sender, signal=self, **arguments)


def _is_from(wanted: Any, sender: Any) -> bool:
    """Return whether a sender is the wanted one. A task or a worker may be named by its name, and may send it."""
    if wanted is None or wanted == sender:
        return True
    if isinstance(sender, str):
        return getattr(wanted, "name", None) == sender
    return isinstance(wanted, str) and getattr(sender, "name", None) == wanted


before_task_publish = Signal(
    "before_task_publish", "body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"
)
after_task_publish = Signal("after_task_publish", "body", "exchange", "routing_key", "headers")
task_received = Signal("task_received", "request")
task_prerun = Signal("task_prerun", "task_id", "task", "args", "kwargs")
task_postrun = Signal("task_postrun", "task_id", "task", "args", "kwargs", "retval", "state")
task_success = Signal("task_success", "task_id", "result", "runtime")
task_failure = Signal("task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo")
task_retry = Signal("task_retry", "task_id", "request", "reason", "einfo")
task_revoked = Signal("task_revoked", "request", "terminated", "signum", "expired")
task_unknown = Signal("task_unknown", "message", "exc", "name", "id")
setup_logging = Signal("setup_logging", "loglevel", "logfile", "format", "colorize")
after_setup_logger = Signal("after_setup_logger", "logger", "loglevel", "logfile", "format", "colorize")
after_setup_task_logger = Signal("after_setup_task_logger", "logger", "loglevel", "logfile", "format", "colorize")
beat_init = Signal("beat_init")
schedule_sent = Signal("schedule_sent", "name", "tick", "ids")
schedule_missed = Signal("schedule_missed", "name", "count")
schedule_skipped = Signal("schedule_skipped", "name", "count")
worker_init = Signal("worker_init")
worker_ready = Signal("worker_ready")
worker_shutting_down = Signal("worker_shutting_down", "sig", "how", "exitcode")
worker_shutdown = Signal("worker_shutdown")
worker_process_init = Signal("worker_process_init", "lane")
worker_process_shutdown = Signal("worker_process_shutdown", "pid", "exitcode", "lane")

NOT_SENT = {
    "beat_embedded_init": "connect to beat_init",
    "celeryd_after_setup": "connect to worker_init",
    "celeryd_init": "connect to worker_init",
    "eventlet_pool_apply": "write `async def` tasks, which need no eventlet",
    "eventlet_pool_postshutdown": "write `async def` tasks, which need no eventlet",
    "eventlet_pool_preshutdown": "write `async def` tasks, which need no eventlet",
    "eventlet_pool_started": "write `async def` tasks, which need no eventlet",
    "heartbeat_sent": "`celeriac status` shows which workers are alive",
    "import_modules": "the setting `imports` names modules to import",
    "task_internal_error": "such an error fails the task: connect to task_failure",
    "task_rejected": "a message that cannot be read becomes a dead letter: `celeriac queues dead list`",
    "task_sent": "connect to after_task_publish",
    "user_preload_options": "the command has no options of users",
    "worker_before_create_process": "connect to worker_init, which is sent before the first child is forked",
}
"""Celery's signals without a counterpart, and what to do instead."""


def __getattr__(name: str) -> Any:
    if name.startswith("__"):  # each `from celeriac.signals import …` asks for `__path__`
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in NOT_SENT:
        raise AttributeError(f"Celeriac does not send the signal {name}: {NOT_SENT[name]}.")
    raise AttributeError(f"There is no signal {name!r}.{nearest(name, __all__)}")
