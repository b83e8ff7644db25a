"""Starts the processes of a benchmark: a fresh folder and fresh processes for every single measurement.

Used by the benchmarks. No contender's code is imported here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environments import interpreter
from benchmarks.peers.base import FOLDER_VARIABLE

__all__ = ["BenchmarkError", "Contender", "Stage"]

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 300.0
GRACE_SECONDS = 1.0  # for a worker to stop after its measurement
TAIL = 2000  # characters of a failed process's output to show

Result = dict[str, Any]  # the JSON that a driver process prints


class BenchmarkError(Exception):
    """A benchmark could not be measured; the message says why."""


@dataclass(frozen=True)
class Contender:
    """One side of a comparison: the name of its file in `peers/`, and the facts from that file."""

    name: str
    title: str
    module: str
    settings: str
    versions: dict[str, str]
    pace: int = 0


@dataclass
class Stage:
    """Runs measurements in `folder` (default: the system's temporary one), in full or `quick`."""

    quick: bool = False
    folder: str | None = None
    say: Callable[[str], None] = lambda text: None  # shows the current step
    show: Callable[[float], None] = lambda share: None  # shows the progress of that step
    clear: Callable[[], object] = lambda: None  # empties the contenders' server, if there is one
    variables: dict[str, str] = field(default_factory=dict)  # in the environment of the measuring processes
    peers: Sequence[str] = ()  # the peers to measure; empty: all
    known: dict[str, Contender] = field(default_factory=dict)  # by name: contenders whose facts were read
    missing: dict[str, str] = field(default_factory=dict)  # by contender: the module that is not installed
    kept: dict[str, Any] = field(default_factory=dict)  # servers of a quick run
    end: ExitStack = field(default_factory=ExitStack)  # ends them

    def rounds(self, full: int) -> int:
        """Return the number of rounds: `full`, or 1 in a quick run."""
        return 1 if self.quick else full

    def amount(self, full: int, quick: int) -> int:
        """Return the amount of work: `full`, or `quick` in a quick run."""
        return quick if self.quick else full

    @contextmanager
    def exporting(self, variables: Mapping[str, str]) -> Iterator[None]:
        """Add variables to the environment of the measuring processes within a `with` block."""
        self.variables.update(variables)
        try:
            yield
        finally:
            for name in variables:
                del self.variables[name]

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Empty the server, and yield a folder for one measurement, which is deleted afterwards."""
        with tempfile.TemporaryDirectory(prefix="benchmark-", dir=self.folder, ignore_cleanup_errors=True) as folder:
            self.clear()
            yield Path(folder)

    def contenders(self, names: Sequence[str]) -> list[Contender]:
        """Return the installed contenders, and add the others to `missing`. `peers` does not exclude the first one."""
        found = []
        for name in names:
            if self.peers and name != names[0] and name not in self.peers:
                continue
            if name not in self.known and name not in self.missing:
                with self.scratch() as folder:
                    facts = self.ask(folder, name, "facts")
                if "missing" in facts:
                    self.missing[name] = facts["missing"]
                else:
                    self.known[name] = Contender(name, **facts)
            if name in self.known:
                found.append(self.known[name])
        return found

    # --- Processes ------------------------------------------------------------------------------------

    def ask(self, folder: Path, contender: str, verb: str, *numbers: float) -> Result:
        """Run one of the driver's verbs in a fresh process; return its result."""
        done = subprocess.run(
            _command(contender, verb, numbers), cwd=ROOT, env=self._environment(folder), text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise BenchmarkError(f"{contender} {verb} failed:\n{done.stderr[-TAIL:]}")
        return _read(done.stdout)

    @contextmanager
    def watching(self, folder: Path, contender: str, count: int, seconds: float) -> Iterator[Callable[[], Result]]:
        """Watch a drain in a separate process; once it is watching, yield a function that waits for its next report.

        The first report is the count at the first completion; the second is the final count and time from there.
        """
        watcher = self._start(_command(contender, "drain", (count, seconds)), folder, subprocess.PIPE)
        try:

            def wait() -> Result:
                while True:
                    line = watcher.stdout.readline() if watcher.stdout is not None else ""
                    if not line:
                        raise BenchmarkError(f"{contender} drain failed:\n{_log(folder)}")
                    result = _read(line)
                    if "share" not in result:
                        return result
                    self.show(result["share"])

            wait()
            yield wait
        finally:
            _end(watcher)

    @contextmanager
    def worker(self, folder: Path, contender: str, children: int, tuned: bool = True) -> Iterator[int]:
        """Run a worker within a `with` block; yield the pid of its first process, the supervisor."""
        process = self._start(_command(contender, "worker", (children, tuned)), folder, subprocess.DEVNULL)
        try:
            yield process.pid
            if process.poll() is not None:
                raise BenchmarkError(f"The worker of {contender} exited during the measurement:\n{_log(folder)}")
        finally:
            _end(process)

    @contextmanager
    def started(self, folder: Path, contender: str, verb: str, *numbers: float) -> Iterator[subprocess.Popen[str]]:
        """Run one of the driver's verbs in a process within a `with` block, ignoring its output."""
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
    """Return this process's environment without Celeriac's settings, with the folder and the path of this package.

    What is imported stays compiled, as it does after an installation.
    """
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith("CELERIAC_") and name != "PYTHONDONTWRITEBYTECODE"}  # fmt: skip
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))
    return {**kept, FOLDER_VARIABLE: str(folder), "PYTHONPATH": path}


def _command(contender: str, verb: str, numbers: Sequence[float]) -> list[str]:
    arguments = [str(int(number)) if number == int(number) else str(number) for number in numbers]
    return [interpreter(contender), "-m", "benchmarks.driver", contender, verb, *arguments]


def _end(process: subprocess.Popen[str]) -> None:
    """End a process that `_start` started, and all of its descendants."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # it has its own session, so no other process is in this group
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _read(text: str) -> Result:
    lines = text.strip().splitlines()
    if not lines:
        raise BenchmarkError("A measuring process ended without printing a result.")
    result: Result = json.loads(lines[-1])
    return result


def _log(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")[-TAIL:]
