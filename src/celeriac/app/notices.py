"""Receives notices: what workers send to this process when outcomes of its tasks were stored (`model/notices.py`).

Backends that cannot notify (`backends/bases.py: PollingBackend`) call `begin` when a caller has to wait. From then on a
thread listens on the channel of this process, and `Backend.wake` makes the callers look. It reconnects after an outage,
and ends with the app or the process. Opened by the app, for such a backend alone.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

from celeriac.errors import AccessRefused, CeleriacError
from celeriac.model.notices import own_channel, read_notice
from celeriac.model.repeated_warnings import RepeatedWarnings
from celeriac.ports.backend import Backend
from celeriac.ports.broker import MISSED, Broker

__all__ = ["NoticeListener"]

log = logging.getLogger("celeriac.backends")

PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)  # seconds between attempts to listen again
STOPPING_SECONDS = 1.0  # for a listener, which may be connecting to a server that does not answer


class NoticeListener:
    """Listens on the channel of this process, in a thread of its own."""

    def __init__(self, broker: Callable[[], Broker], backend: Backend) -> None:
        self.listening = False
        self._broker = broker
        self._backend = backend
        self._warnings = RepeatedWarnings(log)
        self._reset()
        _listeners.add(self)

    def _reset(self) -> None:
        self.listening = False
        self._lock = threading.Lock()
        self._thread: _Thread | None = None

    def begin(self) -> None:
        """Listen from now on; do nothing if this was called before. Returns at once."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = _Thread(self._listen)

    def close(self) -> bool:
        """End the thread; return whether there was one. A later `begin` starts another."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()
        return thread is not None

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                broker, channel = self._broker(), own_channel()
                notices = cast(AsyncGenerator[bytes, None], await broker.listen(channel))
                async with aclosing(notices):
                    failures = 0
                    self.listening = True
                    self._backend.wake(None)  # of what ended before, this process was not told
                    async for notice in notices:
                        self._hear(broker, channel, notice)
            except AccessRefused as error:  # a right does not come back by itself
                log.warning("This process is not told of the ends of its tasks, and polls: %s", error)
                return
            except CeleriacError as error:
                log.log(logging.DEBUG if failures else logging.WARNING,
                        "This process is not told of the ends of its tasks, and polls: %s", error)  # fmt: skip
            finally:
                self.listening = False
            await asyncio.sleep(PAUSES[min(failures, len(PAUSES) - 1)])
            failures += 1

    def _hear(self, broker: Broker, channel: str, notice: bytes) -> None:
        if notice is MISSED:
            self._backend.wake(None)
            return
        try:
            ids = read_notice(broker.codec.open("notice", notice, channel))
        except ValueError as error:
            self._warnings.warn("Notices that cannot be read are ignored: %s", error)
            return
        self._backend.wake(ids or None)


class _Thread:
    """A thread that runs a coroutine function until it is stopped."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._stopped = threading.Event()
        self._cancel: Callable[[], Any] | None = None
        self._thread = threading.Thread(target=self._run, name="celeriac-notices", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            try:
                asyncio.run(self._cancellable())
            except Exception:
                log.exception("This process is no longer told of the ends of its tasks, and polls")

    async def _cancellable(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is not None:
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        if not self._stopped.is_set():
            await self._work()

    def stop(self) -> None:
        self._stopped.set()
        if self._cancel is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                self._cancel()
        if self._thread is not threading.current_thread():
            self._thread.join(STOPPING_SECONDS)


_listeners: weakref.WeakSet[NoticeListener] = weakref.WeakSet()
_stopped: list[NoticeListener] = []  # for the time of a fork


def _before_fork() -> None:
    """End the threads: the child must not inherit their connections, least of all to a SQLite file."""
    _stopped[:] = [listener for listener in list(_listeners) if listener.close()]


def _after_fork_in_parent() -> None:
    for listener in _stopped:
        listener.begin()
    _stopped.clear()


def _after_fork_in_child() -> None:
    _stopped.clear()
    for listener in list(_listeners):
        listener._reset()


def _leave() -> None:
    for listener in list(_listeners):
        listener.close()


atexit.register(_leave)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent,
                        after_in_child=_after_fork_in_child)  # fmt: skip
