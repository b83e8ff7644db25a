"""Where plain tasks are run in threads: `ThreadPool` puts a job into a seat, and the seat's thread does it."""

from __future__ import annotations

import contextlib
import ctypes
import queue
import threading
from collections.abc import Callable

from celeriac.errors import SoftTimeLimitExceeded, TaskRevoked, TimeLimitExceeded
from celeriac.ports.broker import Delivery

__all__ = ["INTERRUPTS", "Job", "WorkerThread"]

INTERRUPTS = (SoftTimeLimitExceeded, TimeLimitExceeded, TaskRevoked)
"""What `WorkerThread.raise_inside` raises."""

Job = Callable[[], None]


class WorkerThread:
    """A place where one plain task at a time is run: a thread that waits for jobs."""

    def __init__(self) -> None:
        self.thread_id = 0
        self.done = 0
        self.running: Delivery | None = None
        self.since = 0.0
        self.warned = False
        self.given_up = False
        self.disowned = False  # what it runs is no longer ours: how that ends is of no interest
        self.left = threading.Event()
        self._job: Job | None = None
        self._leaving = False
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def occupy(self) -> None:
        """Do jobs in this thread, until `leave`."""
        self.thread_id = threading.get_ident()
        while not self.left.is_set():
            with contextlib.suppress(*INTERRUPTS):  # meant for a job that had just ended, and too late for it
                self._do_jobs()

    def _do_jobs(self) -> None:
        """Do jobs, until `leave`, or until something is raised from outside between two of them.

        That can happen as the bell has just been heard; so the bell says no more than "look", and the job stands here.
        """
        while True:
            if self._job is not None:
                self._job()
            elif self._leaving:
                self.left.set()
                return
            else:
                self._bell.get()

    def put(self, job: Job) -> None:
        """Give the seat a job, which must call `take` where it can catch what is raised inside."""
        self._raise(ctypes.py_object())  # nothing: what comes too late for the last job is not meant for this one
        self._job = job
        self._bell.put(None)

    def take(self) -> bool:
        """Take the job that stands here, as its first act; False when it has been taken."""
        job, self._job = self._job, None
        return job is not None

    def leave(self) -> None:
        """Let the seat's thread go, when it has done its job."""
        self._leaving = True
        self._bell.put(None)

    def raise_inside(self, kind: type[BaseException]) -> None:
        """Raise an exception in the thread, as soon as it runs Python code."""
        self._raise(ctypes.py_object(kind))

    def _raise(self, kind: ctypes.py_object[type[BaseException]]) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread_id), kind)
