"""Print how the source is built: `python tools/structure.py` (`make structure`).

- the road of a task: every file that one task enters on its way from `delay()` to `get()`, in order of first entry;
- lines per package, per file of the road, and per adapter (broker, backend and driver of one server together);
- fan-in: how many files import each file.

The road is observed, not written down by hand: a worker with a SQLite broker runs a task while a profile function in
each of its processes notes the first entry into each file. Several tasks are observed, and a file counts only if every
one of them entered it, so that periodic work (heartbeats, sweeps) does not.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import grimp
from rich.console import Console
from rich.table import Table

from celeriac import Celeriac
from celeriac.brokers.sqlite import SQLiteBroker
from celeriac.cli import main as celeriac_command
from celeriac.model.message import Message

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "celeriac"
SAMPLES = 15  # tasks that are observed
WARM_UP = 3  # tasks before them, for what happens only once: imports, connections, statements


class Recorder:
    """Notes the first entry into each source file, in this process and those forked from it, while a sample is on.

    The caller is recorded from the start of a sample, the worker only from `Broker.publish` on: it is never quite idle.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._caller = os.getpid()
        self._shared = mmap.mmap(-1, 2)  # by all processes: the sample's number, or 0; whether the worker is recorded
        self._seen: set[tuple[int, str, int]] = set()

    def install(self) -> None:
        """Observe this thread, those that it starts, and the processes that it forks."""
        threading.setprofile(self._entered)
        sys.setprofile(self._entered)

    def start(self, sample: int) -> None:
        """Record under this number from now on."""
        self._shared[0] = sample

    def publishing(self, publish: Callable[[SQLiteBroker, Sequence[Message]], None]) -> (
            Callable[[SQLiteBroker, Sequence[Message]], None]):  # fmt: skip
        """Return a broker's method that also records the worker from its first call in a sample on."""

        def published(broker: SQLiteBroker, messages: Sequence[Message]) -> None:
            self._shared[1] = 1
            publish(broker, messages)

        return published

    def stop(self) -> None:
        """Stop recording in all processes."""
        self._shared[0] = self._shared[1] = 0

    def entries(self, sample: int) -> list[tuple[str, int]]:
        """Return (file, process id), in order of first entry."""
        found = []
        for log in self._folder.glob(f"{sample}.*"):
            for line in log.read_text().splitlines():
                at, file = line.split(" ", 1)
                found.append((int(at), file, int(log.suffix[1:])))
        return [(file, process) for _, file, process in sorted(found)]

    def _entered(self, frame: FrameType, event: str, argument: object) -> None:
        sample = self._shared[0]
        if not sample or event != "call" or not (self._shared[1] or os.getpid() == self._caller):
            return
        file = frame.f_code.co_filename
        key = (sample, file, os.getpid())
        if key in self._seen or not file.startswith(str(SOURCE)):
            return
        self._seen.add(key)
        with (self._folder / f"{sample}.{os.getpid()}").open("a") as log:
            log.write(f"{time.monotonic_ns()} {Path(file).relative_to(SOURCE)}\n")


def road() -> list[tuple[str, str]]:
    """Run tasks on SQLite and return (file, processes that enter it), in order of first entry."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        app = Celeriac("structure", broker_url=f"sqlite:///{folder / 'queue.db'}")

        @app.task
        def add(x: int, y: int) -> int:
            return x + y

        recorder = Recorder(folder)
        recorder.install()
        supervisor = os.fork()
        if not supervisor:
            _work(app, folder)
        SQLiteBroker.publish = recorder.publishing(SQLiteBroker.publish)  # type: ignore[assignment]
        try:
            for number in range(1, WARM_UP + SAMPLES + 1):
                if number > WARM_UP:
                    recorder.start(number)
                add.delay(number, number).get(timeout=60)
                recorder.stop()
        finally:
            sys.setprofile(None)
            os.kill(supervisor, signal.SIGTERM)
            os.waitpid(supervisor, 0)
        samples = [recorder.entries(number) for number in range(WARM_UP + 1, WARM_UP + SAMPLES + 1)]
    names = {os.getpid(): "caller", supervisor: "supervisor"}
    common = set.intersection(*({file for file, _ in sample} for sample in samples))
    processes: dict[str, list[str]] = {}
    for sample in samples:
        for file, process in sample:
            if file in common and (role := names.get(process, "child")) not in processes.setdefault(file, []):
                processes[file].append(role)
    return [(file, ", ".join(roles)) for file, roles in processes.items()]


def _work(app: Celeriac, folder: Path) -> None:
    """Be the worker, in a forked process. Does not return."""
    module = type(sys)("structure_app")
    module.app = app  # type: ignore[attr-defined]
    sys.modules["structure_app"] = module
    with (folder / "worker.log").open("w") as log:
        os.dup2(log.fileno(), 2)
        os.dup2(log.fileno(), 1)
    try:
        celeriac_command(["-A", "structure_app", "worker", "--concurrency", "1"])
    finally:
        os._exit(0)  # the folder is removed by the parent


def lines(path: Path) -> int:
    """Return how many lines a file, or all Python files of a folder, have."""
    files = path.rglob("*.py") if path.is_dir() else [path]
    return sum(len(file.read_text().splitlines()) for file in files)


def adapters() -> dict[str, dict[str, int]]:
    """Return, by server, the lines of its broker, its backend and its driver."""
    found: dict[str, dict[str, int]] = {}
    for kind in ("brokers", "backends", "drivers"):
        for path in sorted((SOURCE / kind).iterdir()):
            if path.stem != "__init__" and (path.is_dir() or path.suffix == ".py") and path.name != "__pycache__":
                found.setdefault(path.stem, {})[kind] = lines(path)
    return found


def fan_in() -> Counter[str]:
    """Return, by module, how many modules import it, annotations included."""
    graph = grimp.build_graph("celeriac", exclude_type_checking_imports=False)
    return Counter({module: len(graph.find_modules_that_directly_import(module)) for module in graph.modules})


def main() -> None:
    """Print all of it."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    steps = road()
    table = Table("", "file", "lines", "entered by", title="The road of a task, on SQLite")
    for number, (file, roles) in enumerate(steps, start=1):
        table.add_row(str(number), file, str(lines(SOURCE / file)), roles)
    console.print(table)
    packages = Table("package", "files", "lines", title="Packages")
    for path in sorted(path for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"):
        packages.add_row(path.name, str(sum(1 for _ in path.rglob("*.py"))), str(lines(path)))
    packages.add_row("(root)", str(len(list(SOURCE.glob("*.py")))), str(sum(map(lines, SOURCE.glob("*.py")))))
    console.print(packages)
    servers = Table("server", "broker", "backend", "driver", "all", title="Lines per adapter")
    for server, kinds in adapters().items():
        parts = [kinds.get(kind, 0) for kind in ("brokers", "backends", "drivers")]
        servers.add_row(server, *(str(part or "") for part in parts), str(sum(parts)))
    console.print(servers)
    imported = Table("module", "imported by", title="Fan-in, the first twenty")
    for module, count in fan_in().most_common(20):
        imported.add_row(module, str(count))
    console.print(imported)


if __name__ == "__main__":
    main()
