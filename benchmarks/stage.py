"""The processes of a benchmark: a fresh folder and fresh processes for every single measurement.

Used by the benchmarks; nothing of a contender is ever imported here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environments import interpreter
from benchmarks.peers.base import FOLDER_VARIABLE

__all__ = ["BenchmarkError", "Contender", "Stage"]

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 300.0
GRACE_SECONDS = 1.0  # what a worker does once it was measured is of no interest
TAIL = 2000  # characters of a failed process's words

Told = dict[str, Any]  # what a process of the driver tells


class BenchmarkError(Exception):
    """A measurement could not be made; the message says why."""


@dataclass(frozen=True)
class Contender:
    """One side of a comparison: the file in `peers/`, and what that says of itself."""

    name: str
    title: str
    module: str
    settings: str
    versions: dict[str, str]
    pace: int = 0


@dataclass
class Stage:
    """Where benchmarks run: in `folder` (the system's temporary one), in full or `quick`; `say` shows progress."""

    quick: bool = False
    folder: str | None = None
    say: Callable[[str], None] = lambda text: None
    show: Callable[[float], None] = lambda share: None  # how much of what was said last is done
    clear: Callable[[], object] = lambda: None  # empties the server that the contenders share, if they do
    variables: dict[str, str] = field(default_factory=dict)  # in the environment of the measuring processes
    peers: Sequence[str] = ()  # those to be measured, if not all
    known: dict[str, Contender] = field(default_factory=dict)  # by name: those that have been asked who they are
    missing: dict[str, str] = field(default_factory=dict)  # by contender: the module that is not installed

    def rounds(self, full: int) -> int:
        """Return how often to repeat a measurement."""
        return 1 if self.quick else full

    def amount(self, full: int, quick: int) -> int:
        """Return how much to do."""
        return quick if self.quick else full

    @contextmanager
    def telling(self, variables: Mapping[str, str]) -> Iterator[None]:
        """Put these into the environment of the measuring processes for as long as a block lasts."""
        self.variables.update(variables)
        try:
            yield
        finally:
            for name in variables:
                del self.variables[name]

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a folder that lives as long as one measurement."""
        with tempfile.TemporaryDirectory(prefix="benchmark-", dir=self.folder, ignore_cleanup_errors=True) as folder:
            self.clear()
            yield Path(folder)

    def contenders(self, names: Sequence[str]) -> list[Contender]:
        """Return those that are installed; note the others in `missing`. The first, ours, is never left out."""
        found = []
        for name in names:
            if self.peers and name != names[0] and name not in self.peers:
                continue
            if name not in self.known and name not in self.missing:
                with self.scratch() as folder:
                    told = self.ask(folder, name, "facts")
                if "missing" in told:
                    self.missing[name] = told["missing"]
                else:
                    self.known[name] = Contender(name, **told)
            if name in self.known:
                found.append(self.known[name])
        return found

    # --- Processes ------------------------------------------------------------------------------------

    def ask(self, folder: Path, contender: str, verb: str, *numbers: float) -> Told:
        """Let a fresh process do one of the driver's verbs; return what it tells."""
        done = subprocess.run(
            _command(contender, verb, numbers), cwd=ROOT, env=self._environment(folder), text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise BenchmarkError(f"{contender} {verb} has failed:\n{done.stderr[-TAIL:]}")
        return _read(done.stdout)

    @contextmanager
    def watching(self, folder: Path, contender: str, count: int, seconds: float) -> Iterator[Callable[[], Told]]:
        """Watch a drain from a process of its own; yield, when it is watching, how to wait for what it tells next.

        That is the count at the first completion, and then the count from there to the end, and the time.
        """
        watcher = self._start(_command(contender, "drain", (count, seconds)), folder, subprocess.PIPE)
        try:

            def wait() -> Told:
                while True:
                    line = watcher.stdout.readline() if watcher.stdout is not None else ""
                    if not line:
                        raise BenchmarkError(f"{contender} drain has failed:\n{_log(folder)}")
                    told = _read(line)
                    if "share" not in told:
                        return told
                    self.show(told["share"])

            wait()
            yield wait
        finally:
            _end(watcher)

    @contextmanager
    def worker(self, folder: Path, contender: str, children: int, tuned: bool = True) -> Iterator[int]:
        """Run a worker for as long as a block lasts; yield the id of its first process, the supervisor."""
        process = self._start(_command(contender, "worker", (children, tuned)), folder, subprocess.DEVNULL)
        try:
            yield process.pid
            if process.poll() is not None:
                raise BenchmarkError(f"The worker of {contender} has ended by itself:\n{_log(folder)}")
        finally:
            _end(process)

    @contextmanager
    def started(self, folder: Path, contender: str, verb: str, *numbers: float) -> Iterator[subprocess.Popen[str]]:
        """Let a process do one of the driver's verbs for as long as a block lasts; what it tells is not heard."""
        process = self._start(_command(contender, verb, numbers), folder, subprocess.DEVNULL)
        try:
            yield process
        finally:
            _end(process)

    def _environment(self, folder: Path) -> dict[str, str]:
        return {**environment(folder), **self.variables}

    def _start(self, command: list[str], folder: Path, stdout: int) -> subprocess.Popen[str]:
        with (folder / "log").open("a") as log:
            return subprocess.Popen(
                command, cwd=ROOT, env=self._environment(folder), text=True, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=log,
            )  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """Return our environment, without settings for another app, with the folder and the way to this package."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))
    return {**kept, FOLDER_VARIABLE: str(folder), "PYTHONPATH": path}


def _command(contender: str, verb: str, numbers: Sequence[float]) -> list[str]:
    told = [str(int(number)) if number == int(number) else str(number) for number in numbers]
    return [interpreter(contender), "-m", "benchmarks.driver", contender, verb, *told]


def _end(process: subprocess.Popen[str]) -> None:
    """End a process that `_start` started, and all that it has started itself."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its own session: nobody else's processes are in that group
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _read(text: str) -> Told:
    lines = text.strip().splitlines()
    if not lines:
        raise BenchmarkError("A measuring process has told nothing.")
    told: Told = json.loads(lines[-1])
    return told


def _log(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")[-TAIL:]
