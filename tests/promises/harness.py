"""What the promises are tested with: a folder with a victim app, real workers in it, and ways to wait for what they do.

A stage stands on a `Ground` (SQLite, Redis, RabbitMQ; or one of them, and outcomes in another server), and looks
through the ports, so that each test runs on each. Nothing here sleeps for a guessed time: `Stage.wait` looks until a
condition holds, and fails with the workers' logs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import psutil
import pytest

from celeriac import Celeriac
from celeriac.app.schemes import BACKEND, BROKER
from celeriac.inspector import Inspector
from celeriac.ports.operations import QueueCounts
from celeriac.worker import supervisor
from tests import patience
from tests.environment import without_settings
from tests.forked import COMMAND, Forked
from tests.mongodb_server import LEFT
from tests.patience import PATIENCE, wait_for
from tests.promises.grounds import ALL_GROUNDS, ActiveMQGround, Ground, PairGround, RabbitGround

__all__ = [
    "LEASE", "SHORT_LEASE", "Run", "Stage", "Worker", "be_patient", "get", "imports_of", "lives", "on", "set_stage",
]  # fmt: skip

LEASE = 60.0  # seconds; no worker is kept from renewing it for so long, however busy the machine is
SQL_DRIVERS = {"db+mariadb": "pymysql", "db+postgresql": "psycopg"}
FINAL_SECONDS = 60.0  # see `be_patient`
SHORT_LEASE = 3.0  # seconds; of those whose lease is to run out


class Run(NamedTuple):
    """A line of the journal."""

    what: str  # "start" or "end"
    id: str
    attempt: int
    deliveries: int
    pid: int
    at: float  # seconds since the epoch
    worker: str


def on(ground: str, *values: Any, at_length: bool = False) -> Any:
    """Return a ground, and other values, as parameters of a test; `at_length`: it is run by `make chaos` alone."""
    marks = [pytest.mark.at_length] if at_length else []
    if "mongodb" in ground:
        marks.append(pytest.mark.filterwarnings(LEFT))
    return pytest.param(ground, *values, marks=marks)


def be_patient(stage: Stage) -> float:
    """Let workers that start from now on wait longer, at their end, for what the servers confirm.

    They reserve a second of the grace time for that, after which they end with a failure; `make chaos` leaves it at
    that. Return by how much longer the grace time has to be, if what runs is to have as much of it as before.
    """
    if patience.exact:
        return 0.0
    with (stage.folder / "victim.py").open("a") as file:
        file.write(f"\nfrom celeriac.worker import supervisor\n\nsupervisor.FINAL_SECONDS = {FINAL_SECONDS}\n")
    return FINAL_SECONDS - supervisor.FINAL_SECONDS


def get(result: Any) -> Any:
    """Wait for a result, and return its value or raise its error."""
    return result.get(timeout=PATIENCE)


def imports_of(command: str, environment: Mapping[str, str]) -> list[str]:
    """Return what a command of Celeriac imports: its own module, and the drivers of the servers that it uses."""
    urls = [environment.get(f"CELERIAC_{name}", "sqlite://") for name in ("BROKER_URL", "RESULT_BACKEND")]
    schemes = [url.partition("://")[0] for url in urls]
    found = [kind.adapter(scheme) for kind in (BROKER, BACKEND) for scheme in schemes]
    packages = [SQL_DRIVERS[scheme] for scheme in schemes if scheme in SQL_DRIVERS]
    return [f"celeriac.cli.{command}", *(adapter.module for adapter in found if adapter is not None), *packages]


def lives(process: psutil.Process) -> bool:
    """Say whether a process is running, and not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Worker:
    """`python -m celeriac -A victim worker`, with its forkserver and its children."""

    def __init__(self, folder: Path, name: str, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.log.write_text("")
        self.process = Forked(COMMAND, "-A", "victim", "worker", "-n", name, *arguments, cwd=folder, log=self.log,
                              environment=environment, imports=imports_of("worker", environment))  # fmt: skip
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

    def forkserver(self) -> psutil.Process:
        (forkserver,) = psutil.Process(self.pid).children()
        return forkserver

    def children(self) -> list[psutil.Process]:
        return self.forkserver().children()

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

    def wait(self) -> int:
        """Wait for the supervisor's end; return its exit code."""
        return self.process.wait(PATIENCE)

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
    """A folder with the victim app, workers that run it, and the ground: its broker and backend."""

    def __init__(self, folder: Path, victim: ModuleType, ground: Ground) -> None:
        self.folder = folder
        self.victim = victim
        self.app: Celeriac = victim.app
        self.ground = ground
        self.workers: list[Worker] = []
        self._runs: defaultdict[str, list[Run]] = defaultdict(list)  # what was read of the journal
        self._read = 0  # bytes of it

    # --- Workers --------------------------------------------------------------------------------------

    def worker(self, *arguments: str, name: str = "", ready: bool = True, **settings: Any) -> Worker:
        """Start a worker with arguments of the command line, and settings (as variables of its environment)."""
        environment = without_settings()
        settings = {"worker_lease_seconds": LEASE, "worker_concurrency": 2, **settings}
        environment |= {f"CELERIAC_{setting.upper()}": str(value) for setting, value in settings.items()}
        name = name or f"worker{len(self.workers) + 1}"
        worker = Worker(self.folder, name, arguments, environment | self.ground.environment)
        self.workers.append(worker)
        return worker.wait_ready() if ready else worker

    def inspector(self) -> Inspector:
        return Inspector(self.app, timeout=LEASE)

    # --- Sending --------------------------------------------------------------------------------------

    def send(self, lane: str, how: str, value: Any = None, **options: Any) -> Any:
        """Send the victim's `plain` or `coroutine`."""
        return self.app.tasks[f"victim.{lane}"].apply_async((how, value), **options)

    # --- Seeing ---------------------------------------------------------------------------------------

    def journal(self, what: str = "start") -> list[Run]:
        """Return the runs that were started (or ended), in order."""
        with (self.folder / "journal").open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")  # the last line may be half written
        self._read += len(whole + newline)
        for line in whole.decode().splitlines():
            kind, id, attempt, deliveries, pid, at, worker = line.split(" ")
            self._runs[kind].append(Run(kind, id, int(attempt), int(deliveries), int(pid), float(at), worker))
        return self._runs[what].copy()

    def runs(self, *results: Any) -> list[Run]:
        """Return the runs of these results that were started."""
        ids = {result.id for result in results}
        return [run for run in self.journal() if run.id in ids]

    def started(self, *results: Any, times: int = 1) -> Run:
        """Wait until there are so many runs of each; return the newest."""
        for result in results:
            self.wait(lambda result=result: len(self.runs(result)) >= times, f"run {times} of {result}")
        return self.runs(*results)[-1]

    def counts(self) -> QueueCounts:
        """Count the messages of all queues."""
        queues = asyncio.run(self.inspector().queues())
        ready, scheduled, active, dead = (
            sum(getattr(counts, what) for counts in queues) for what in ("ready", "scheduled", "active", "dead")
        )
        return QueueCounts(queue="all", ready=ready, scheduled=scheduled, active=active, dead=dead)

    def is_empty(self) -> bool:
        """Say whether the broker holds no message at all."""
        return self.counts() == QueueCounts(queue="all")

    def leases(self) -> list[str]:
        """Return the names of the workers whose leases stand."""
        return [worker.name for worker in asyncio.run(self.inspector().workers())]

    def record(self) -> None:
        """From now on note each time that a final outcome is written."""
        self.is_empty()  # creates what is not there yet
        self.app.backend.fetch(["nobody"])
        self.ground.record()

    def recorded(self) -> dict[str, int]:
        """Return how often a final outcome was written, by id."""
        return self.ground.recorded()

    def wait(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        """Wait for a condition, as `wait_for` does; a failure shows what the workers wrote."""
        try:
            return wait_for(condition, what)
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
    def away(self, how: str) -> Iterator[None]:
        """Take the broker away; see `Ground.absences`."""
        self.is_empty()  # creates what is not there yet
        with self.ground.away(how):
            yield

    @contextmanager
    def store_away(self, how: str) -> Iterator[None]:
        """Take the outcomes' server away, which is not the broker's."""
        assert isinstance(self.ground, PairGround)
        self.app.backend.fetch(["nobody"])  # creates what is not there yet
        with self.ground.store.away(how):
            yield

    def end(self) -> None:
        for worker in self.workers:
            worker.end()
        self.app.close()


@contextmanager
def set_stage(folder: Path, ground: str = "sqlite") -> Iterator[Stage]:
    """Write a victim into a folder, import it here, and take all down afterwards."""
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        stands_on = ALL_GROUNDS[ground](folder)
        stack.callback(stands_on.end)
        for name, value in stands_on.environment.items():
            stack.enter_context(pytest.MonkeyPatch.context()).setenv(name, value)
        victim = stack.enter_context(_victim(folder))
        found = Stage(folder, victim, stands_on)
        stack.callback(found.end)
        if isinstance(stands_on, RabbitGround | ActiveMQGround):  # these may answer late on a busy machine
            found.app.conf.broker_publish_timeout = PATIENCE
        yield found


@contextmanager
def _victim(folder: Path) -> Iterator[ModuleType]:
    path = folder / "victim.py"
    shutil.copy(Path(__file__).with_name("victim.py"), path)
    spec = importlib.util.spec_from_file_location("victim", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "victim", module)
        spec.loader.exec_module(module)
        yield module
    os.close(module.JOURNAL)
