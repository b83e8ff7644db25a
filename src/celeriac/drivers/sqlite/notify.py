"""Wakes waiting processes when another process has committed, without polling.

After a commit, the writer writes one byte to the file `…-bell` beside the database, and inotify wakes all processes
that watch this file. (SQLite's own log cannot be watched instead: it is written before the commit is visible, so that
waiting processes would read too early and sleep on.) Without inotify, a waiter reads again every few milliseconds. If a
writer is killed between its commit and the byte, waiters find out when they read again, at the latest after
`LONGEST_SECONDS`.

A waiter notes `generation` *before* it reads the database, and passes it to `wait` or `changed`: a commit in between
ends the wait at once.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from celeriac.lazy import LazyModule

if TYPE_CHECKING:
    import asyncio
    import ctypes
else:  # for those who wait; most callers of tasks do not
    asyncio = LazyModule("asyncio")
    ctypes = LazyModule("ctypes")

__all__ = ["BELL", "Bell", "Watch"]

BELL: Final = "-bell"  # the end of the file's name, after that of the database
IN_MODIFY: Final = 0x2
POLL_SECONDS: Final = 0.005
LONGEST_SECONDS: Final = 1.0


log = logging.getLogger("celeriac.sqlite")


class Bell:
    """Wakes the processes that watch its file. Belongs to one connection, and is closed with it."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = _open_bell(path)
        except OSError:  # this user may only read there: waiters find out when they read again
            self._fd = -1

    def ring(self) -> None:
        """Wake the watching processes. Never raises, because the commit has succeeded."""
        try:  # noqa: SIM105 - called at every commit: `suppress` would cost more than the write
            os.pwrite(self._fd, b"\0", 0)
        except OSError:  # the disk is full, or there is no file
            pass

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


class Watch:
    """Waits until a file is written to. Belongs to one thread and its event loops."""

    def __init__(self, path: str) -> None:
        self.generation = 0
        self.moves = 0  # how often the database was replaced; what was read before is void then
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
        """Coroutine version of `wait`."""
        if self._fd is None:
            await asyncio.sleep(min(timeout, POLL_SECONDS))
            return
        if self.generation == seen and not self._waiters:  # what was written already needs no event loop to be found
            self._drain()
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
        """Return the waiters of a loop; forget those of closed loops."""
        if loop not in self._waiters and self._fd is not None:
            self._forget_closed_loops()
            self._waiters[loop] = set()
            loop.add_reader(self._fd, self._readable)
        return self._waiters[loop]

    def _forget_closed_loops(self) -> None:
        for loop in [loop for loop in self._waiters if loop.is_closed()]:
            del self._waiters[loop]

    def move(self, path: str) -> None:
        """Watch the file that is now at this path, and wake all waiters: what they have read is void."""
        if self._fd is not None:
            _watch(self._fd, path)  # if that fails, waiters read again every `LONGEST_SECONDS`
        self.path = path
        self.moves += 1
        self.generation += 1
        self._readable()

    @property
    def busy(self) -> bool:
        """Whether a coroutine is waiting."""
        return not all(loop.is_closed() for loop in self._waiters)

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = self._poll = None

    def __del__(self) -> None:
        self.close()

    def _readable(self) -> None:
        self._drain()
        self._forget_closed_loops()
        for waiters in self._waiters.values():  # the first loop to wake up has read the events of all
            for waiter in waiters:
                _finish(waiter)

    def _drain(self) -> None:
        """Take note of what was written."""
        if self._fd is not None:
            with suppress(BlockingIOError):
                os.read(self._fd, 65536)
                self.generation += 1


def _open_bell(path: str) -> int:
    """Open a bell file, or create it with the permissions of its database. Returns -1 for a file of another kind.

    Does not follow symbolic links, and writes to no file that belongs to another user than the database.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    database = os.stat(path.removesuffix(BELL))
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        os.fchmod(fd, stat.S_IMODE(database.st_mode) & 0o666)
    except FileExistsError:
        fd = os.open(path, flags)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (database.st_uid, os.geteuid()):
        os.close(fd)
        log.warning("%s is not a regular file of this user; processes that wait for the database look for changes "
                    "once a second. Remove it.", path)  # fmt: skip
        return -1
    return fd


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _inotify() -> int | None:
    """Return a file descriptor that becomes readable when a watched file is written to; None without inotify."""
    if not sys.platform.startswith("linux"):
        return None
    fd = int(ctypes.CDLL(None, use_errno=True).inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    return fd if fd >= 0 else None  # this user has no instances left: fall back to polling


def _watch(fd: int, path: str) -> bool:
    return int(ctypes.CDLL(None, use_errno=True).inotify_add_watch(fd, os.fsencode(path), IN_MODIFY)) >= 0
