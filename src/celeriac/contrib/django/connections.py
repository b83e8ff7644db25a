"""Django's database connections in workers: between tasks, and over forks.

Django closes connections between requests; a worker has tasks in their place. Django's rules hold: a connection that
has failed, or is older than `CONN_MAX_AGE`, is closed before and after each task. Besides:

- One that was idle is tried before the next task. Without `CONN_HEALTH_CHECKS`, Django would let that task fail.
- One in which a task has left a transaction open is dropped, and so rolled back. Otherwise the work of all later tasks
  would be part of that transaction.
- After a fork, the child's connections are new. It neither uses nor closes those of the parent.

Plain tasks: in their own thread. Coroutine tasks use the database in a thread of asgiref, one per process, in which
this module closes connections, too; it gives the other threads of the event loop an executor that closes theirs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import local
from typing import Any, Final, TypeVar

from asgiref.sync import SyncToAsync
from django.db import close_old_connections
from django.db import connections as handler
from django.db.utils import Error

from celeriac import signals
from celeriac.errors import ImproperlyConfigured
from celeriac.model.message import COROUTINE

__all__ = ["close_before_work", "connect", "log"]

log = logging.getLogger("celeriac.contrib.django")

Result = TypeVar("Result")

IDLE_SECONDS: Final = 1.0
"""A connection that was not used for so long is tried before it is used again."""

_idle = local()
_inherited: list[Any] = []  # of the parent: kept, so that nothing closes them


def connect() -> None:
    """Connect what happens at the start of a child, before and after tasks, and after forks. Repeating it is safe."""
    signals.task_prerun.connect(_before_task)
    signals.task_postrun.connect(_after_task)
    signals.worker_process_init.connect(_start_child)
    global _forks
    if not _forks:  # what is registered cannot be taken back
        _forks = True
        os.register_at_fork(after_in_child=_forget_inherited)


_forks = False


def close_before_work() -> None:
    """Close the connections that were opened while modules were imported: no child may inherit them.

    Raises `ImproperlyConfigured` if one is in a transaction.
    """
    for connection in _opened():
        if connection.in_atomic_block:
            raise ImproperlyConfigured(f"A transaction of the database {connection.alias!r} is open while the worker "
                                       "starts. A module that is imported, or a receiver of worker_init, has begun it: "
                                       "end it there.")  # fmt: skip
        connection.close()


# --- Between tasks ------------------------------------------------------------------------------------


def _before_task(sender: Any, **more: Any) -> None:
    request = sender.request
    if request.is_eager:
        return  # the caller's connections, perhaps in a transaction
    if sender.is_coroutine:
        _in_thread_of_coroutines(_freshen)
    else:
        _freshen()


def _after_task(sender: Any, **more: Any) -> None:
    if sender.request.is_eager:
        return
    if sender.is_coroutine:
        _in_thread_of_coroutines(_tidy)
    else:
        _tidy(sender.name)


def _freshen() -> None:
    """Close connections that are too old or have failed, and those that died while they were idle."""
    if not (opened := _opened()):
        return
    close_old_connections()
    if time.monotonic() - getattr(_idle, "since", 0.0) > IDLE_SECONDS:
        for connection in opened:
            if connection.connection is not None and not connection.is_usable():
                connection.close()


def _tidy(task: str = "") -> None:
    """Close connections that are too old or have failed; drop those with an open transaction."""
    if not (opened := _opened()):
        return
    for connection in opened:
        if connection.in_atomic_block:
            _drop(connection)
            log.warning("%s has left a transaction of the database %r open. It is rolled back, so that it does not "
                        "take in the work of other tasks", task or "A task", connection.alias)  # fmt: skip
    close_old_connections()
    _idle.since = time.monotonic()


def _drop(connection: Any) -> None:
    """Forget a connection, and close it without regard to its transaction."""
    _forget(connection.alias)
    inner, connection.connection = connection.connection, None
    if inner is not None:
        try:
            inner.close()
        except Error:
            log.debug("A broken connection could not be closed", exc_info=True)


def _opened() -> list[Any]:
    """Return the connections of this thread."""
    found: list[Any] = handler.all(initialized_only=True)
    return found


def _forget(alias: str) -> None:
    del handler[alias]


# --- Threads of coroutines ----------------------------------------------------------------------------


class _ClosingExecutor(ThreadPoolExecutor):
    """The threads of an event loop (`asyncio.to_thread`, `sync_to_async(thread_sensitive=False)`).

    Each ends a call as if it were a task of its own.
    """

    def submit(self, function: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        return super().submit(_between, function, *args, **kwargs)


def _between(function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    _freshen()
    try:
        return function(*args, **kwargs)
    finally:
        _tidy("A call in a thread")


def _in_thread_of_coroutines(call: Callable[[], None]) -> None:
    """Let the thread in which coroutines use the database close its connections, before what is asked of it next.

    Calls of several coroutines take turns there, and none leaves a transaction open between two of them.
    """
    executor = SyncToAsync.single_thread_executor
    if executor._threads:  # it has been used
        executor.submit(call)


def _start_child(lane: str, **more: Any) -> None:
    if lane == COROUTINE:
        asyncio.get_running_loop().set_default_executor(_ClosingExecutor(thread_name_prefix="asyncio"))


# --- Forks --------------------------------------------------------------------------------------------


def _forget_inherited() -> None:
    """Let this process, which was forked, open connections of its own. Those of the parent stay as they are."""
    for connection in _opened():
        _inherited.append(connection)
        pools = getattr(type(connection), "_connection_pools", None)
        if pools:  # of psycopg: their threads are not in this process
            _inherited.append(dict(pools))
            pools.clear()
        _forget(connection.alias)
