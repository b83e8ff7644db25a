"""A thread with an event loop, which works for all threads of a process that block: AMQP 1.0, STOMP."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["LoopThread"]

Result = TypeVar("Result")
CLOSING_SECONDS = 2.0


class LoopThread:
    """The thread. It ends with its process, and closes what its loop has open."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        atexit.register(self.stop)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    self._loop.run_until_complete(task)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())  # closes connections
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def submit(self, work: Coroutine[Any, Any, Result]) -> concurrent.futures.Future[Result]:
        """Run a coroutine in the thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return the result of a coroutine that the thread runs."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:  # a time limit's exception, between the call and its answer
            future.cancel()
            raise

    def stop(self) -> None:
        """Close what is open, and end the thread."""
        atexit.unregister(self.stop)
        if self._pid != os.getpid():
            return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSING_SECONDS)
