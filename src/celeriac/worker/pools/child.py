"""A child that runs plain functions, one at a time: take a permit, run, report, again.

Runs in a process forked from the nursery. Ends when the supervisor closes the pipe of permits, after what it has begun.
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
from typing import Any, NoReturn

from celeriac import signals, states
from celeriac.app.app import Celeriac
from celeriac.errors import SoftTimeLimitExceeded
from celeriac.model.message import PLAIN, Message
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import dumps
from celeriac.tasks.execution import Executor, Request, current
from celeriac.worker.pools.frames import PERMIT, RECEIVE_BYTES, Frames, Ran, Ready, Run, Told, frame, parse_to_child

__all__ = ["PlainChild", "leave", "told"]


class PlainChild:
    """The loop of a plain child."""

    def __init__(self, app: Celeriac, worker: str, link: socket.socket, permits: int, reports_memory: bool) -> None:
        self._link = link
        self._permits = permits
        self._reports_memory = reports_memory
        self._frames = Frames()
        self._runs: deque[Run] = deque()
        self._running = 0
        self._interrupted: Request | None = None  # by its soft time limit
        self._pid = os.getpid()
        self._speaking = threading.Lock()  # frames are written whole, whichever thread tells
        self._in_frame = False  # the main thread writes one, or waits to
        self._overdue: SoftTimeLimitExceeded | None = None  # to be raised when it has
        self._executor = Executor(app, worker, self._tell)
        self._poll = select.poll()
        self._poll.register(permits, select.POLLIN)

    def work(self) -> None:
        """Run what comes, until the supervisor hangs up."""
        signal.signal(signal.SIGUSR1, self._soft_time_limit)  # a signal may come late, for a task that has ended
        signals.worker_process_init.send(self, lane=PLAIN)
        self._say(Ready())
        while (index := self._take_permit()) is not None:
            run = self._run_of(index)
            if run is None:
                break
            self._running = index
            if run.message.soft_time_limit is not None:
                signal.signal(signal.SIGUSR1, self._soft_time_limit)  # a task before may have set it
            outcome = self._executor.run(run.message, run.deliveries)
            if os.getpid() != self._pid:
                leave(outcome)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if self._reports_memory else 0
            self._say(Ran(index, outcome, memory))
        signals.worker_process_shutdown.send(self, lane=PLAIN)

    def _take_permit(self) -> int | None:
        """Wait for a permit, and take it. None: there will be no more."""
        while True:
            try:
                data = os.read(self._permits, PERMIT.size)
            except BlockingIOError:
                self._poll.poll()
                continue
            return PERMIT.unpack(data)[0] if data else None

    def _run_of(self, index: int) -> Run | None:
        """Return the run that a permit stands for; runs before it have been called back. None: no supervisor."""
        while True:
            while self._runs:
                run = self._runs.popleft()
                if run.index == index:
                    return run
            data = self._link.recv(RECEIVE_BYTES)
            if not data:
                return None
            for content in self._frames.feed(data):
                self._runs.extend(parse_to_child(content).runs)

    def _tell(self, message: Message, state: str, meta: Any) -> None:
        if os.getpid() == self._pid:  # what a task has forked has no say here: its frames would mix with ours
            self._say(Told(self._running, told(message, state, meta)))

    def _say(self, content: Ready | Ran | Told) -> None:
        """Write a frame whole: a soft time limit that passes meanwhile is raised after it."""
        data = frame(content)
        if threading.current_thread() is not threading.main_thread():
            with self._speaking:
                self._link.sendall(data)
            return
        self._in_frame = True
        try:
            with self._speaking:
                self._link.sendall(data)
        finally:
            self._in_frame = False
        overdue, self._overdue = self._overdue, None
        if overdue is not None and current.get() is self._interrupted:
            raise overdue

    def _soft_time_limit(self, signum: int, stack: FrameType | None) -> None:
        """Raise in the task that is running, once; do nothing if its limit has not passed. The signal is repeated."""
        request = current.get()
        if request is not None and request is not self._interrupted:
            limit = request.message.soft_time_limit
            if limit is not None and time.time() - request.started >= 0.99 * limit:
                self._interrupted = request
                error = SoftTimeLimitExceeded(f"The soft time limit of {limit:g} s has passed.")
                if not self._in_frame:
                    raise error
                self._overdue = error


def leave(outcome: Outcome) -> NoReturn:
    """End a process that a task has forked and let run on (by `sys.exit`, say): it is no child of the worker's."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if outcome.state == states.SUCCESS else 1)


def told(message: Message, state: str, meta: Any) -> Outcome:
    """Return what a task tells of itself in the form of an outcome that is not final."""
    return Outcome(id=message.id, task=message.task, state=state, attempt=message.attempt,
                   value=None if meta is None else dumps(meta), started_at=time.time(), group_id=message.group_id,
                   parent_id=message.parent_id, root_id=message.root_id, reply_to=message.reply_to)  # fmt: skip
