"""The supervisor's connection to the fork server: asks for children, one at a time, and learns how each ended.

Used by `ProcessPool`.
"""

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
from celeriac.worker.pools.forkserver import Exited, Spawn, Spawned, SpawnFailed
from celeriac.worker.pools.frames import PERMIT

__all__ = ["Spawner"]

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
PIPE_BYTES: Final = 16_384  # the least that a pipe holds, where its size cannot be read

parse_report = msgspec.json.Decoder(Spawned | SpawnFailed | Exited).decode


class Spawner:
    """Spawns children. Calls `spawned` with each, `exited` with pid and status, `orphaned` if the fork server dies."""

    def __init__(self, forkserver: socket.socket, options: WorkerOptions, spawned: Callable[[ChildHandle], None],
                 exited: Callable[[int, int], None], orphaned: Callable[[], None]) -> None:  # fmt: skip
        forkserver.setblocking(False)
        self._forkserver = forkserver
        self._options = options
        self._spawned = spawned
        self._exited = exited
        self._orphaned = orphaned
        self._spawning: tuple[asyncio.Future[None], Callable[[int], ChildHandle]] | None = None
        self._is_gone = False

    def begin(self) -> None:
        """Start reading the fork server's reports."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._forkserver, self._readable)

    def end(self) -> None:
        """Stop reading them."""
        self._loop.remove_reader(self._forkserver)

    async def spawn(self, lane: str) -> None:
        """Spawn a child. Raises OSError if that fails for now (too many processes or open files), or for good."""
        if self._is_gone:
            raise BrokenPipeError("the fork server has died")
        request = Spawn(lane, self._options.name, self._options.max_memory_per_child is not None)
        with ExitStack() as on_failure:
            ours, theirs = socket.socketpair()
            on_failure.callback(ours.close)
            with theirs:
                ours.setblocking(False)
                permits_read, permits_write = os.pipe()
                on_failure.callback(os.close, permits_read)
                on_failure.callback(os.close, permits_write)
                os.set_blocking(permits_read, False)
                os.set_blocking(permits_write, False)
                slots = _pipe_slots(permits_write, self._options.coroutine_concurrency) if lane == COROUTINE else None
                socket.send_fds(self._forkserver, [msgspec.json.encode(request)], [theirs.fileno(), permits_read])

            def handle(pid: int) -> ChildHandle:
                on_failure.pop_all()
                return ChildHandle(self._loop, pid, lane, ours, permits_read, permits_write, slots)

            done = self._loop.create_future()
            self._spawning = done, handle
            await done

    def _readable(self) -> None:
        try:
            data = self._forkserver.recv(4096)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._gone()
            return
        report = parse_report(data)
        if isinstance(report, Exited):
            self._exited(report.pid, report.status)
        elif self._spawning is not None:
            (done, handle), self._spawning = self._spawning, None
            if done.cancelled():
                pass  # the child finds its socket closed, and exits
            elif isinstance(report, SpawnFailed):
                done.set_exception(OSError(report.why))
            else:
                self._spawned(handle(report.pid))
                done.set_result(None)

    def _gone(self) -> None:
        self._is_gone = True
        self.end()
        if self._spawning is not None and not self._spawning[0].cancelled():
            self._spawning[0].set_exception(BrokenPipeError("the fork server has died"))
        self._spawning = None
        self._orphaned()


def _pipe_slots(pipe: int, wanted: int) -> int:
    """Return how many permits always fit in a pipe, at most `wanted`. Enlarges the pipe if it can."""
    if not sys.platform.startswith("linux"):
        return min(wanted, PIPE_BYTES // PERMIT.size)
    needed = wanted * PERMIT.size + 2 * PAGE_BYTES  # the first page and the last may be used in part
    if needed > fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ):
        with suppress(OSError):  # more than the system allows (see `/proc/sys/fs/pipe-max-size`)
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, needed)
    return min(wanted, (fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) - 2 * PAGE_BYTES) // PERMIT.size)
