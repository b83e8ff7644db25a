"""The supervisor's side of the nursery: asks it for children, one at a time, and is told how each ended."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final

import msgspec

from celeriac.model.message import COROUTINE
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pools.child_handle import ChildHandle
from celeriac.worker.pools.forkserver import Exited, Spawn, Spawned, Unborn
from celeriac.worker.pools.frames import PERMIT

__all__ = ["Spawner"]

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
PIPE_BYTES: Final = 16_384  # what a pipe holds at the least, where it cannot be asked

parse_from_nursery = msgspec.json.Decoder(Spawned | Unborn | Exited).decode


class Spawner:
    """Hears the nursery: `born` is handed each child, `exited` told who ended and how, `orphaned` that it has died."""

    def __init__(self, nursery: socket.socket, options: WorkerOptions, born: Callable[[ChildHandle], None],
                 exited: Callable[[int, int], None], orphaned: Callable[[], None]) -> None:  # fmt: skip
        nursery.setblocking(False)
        self._nursery = nursery
        self._options = options
        self._born = born
        self._exited = exited
        self._orphaned = orphaned
        self._awaited: tuple[asyncio.Future[None], Callable[[int], ChildHandle]] | None = None
        self._is_gone = False

    def begin(self) -> None:
        """Hear the nursery from now on."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._nursery, self._readable)

    def end(self) -> None:
        """Hear it no more."""
        self._loop.remove_reader(self._nursery)

    async def spawn(self, lane: str) -> None:
        """Have a child born. Raises OSError where that cannot be now: too many processes or files, or no nursery."""
        if self._is_gone:
            raise BrokenPipeError("the nursery has died")
        order = Spawn(lane, self._options.name, self._options.max_memory_per_child is not None)
        with ExitStack() as unborn:
            ours, theirs = socket.socketpair()
            unborn.callback(ours.close)
            with theirs:
                ours.setblocking(False)
                permits_read, permits_write = os.pipe()
                unborn.callback(os.close, permits_read)
                unborn.callback(os.close, permits_write)
                os.set_blocking(permits_read, False)
                os.set_blocking(permits_write, False)
                slots = _room(permits_write, self._options.coroutine_concurrency) if lane == COROUTINE else None
                socket.send_fds(self._nursery, [msgspec.json.encode(order)], [theirs.fileno(), permits_read])

            def handle(pid: int) -> ChildHandle:
                unborn.pop_all()
                return ChildHandle(self._loop, pid, lane, ours, permits_read, permits_write, slots)

            birth = self._loop.create_future()
            self._awaited = birth, handle
            await birth

    def _readable(self) -> None:
        try:
            data = self._nursery.recv(4096)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._gone()
            return
        news = parse_from_nursery(data)
        if isinstance(news, Exited):
            self._exited(news.pid, news.status)
        elif self._awaited is not None:
            (birth, handle), self._awaited = self._awaited, None
            if birth.cancelled():
                pass  # the child finds its socket closed, and ends
            elif isinstance(news, Unborn):
                birth.set_exception(OSError(news.why))
            else:
                self._born(handle(news.pid))
                birth.set_result(None)

    def _gone(self) -> None:
        self._is_gone = True
        self.end()
        if self._awaited is not None and not self._awaited[0].cancelled():
            self._awaited[0].set_exception(BrokenPipeError("the nursery has died"))
        self._awaited = None
        self._orphaned()


def _room(pipe: int, wanted: int) -> int:
    """Return for how many permits there is always room in a pipe, having it made larger for as many as are wanted."""
    if not sys.platform.startswith("linux"):
        return min(wanted, PIPE_BYTES // PERMIT.size)
    needed = wanted * PERMIT.size + 2 * PAGE_BYTES  # the first page and the last may be used in part
    if needed > fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ):
        with suppress(OSError):  # more than the system allows (see `/proc/sys/fs/pipe-max-size`)
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, needed)
    return min(wanted, (fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) - 2 * PAGE_BYTES) // PERMIT.size)
