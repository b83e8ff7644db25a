"""Waking up when another process has committed, without polling.

After a commit the writer rings: it writes one byte into the file `…-bell` beside the database, and Linux tells whoever
watches that file (inotify). Writers know of nobody. (Watching SQLite's own log would not do: the log is written before
the commit can be seen, so that whoever woke up looked too early, and slept on.) Where there is no inotify, waiting
falls back to looking again every few milliseconds. A writer that is killed between its commit and its ring wakes
nobody: whoever waits looks again every `LONGEST_SECONDS` all the same.

A waiter notes `generation` *before* it looks at the database and passes it on when it waits, so that a change that
came between the two ends the wait at once.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import sys
import time
from contextlib import suppress
from typing import Final

__all__ = ["Bell", "Watch"]

IN_MODIFY: Final = 0x2
POLL_SECONDS: Final = 0.005
LONGEST_SECONDS: Final = 1.0


class Bell:
    """Wakes those who watch its file. Belongs to one connection, and goes with it."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:  # a folder or a file that this user may only read: who waits finds out by itself
            self._fd = -1

    def ring(self) -> None:
        """Wake them. Never fails: what was committed is committed, whoever hears of it."""
        try:  # noqa: SIM105 - at every commit: `suppress` would cost more than the write
            os.pwrite(self._fd, b"\0", 0)
        except OSError:  # no room for a byte, or no file
            pass

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


class Watch:
    """Tells when a file is written to. Belongs to one thread (and its event loops, if it has any)."""

    def __init__(self, path: str) -> None:
        self.generation = 0
        self.moves = 0  # how often the file was found to be another, and what was known of it is void
        self._waiters: dict[asyncio.AbstractEventLoop, set[asyncio.Future[None]]] = {}
        self.path = path
        self._fd = _inotify()
        if self._fd is not None and not _watch(self._fd, path):
            os.close(self._fd)
            self._fd = None
        self._poll = select.poll() if self._fd is not None else None
        if self._fd is not None and self._poll is not None:
            self._poll.register(self._fd, select.POLLIN)

    def wait(self, seen: int, timeout: float) -> None:
        """Block until something was written after generation `seen`, or until the time-out (seconds)."""
        if self._poll is None:
            time.sleep(min(timeout, POLL_SECONDS))
        elif self.generation == seen and self._poll.poll(min(max(0.0, timeout), LONGEST_SECONDS) * 1000):
            self._drain()

    async def changed(self, seen: int, timeout: float) -> None:
        """Do as `wait`, for coroutines."""
        if self._fd is None:
            await asyncio.sleep(min(timeout, POLL_SECONDS))
            return
        if self.generation != seen:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        waiters = self._of(loop)
        waiters.add(waiter)
        timer = loop.call_later(min(max(0.0, timeout), LONGEST_SECONDS), _finish, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            waiters.discard(waiter)
            if not waiters and self._waiters.pop(loop, None) is not None and self._fd is not None:
                loop.remove_reader(self._fd)

    def _of(self, loop: asyncio.AbstractEventLoop) -> set[asyncio.Future[None]]:
        """Return those who wait in a loop. Of loops that were closed under their waiters nothing comes any more."""
        if loop not in self._waiters and self._fd is not None:
            self._forget_closed_loops()
            self._waiters[loop] = set()
            loop.add_reader(self._fd, self._readable)
        return self._waiters[loop]

    def _forget_closed_loops(self) -> None:
        for loop in [loop for loop in self._waiters if loop.is_closed()]:
            del self._waiters[loop]

    def move(self, path: str) -> None:
        """Watch the file that is at this path now, and wake everybody: what they have seen is void."""
        if self._fd is not None:
            _watch(self._fd, path)  # without it, waiters look every `LONGEST_SECONDS`
        self.path = path
        self.moves += 1
        self._readable()

    @property
    def busy(self) -> bool:
        """Whether a coroutine waits."""
        return not all(loop.is_closed() for loop in self._waiters)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = self._poll = None

    def __del__(self) -> None:
        self.close()

    def _readable(self) -> None:
        self._drain()
        self._forget_closed_loops()
        for waiters in self._waiters.values():  # who wakes first has read the bell for all
            for waiter in waiters:
                _finish(waiter)

    def _drain(self) -> None:
        self.generation += 1
        if self._fd is not None:
            with suppress(BlockingIOError):
                os.read(self._fd, 65536)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _inotify() -> int | None:
    """Return a file descriptor that becomes readable when a watched file is written to, or None."""
    if not sys.platform.startswith("linux"):
        return None
    fd = int(ctypes.CDLL(None, use_errno=True).inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    return fd if fd >= 0 else None  # no more instances for this user: polling will do


def _watch(fd: int, path: str) -> bool:
    return int(ctypes.CDLL(None, use_errno=True).inotify_add_watch(fd, os.fsencode(path), IN_MODIFY)) >= 0
