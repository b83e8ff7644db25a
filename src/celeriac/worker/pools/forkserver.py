"""The nursery: a clean process, which has imported the app and done nothing else, and forks children from itself.

It is forked from the supervisor before that starts an event loop, opens a connection or a thread, so that its children
inherit none of those. It runs no code of the user's, and so is always there to do three things:

1. fork a child when the supervisor asks (`Spawn`, with the child's ends of its socket and its pipe);
2. tell the supervisor how a child ended (`Exited`);
3. kill all children when the supervisor is gone: their work belongs to others then.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import msgspec

from celeriac.app.app import Celeriac
from celeriac.model.message import COROUTINE
from celeriac.worker.pools.child import PlainChild
from celeriac.worker.pools.coroutine_child import CoroutineChild

__all__ = ["Exited", "Spawn", "Spawned", "Unborn", "open_nursery"]

PR_SET_PDEATHSIG: Final = 1
MESSAGE_BYTES: Final = 4096


class Spawn(msgspec.Struct, tag=True):
    """Fork a child."""

    lane: str
    worker: str
    reports_memory: bool = False


class Spawned(msgspec.Struct, tag=True):
    """A child was forked."""

    pid: int


class Unborn(msgspec.Struct, tag=True):
    """No child could be forked, for a reason that may pass: too many processes, no memory."""

    why: str


class Exited(msgspec.Struct, tag=True):
    """A child has ended, with a status as `os.waitstatus_to_exitcode` gives it: negative for a signal."""

    pid: int
    status: int


def open_nursery(app: Celeriac) -> socket.socket:
    """Fork the nursery; return the socket on which it takes orders (SOCK_SEQPACKET)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        theirs.close()
        return ours
    status = 1
    try:
        ours.close()
        _ForkServer(app, theirs).run()
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may escape into the supervisor's code, which stands below on this stack
        traceback.print_exc()
    finally:
        os._exit(status)


class _ForkServer:
    def __init__(self, app: Celeriac, orders: socket.socket) -> None:
        self._app = app
        self._orders = orders
        self._children: set[int] = set()

    def run(self) -> None:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        # Signals to the whole process group (Ctrl-C, a service manager's stop) are the supervisor's to act on. They
        # are caught, not ignored: an ignored signal would stay ignored in the programs that tasks start.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _nothing)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        _die_with_parent()
        gc.collect()
        gc.freeze()  # what is here stays shared with the children
        poll = select.poll()
        poll.register(self._orders, select.POLLIN)
        poll.register(wake_read, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if wake_read in ready:
                os.read(wake_read, 4096)
                self._reap()
            if self._orders.fileno() in ready and not self._obey():
                break
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _obey(self) -> bool:
        """Carry out one order; False when the supervisor has hung up."""
        data, fds, _, _ = socket.recv_fds(self._orders, MESSAGE_BYTES, 2)
        if not data:
            return False
        order = msgspec.json.decode(data, type=Spawn)
        try:
            if len(fds) < 2:
                raise OSError("too many open files")
            pid = os.fork()
        except OSError as error:
            self._say(Unborn(str(error)))
        else:
            if not pid:
                self._become(order, fds)
            self._children.add(pid)
            self._say(Spawned(pid))
        for fd in fds:
            os.close(fd)
        return True

    def _become(self, order: Spawn, fds: list[int]) -> None:
        """Be the child; never return."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _heed_sigterm_in_forks()
            _die_with_parent()
            self._orders.close()
            for fd in fds:
                os.set_inheritable(fd, False)  # by programs that tasks start
            link, permits = socket.socket(fileno=fds[0]), fds[1]
            link.settimeout(None)  # whatever the app has made the default
            kind: Any = CoroutineChild if order.lane == COROUTINE else PlainChild
            kind(self._app, order.worker, link, permits, order.reports_memory).work()
            status = 0
        except (BrokenPipeError, ConnectionResetError):
            pass  # the supervisor is gone
        except BaseException:  # noqa: BLE001 - a child must not run the nursery's code
            traceback.print_exc()
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
            self._say(Exited(pid, os.waitstatus_to_exitcode(status)))

    def _say(self, report: Spawned | Unborn | Exited) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the supervisor is gone; reading its orders will tell
            self._orders.send(msgspec.json.encode(report))


def _nothing(signum: int, frame: FrameType | None) -> None:
    pass


def _heed_sigterm_in_forks() -> None:
    """Let what tasks fork end at SIGTERM, as `multiprocessing` takes for granted, from its first moment on."""
    before = threading.local()  # the mask of signals in the thread that forks

    def hold() -> None:
        before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def let_go() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before.mask)

    def heed() -> None:
        if signal.getsignal(signal.SIGTERM) is _nothing:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        let_go()

    os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=heed)


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends; elsewhere the closed socket has to do."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
