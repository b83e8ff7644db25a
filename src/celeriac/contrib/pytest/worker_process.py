"""A worker in a process of its own, with its children, on a database file that it shares with the test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from celeriac.app.app import Celeriac
from celeriac.app.connections import file_url
from celeriac.contrib.pytest.isolation import on_servers
from celeriac.errors import CeleriacError, EncodeError
from celeriac.model.clock import Clock, Duration, seconds
from celeriac.tasks.pickling import address_of

__all__ = ["WorkerProcess", "running_process"]

NAME: Final = "test-worker"
LEASE_SECONDS: Final = 15.0
START_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.05
TAIL: Final = 3000  # characters of its log, in an error


class WorkerProcess:
    """`celeriac -A … worker`, as it runs in production."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        """The supervisor's; signal it to see what your tasks do."""
        return self.process.pid

    def output(self) -> str:
        """Return what it has written."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.pid}>"


@contextmanager
def running_process(app: Celeriac, folder: Path, *, concurrency: int = 2,
                    grace_seconds: Duration = 5.0) -> Iterator[WorkerProcess]:  # fmt: skip
    """Run a worker process for as long as a block lasts; the app is on a database in `folder` meanwhile.

    The app must be a global variable of a module that can be imported.
    """
    try:
        module, name = address_of(app, app._made_in)
    except EncodeError as error:
        raise CeleriacError(f"{app!r} is not a global variable of any module, so no other process can import it. Set "
                            "`celeriac_app = shop:app` in pytest's configuration.") from error  # fmt: skip
    url = file_url(str(folder / "celeriac.db"))
    own = {"broker_url": url, "result_backend": url, "worker_lease_seconds": LEASE_SECONDS}
    environment = {f"CELERIAC_{key.upper()}": str(value) for key, value in own.items()}
    environment["CELERIAC_WORKER_GRACE_SECONDS"] = str(seconds(grace_seconds, "grace_seconds"))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    clock = app.clock
    with on_servers(app, own):
        app.clock = Clock()  # the one of the other process
        try:
            command = [sys.executable, "-m", "celeriac", "-A", f"{module}:{name}", "worker", "-n", NAME,
                       "--concurrency", str(concurrency)]  # fmt: skip
            yield from _run(app, command, os.environ | environment, folder / "worker.log")
        finally:
            app.clock = clock


def _run(app: Celeriac, command: list[str], environment: dict[str, str], log: Path) -> Iterator[WorkerProcess]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    worker = WorkerProcess(process, log)
    try:
        _wait(app, worker)
        yield worker
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


def _wait(app: Celeriac, worker: WorkerProcess) -> None:
    """Wait until it takes tasks."""
    deadline = time.monotonic() + START_SECONDS
    while not app.broker.complete(app.broker.operations().workers()):
        if worker.process.poll() is not None or time.monotonic() > deadline:
            what = "did not start" if worker.process.poll() is None else f"ended with {worker.process.returncode}"
            raise CeleriacError(f"The worker process {what}:\n{worker.output()[-TAIL:]}")
        time.sleep(LOOK_SECONDS)
