"""The fork server: a clean process that has imported the app and done nothing else, and forks the children.

It is forked from the supervisor before that starts an event loop or a thread or opens a connection, so that children
inherit none of those. It runs no user code. It does three things:

1. fork a child when the supervisor asks (`Spawn`, with the child's ends of its socket and its pipe);
2. report to the supervisor how a child ended (`Exited`);
3. kill all children when the supervisor is gone: other workers will run their messages.

Started by `run_worker`; the supervisor talks to it through `Spawner`.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import msgspec

from celeriac.app.app import Celeriac
from celeriac.model.message import COROUTINE
from celeriac.worker.pools.child import PlainChild
from celeriac.worker.pools.coroutine_child import CoroutineChild
from celeriac.worker.pools.titles import set_title

__all__ = ["Exited", "Spawn", "SpawnFailed", "Spawned", "exit_reason", "start_forkserver"]

log = logging.getLogger("celeriac.worker")

PR_SET_PDEATHSIG: Final = 1
REQUEST_BYTES: Final = 4096


class Spawn(msgspec.Struct, tag=True):
    """Fork a child."""

    lane: str
    worker: str
    reports_memory: bool = False


class Spawned(msgspec.Struct, tag=True):
    """A child was forked."""

    pid: int


class SpawnFailed(msgspec.Struct, tag=True):
    """No child could be forked, for a reason that may pass: too many processes or open files, no memory."""

    why: str


class Exited(msgspec.Struct, tag=True):
    """A child has ended, with a status as from `os.waitstatus_to_exitcode`: negative for a signal."""

    pid: int
    status: int


def exit_reason(status: int) -> str:
    """Return the status of `Exited` in words."""
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"exited with status {status}"


def start_forkserver(app: Celeriac, worker: str) -> socket.socket:
    """Fork the fork server of a worker; return the socket (SOCK_SEQPACKET) for its requests and reports."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        theirs.close()
        return ours
    status = 1
    try:
        ours.close()
        set_title(f"fork server of {worker}")
        _ForkServer(app, theirs).run()
        status = 0
    except BaseException:  # this process must never return into the supervisor's code
        log.critical("The fork server has failed", exc_info=True)
    finally:
        os._exit(status)


class _ForkServer:
    def __init__(self, app: Celeriac, supervisor: socket.socket) -> None:
        self._app = app
        self._supervisor = supervisor
        self._children: set[int] = set()

    def run(self) -> None:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        # Only the supervisor acts on signals to the process group (Ctrl-C, a service manager's stop). They are caught
        # here, not ignored: an ignored signal would stay ignored in the programs that tasks start.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _ignore)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        _die_with_parent()
        gc.collect()
        gc.freeze()  # keeps this memory shared with the children
        poll = select.poll()
        poll.register(self._supervisor, select.POLLIN)
        poll.register(wake_read, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if wake_read in ready:
                os.read(wake_read, 4096)
                self._reap()
            if self._supervisor.fileno() in ready and not self._handle_request():
                break
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _handle_request(self) -> bool:
        """Handle one request; return False if the supervisor has closed the socket."""
        data, fds, _, _ = socket.recv_fds(self._supervisor, REQUEST_BYTES, 2)
        if not data:
            return False
        request = msgspec.json.decode(data, type=Spawn)
        try:
            if len(fds) < 2:
                raise OSError("too many open files")
            pid = os.fork()
        except OSError as error:
            self._report(SpawnFailed(str(error)))
        else:
            if not pid:
                self._run_child(request, fds)
            self._children.add(pid)
            self._report(Spawned(pid))
        for fd in fds:
            os.close(fd)
        return True

    def _run_child(self, request: Spawn, fds: list[int]) -> None:
        """Run a child in this process, which was forked for it. Never returns."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _restore_sigterm_in_forks()
            _die_with_parent()
            self._supervisor.close()
            for fd in fds:
                os.set_inheritable(fd, False)  # for programs that tasks start
            sock, permits = socket.socket(fileno=fds[0]), fds[1]
            sock.settimeout(None)  # the app may have set a default timeout
            set_title(f"{'coroutines' if request.lane == COROUTINE else 'idle'}, child of {request.worker}")
            kind: Any = CoroutineChild if request.lane == COROUTINE else PlainChild
            kind(self._app, request.worker, sock, permits, request.reports_memory).work()
            status = 0
        except (BrokenPipeError, ConnectionResetError):
            pass  # the supervisor is gone
        except BaseException:  # a child must never return into the fork server's code
            log.critical("A child process has failed and exits", exc_info=True)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._children.discard(pid)
            self._report(Exited(pid, os.waitstatus_to_exitcode(status)))

    def _report(self, report: Spawned | SpawnFailed | Exited) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the supervisor is gone; the next read will show it
            self._supervisor.send(msgspec.json.encode(report))


def _ignore(signum: int, frame: FrameType | None) -> None:
    pass


def _restore_sigterm_in_forks() -> None:
    """Let processes that tasks fork end at SIGTERM from their first moment on, as `multiprocessing` expects."""
    before = threading.local()  # the signal mask of the thread that forks

    def hold() -> None:
        before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before.mask)

    def restore() -> None:
        if signal.getsignal(signal.SIGTERM) is _ignore:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=restore)


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends. Elsewhere it ends when it finds its socket closed."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
