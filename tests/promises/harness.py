"""What the promises are tested with: a folder with a victim app, real workers in it, and ways to wait for what they do.

Nothing here sleeps for a guessed time: `wait_for` looks until a condition holds, and fails with the workers' logs.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import psutil
import pytest

from celeriac import Celeriac
from celeriac.inspector import Inspector

__all__ = ["LEASE", "Run", "Stage", "Worker", "lives", "set_stage", "stage", "wait_for"]

LEASE = 2.0  # seconds
PATIENCE = 30.0  # seconds; the machine may be slow, and other work may run beside us

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("COMMIT")
"""

RECORDS = """
CREATE TABLE recorded (id TEXT);
CREATE TRIGGER recorded_first AFTER INSERT ON outcomes WHEN NEW.final BEGIN INSERT INTO recorded VALUES (NEW.id); END;
CREATE TRIGGER recorded_again AFTER UPDATE ON outcomes WHEN NEW.final BEGIN INSERT INTO recorded VALUES (NEW.id); END;
"""


class Run(NamedTuple):
    """A line of the journal."""

    what: str  # "start" or "end"
    id: str
    attempt: int
    deliveries: int
    pid: int
    at: float  # seconds since the epoch
    worker: str


def wait_for(condition: Callable[[], Any], what: str = "the condition", seconds: float = PATIENCE) -> Any:
    """Return what the condition gives, as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come about within {seconds:g} s")
        time.sleep(0.01)
    return found


def lives(process: psutil.Process) -> bool:
    """Say whether a process is more than an entry in the table that nobody has collected yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Worker:
    """`python -m celeriac -A victim worker`, with its nursery and its children."""

    def __init__(self, folder: Path, name: str, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        command = [sys.executable, "-m", "celeriac", "-A", "victim", "worker", "-n", name, *arguments]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, start_new_session=True)  # fmt: skip
        (folder / f"{name}.pid").write_text(str(self.pid))

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self.process.pid

    def text(self) -> str:
        """Return what the worker has written."""
        return self.log.read_text(errors="replace")

    def wait_ready(self) -> Worker:
        def ready() -> bool:
            assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}:\n{self.text()}"
            return "is ready" in self.text()

        wait_for(ready, f"{self.name} being ready")
        return self

    def nursery(self) -> psutil.Process:
        (nursery,) = psutil.Process(self.pid).children()
        return nursery

    def children(self) -> list[psutil.Process]:
        return self.nursery().children()

    def tree(self) -> list[psutil.Process]:
        """Return all its processes, the supervisor first."""
        with suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(self.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        return []

    def signal(self, number: int) -> None:
        """Signal the supervisor alone."""
        os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        """Signal every process of it."""
        for process in self.tree():
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for the supervisor's end; return its exit code."""
        return self.process.wait(seconds)

    def stop(self) -> int:
        """Stop it as a deploy does; return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> list[psutil.Process]:
        """Kill the supervisor alone, with SIGKILL; return the processes that it had."""
        others = self.tree()[1:]
        self.process.kill()
        self.process.wait()
        return others

    def end(self) -> None:
        """Leave nothing behind."""
        processes = self.tree()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        wait_for(lambda: not any(map(lives, processes)), "the end of the worker's processes")

    def __repr__(self) -> str:
        return f"<Worker {self.name} {self.pid}>"


class Stage:
    """A folder with a victim in it, the victim's app as a producer has it, and workers."""

    def __init__(self, folder: Path, victim: ModuleType, environment: dict[str, str]) -> None:
        self.folder = folder
        self.victim = victim
        self.app: Celeriac = victim.app
        self.database = folder / "celeriac.db"
        self.workers: list[Worker] = []
        self._environment = environment

    # --- Workers --------------------------------------------------------------------------------------

    def worker(self, *arguments: str, name: str = "", ready: bool = True, **settings: Any) -> Worker:
        """Start a worker with arguments of the command line, and settings (as variables of its environment)."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
        settings = {"worker_lease_seconds": LEASE, "worker_concurrency": 2, **settings}
        environment |= {f"CELERIAC_{setting.upper()}": str(value) for setting, value in settings.items()}
        name = name or f"worker{len(self.workers) + 1}"
        worker = Worker(self.folder, name, arguments, environment | self._environment)
        self.workers.append(worker)
        return worker.wait_ready() if ready else worker

    def inspector(self) -> Inspector:
        return Inspector(self.app, timeout=10.0)

    # --- Sending --------------------------------------------------------------------------------------

    def send(self, lane: str, how: str, value: Any = None, **options: Any) -> Any:
        """Send the victim's `plain` or `coroutine`."""
        return self.app.tasks[f"victim.{lane}"].apply_async((how, value), **options)

    # --- Seeing ---------------------------------------------------------------------------------------

    def journal(self, what: str = "start") -> list[Run]:
        """Return the runs that were started (or ended), in order."""
        runs = []
        for line in (self.folder / "journal").read_text().splitlines():
            kind, id, attempt, deliveries, pid, at, worker = line.split(" ")
            if kind == what:
                runs.append(Run(kind, id, int(attempt), int(deliveries), int(pid), float(at), worker))
        return runs

    def runs(self, *results: Any) -> list[Run]:
        """Return the runs of these results that were started."""
        ids = {result.id for result in results}
        return [run for run in self.journal() if run.id in ids]

    def started(self, *results: Any, times: int = 1) -> Run:
        """Wait until there are so many runs of each; return the newest."""
        for result in results:
            self.wait(lambda result=result: len(self.runs(result)) >= times, f"run {times} of {result}")
        return self.runs(*results)[-1]

    def rows(self, query: str, *parameters: Any) -> list[Any]:
        """Ask the database itself."""
        connection = sqlite3.connect(self.database, timeout=10)
        try:
            return connection.execute(query, parameters).fetchall()
        finally:
            connection.close()

    def record(self) -> None:
        """From now on note each time that a final outcome is written."""
        self.app.broker.operations()
        self.app.backend.fetch(["nobody"])  # creates the database
        connection = sqlite3.connect(self.database, timeout=10)
        connection.executescript(RECORDS)
        connection.close()

    def recorded(self) -> dict[str, int]:
        """Return how often a final outcome was written, by id."""
        return dict(self.rows("SELECT id, count(*) FROM recorded GROUP BY id"))

    def wait(self, condition: Callable[[], Any], what: str = "the condition", seconds: float = PATIENCE) -> Any:
        """Do as `wait_for`; a failure shows what the workers wrote."""
        try:
            return wait_for(condition, what, seconds)
        except AssertionError as error:
            logs = "\n".join(f"--- {worker.name}\n{worker.text()[-3000:]}" for worker in self.workers)
            raise AssertionError(f"{error}\n{logs}") from None

    # --- Interfering ----------------------------------------------------------------------------------

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def release(self, name: str) -> None:
        """Make the file that `holds` waits for."""
        (self.folder / name).touch()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the database's write lock in another process."""
        self.app.backend.fetch(["nobody"])  # creates the database
        command = [sys.executable, "-c", LOCK, str(self.database)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "locked\n"
            try:
                yield
            finally:
                process.stdin.close()
                process.wait(10)

    def end(self) -> None:
        for worker in self.workers:
            worker.end()
        self.app.close()


@contextmanager
def set_stage(folder: Path, **environment: str) -> Iterator[Stage]:
    """Write a victim into a folder, import it here, and take all down afterwards."""
    path = folder / "victim.py"
    shutil.copy(Path(__file__).with_name("victim.py"), path)
    spec = importlib.util.spec_from_file_location("victim", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get("victim")
    sys.modules["victim"] = module
    spec.loader.exec_module(module)
    found = Stage(folder, module, environment)
    try:
        yield found
    finally:
        found.end()
        os.close(module.JOURNAL)
        if before is not None:
            sys.modules["victim"] = before
        else:
            del sys.modules["victim"]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with set_stage(tmp_path) as found:
        yield found
