"""A child that runs plain functions, one at a time: it takes a permit, runs, reports, and starts again.

It is a process forked by the fork server. When the supervisor closes the pipe of permits, it ends its run and exits.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from types import FrameType
from typing import NoReturn

from celeriac import signals, states
from celeriac.app.app import Celeriac
from celeriac.errors import SoftTimeLimitExceeded
from celeriac.model.message import PLAIN, Message
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import loads
from celeriac.tasks.execution import Executor
from celeriac.tasks.request import Request, current
from celeriac.worker.pools.frames import (
    PERMIT,
    RECEIVE_BYTES,
    FrameDecoder,
    Ran,
    Ready,
    Run,
    StateReport,
    frame,
    parse_to_child,
)
from celeriac.worker.pools.titles import ChildTitle

__all__ = ["PlainChild", "exit_fork", "state_outcome"]


class PlainChild:
    """The main loop of a plain child."""

    def __init__(self, app: Celeriac, worker: str, sock: socket.socket, permits: int, reports_memory: bool) -> None:
        self._app = app
        self._worker = worker
        self._socket = sock
        self._permits = permits
        self._reports_memory = reports_memory
        self._decoder = FrameDecoder()
        self._runs: deque[Run] = deque()
        self._running = 0
        self._since = 0.0  # monotonic; when a run with a soft time limit began
        self._interrupted: Request | None = None  # whose soft time limit was raised
        self._pid = os.getpid()
        self._send_lock = threading.Lock()  # any thread of a task may report a state; frames must not mix
        self._is_sending = False  # the main thread sends a frame, or waits for the lock
        self._postponed: SoftTimeLimitExceeded | None = None  # raised when the main thread has sent its frame
        self._executor = Executor(app, worker, self._report)
        self._title = ChildTitle(worker)
        self._poll = select.poll()
        self._poll.register(permits, select.POLLIN)

    def work(self) -> None:
        """Run until the supervisor closes the pipe of permits."""
        signal.signal(signal.SIGUSR1, self._soft_time_limit)  # a signal may come before the first task starts
        signals.worker_process_init.send(self._worker, lane=PLAIN)
        self._send(Ready())
        while (index := self._take_permit()) is not None:
            run = self._run_of(index)
            if run is None:
                break
            self._running = index
            if self._title.is_shown:
                self._title.show(run.message.task)
            if run.message.soft_time_limit is not None:
                signal.signal(signal.SIGUSR1, self._soft_time_limit)  # an earlier task may have replaced the handler
                self._since = time.monotonic()
            outcome = self._executor.run(run.message, run.deliveries)
            if os.getpid() != self._pid:
                exit_fork(outcome)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if self._reports_memory else 0
            self._send(Ran(index, outcome, memory))
        signals.worker_process_shutdown.send(self._worker, pid=self._pid, exitcode=0, lane=PLAIN)
        self._app.tracing.flush()

    def _take_permit(self) -> int | None:
        """Wait for a permit and take it. None: the supervisor has closed the pipe."""
        while True:
            try:
                data = os.read(self._permits, PERMIT.size)
            except BlockingIOError:
                if self._title.is_shown:
                    self._title.show("idle")
                self._poll.poll()
                continue
            return PERMIT.unpack(data)[0] if data else None

    def _run_of(self, index: int) -> Run | None:
        """Return the run of a permit; the runs before it were recalled. None: the supervisor is gone."""
        while True:
            while self._runs:
                run = self._runs.popleft()
                if run.index == index:
                    return run
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                return None
            for content in self._decoder.feed(data):
                self._runs.extend(parse_to_child(content).runs)

    def _report(self, message: Message, state: str, value: bytes | None) -> None:
        if os.getpid() == self._pid:  # a process that a task has forked must not send: its frames would mix with ours
            self._send(StateReport(self._running, state_outcome(message, state, value)))

    def _send(self, content: Ready | Ran | StateReport) -> None:
        """Send a whole frame. A soft time limit that passes meanwhile is raised after it."""
        data = frame(content)
        if threading.current_thread() is not threading.main_thread():
            with self._send_lock:
                self._socket.sendall(data)
            return
        self._is_sending = True
        try:
            with self._send_lock:
                self._socket.sendall(data)
        finally:
            self._is_sending = False
        postponed, self._postponed = self._postponed, None
        if postponed is not None and current.get() is self._interrupted:
            raise postponed

    def _soft_time_limit(self, signum: int, stack: FrameType | None) -> None:
        """Raise in the running task, once; do nothing before its limit. The supervisor repeats the signal."""
        request = current.get()
        if request is not None and request is not self._interrupted:
            limit = request.message.soft_time_limit
            if limit is not None and time.monotonic() - self._since >= 0.99 * limit:
                self._interrupted = request
                error = SoftTimeLimitExceeded(f"The soft time limit of {limit:g} s has passed.")
                if not self._is_sending:
                    raise error
                self._postponed = error


def exit_fork(outcome: Outcome) -> NoReturn:
    """Exit a process that a task has forked and that has left the task (by `sys.exit`, say): it is not a child."""
    code = _exit_code(outcome)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _exit_code(outcome: Outcome) -> int:
    """Return the exit code of a process whose task has ended like this; after `sys.exit`, what it was given."""
    failure = outcome.failure
    if failure is None or (failure.module, failure.type) != ("builtins", "SystemExit") or failure.args is None:
        return 0 if outcome.state == states.SUCCESS else 1
    given = loads(failure.args)
    code = given[0] if given else None
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    sys.stderr.write(f"{code}\n")  # as the interpreter does
    return 1


def state_outcome(message: Message, state: str, value: bytes | None) -> Outcome:
    """Return a state that a running task reports, as an outcome that is not final."""
    return Outcome(id=message.id, task=message.task, state=state, attempt=message.attempt,
                   value=value, started_at=time.time(), group_id=message.group_id,
                   parent_id=message.parent_id, root_id=message.root_id, reply_to=message.reply_to)  # fmt: skip
