"""Signals: your own functions, called when something happens. The names are Celery's.

    @signals.task_failure.connect
    def notify(sender, task_id, exception, **more): ...

Task signals are sent in the process that runs the task, worker signals in the worker's supervisor, publish
signals in the caller. An exception in a receiver, `SystemExit` included, is logged and does not reach the sender.
`KeyboardInterrupt` does: it comes from Ctrl-C.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, overload

__all__ = [
    "Signal",
    "after_setup_logger",
    "after_setup_task_logger",
    "after_task_publish",
    "before_task_publish",
    "setup_logging",
    "task_failure",
    "task_postrun",
    "task_prerun",
    "task_retry",
    "task_success",
    "worker_process_init",
    "worker_process_shutdown",
    "worker_ready",
    "worker_shutdown",
]

log = logging.getLogger("celeriac.signals")

Receiver = TypeVar("Receiver", bound=Callable[..., Any])


class Signal:
    """A list of receivers. False while it is empty, so that senders can skip preparing the arguments."""

    def __init__(self, name: str, arguments: str) -> None:
        self.name = name
        self.__doc__ = f"Sent with: sender, {arguments}."
        self.receivers: list[tuple[Any, Callable[..., Any]]] = []

    @overload
    def connect(self, receiver: Receiver, *, sender: Any = None) -> Receiver: ...

    @overload
    def connect(self, *, sender: Any = None) -> Callable[[Receiver], Receiver]: ...

    def connect(self, receiver: Receiver | None = None, *, sender: Any = None) -> Any:
        """Call `receiver(sender=…, …)` each time the signal is sent; with `sender`, only when that object sends it.

        Also a decorator: `@signal.connect`, `@signal.connect(sender=task)`.
        """
        if receiver is None:
            return partial(self.connect, sender=sender)
        if not callable(receiver):
            raise TypeError(f"{self.name}.connect takes a function, not {receiver!r}")
        self.receivers.append((sender, receiver))
        return receiver

    def disconnect(self, receiver: Callable[..., Any]) -> None:
        """Remove a receiver."""
        self.receivers = [entry for entry in self.receivers if entry[1] is not receiver]

    def send(self, sender: Any, **arguments: Any) -> None:
        """Call the receivers, in the order in which they were connected."""
        for wanted, receiver in self.receivers:
            if wanted is None or wanted == sender:
                try:
                    receiver(sender=sender, **arguments)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    whole = error.__traceback__
                    users = whole.tb_next if whole is not None else None  # without the frame of this function
                    log.exception("A receiver of the signal %s failed: %r", self.name, receiver,
                                  exc_info=(type(error), error, users or whole))  # fmt: skip

    def __bool__(self) -> bool:
        return bool(self.receivers)

    def __repr__(self) -> str:
        return f"<Signal {self.name}: {len(self.receivers)} receivers>"


before_task_publish = Signal("before_task_publish", "messages")
after_task_publish = Signal("after_task_publish", "messages")
task_prerun = Signal("task_prerun", "task_id, args, kwargs")
task_postrun = Signal("task_postrun", "task_id, args, kwargs, outcome")
task_success = Signal("task_success", "task_id, result")
task_failure = Signal("task_failure", "task_id, exception, args, kwargs")
task_retry = Signal("task_retry", "task_id, exception, delay")
setup_logging = Signal("setup_logging", "loglevel, logfile, format, colorize")
after_setup_logger = Signal("after_setup_logger", "logger, loglevel, logfile, format, colorize")
after_setup_task_logger = Signal("after_setup_task_logger", "logger, loglevel, logfile, format, colorize")
worker_ready = Signal("worker_ready", "worker")
worker_shutdown = Signal("worker_shutdown", "worker")
worker_process_init = Signal("worker_process_init", "lane")
worker_process_shutdown = Signal("worker_process_shutdown", "lane")
