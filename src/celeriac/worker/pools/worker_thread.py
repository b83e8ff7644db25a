"""A thread that runs plain tasks, one at a time. `ThreadPool` gives it jobs."""

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
"""The exceptions that `WorkerThread.raise_inside` raises."""

Job = Callable[[], None]


class WorkerThread:
    """Runs jobs in the thread that calls `run`. All other methods but `start_job` are for the supervisor's thread."""

    def __init__(self) -> None:
        self.thread_id = 0
        self.done = 0
        self.running: Delivery | None = None
        self.since = 0.0  # monotonic; when that was given to the thread
        self.warned = False  # its soft time limit was raised
        self.retired = False  # the thread has left the pool
        self.abandoned = False  # what runs was given up, and the thread stays: ignore how that ends
        self.stopped = threading.Event()
        self._job: Job | None = None
        self._stopping = False
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run(self) -> None:
        """Run jobs in this thread, until `stop`."""
        self.thread_id = threading.get_ident()
        while not self.stopped.is_set():
            with contextlib.suppress(*INTERRUPTS):  # raised too late: the job that it was for had ended
                self._run_jobs()

    def _run_jobs(self) -> None:
        """Run jobs, until `stop`, or until an exception from outside is raised between two of them.

        An exception that is pending while this waits is raised when it wakes up, before the next job starts. So a
        wake-up carries no job, which would be lost: it only says to look.
        """
        while True:
            if self._job is not None:
                self._job()
            elif self._stopping:
                self.stopped.set()
                return
            else:
                self._wakeups.get()

    def put(self, job: Job) -> None:
        """Give the thread a job. The job must call `start_job` where it can catch the exceptions of `raise_inside`."""
        self._job = job
        self._wakeups.put(None)

    def start_job(self) -> bool:
        """Remove the job that is to run now; return False if it was removed before. The job calls this first."""
        job, self._job = self._job, None
        return job is not None

    def stop(self) -> None:
        """Let the thread end after its job."""
        self._stopping = True
        self._wakeups.put(None)

    def raise_inside(self, kind: type[BaseException]) -> None:
        """Raise an exception in the thread, as soon as it runs Python code."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread_id), ctypes.py_object(kind))
