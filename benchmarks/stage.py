"""The processes of a benchmark: a fresh folder and fresh processes for every single measurement.

Used by the benchmarks; nothing of a contender is ever imported here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.base import FOLDER_VARIABLE

__all__ = ["BenchmarkError", "Contender", "Stage"]

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 300.0
GRACE_SECONDS = 15.0
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


@dataclass
class Stage:
    """Where benchmarks run: in `folder` (the system's temporary one), in full or `quick`; `say` shows progress."""

    quick: bool = False
    folder: str | None = None
    say: Callable[[str], None] = lambda text: None
    missing: dict[str, str] = field(default_factory=dict)  # by contender: the module that is not installed

    def rounds(self, full: int) -> int:
        """Return how often to repeat a measurement."""
        return 1 if self.quick else full

    def amount(self, full: int, quick: int) -> int:
        """Return how much to do."""
        return quick if self.quick else full

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a folder that lives as long as one measurement."""
        with tempfile.TemporaryDirectory(prefix="benchmark-", dir=self.folder, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def contenders(self, names: Sequence[str]) -> list[Contender]:
        """Return those that are installed; note the others in `missing`."""
        found = []
        for name in names:
            with self.scratch() as folder:
                told = self.ask(folder, name, "facts")
            if "missing" in told:
                self.missing[name] = told["missing"]
            else:
                found.append(Contender(name, **told))
        return found

    # --- Processes ------------------------------------------------------------------------------------

    def ask(self, folder: Path, contender: str, verb: str, *numbers: float) -> Told:
        """Let a fresh process do one of the driver's verbs; return what it tells."""
        done = subprocess.run(
            _command(contender, verb, numbers), cwd=ROOT, env=environment(folder), text=True,
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
        watcher = _start(_command(contender, "drain", (count, seconds)), folder, subprocess.PIPE)
        try:

            def wait() -> Told:
                line = watcher.stdout.readline() if watcher.stdout is not None else ""
                if not line:
                    raise BenchmarkError(f"{contender} drain has failed:\n{_log(folder)}")
                return _read(line)

            wait()
            yield wait
        finally:
            _end(watcher)

    @contextmanager
    def worker(self, folder: Path, contender: str, children: int, tuned: bool = True) -> Iterator[int]:
        """Run a worker for as long as a block lasts; yield the id of its first process, the supervisor."""
        process = _start(_command(contender, "worker", (children, tuned)), folder, subprocess.DEVNULL)
        try:
            yield process.pid
            if process.poll() is not None:
                raise BenchmarkError(f"The worker of {contender} has ended by itself:\n{_log(folder)}")
        finally:
            _end(process)


def environment(folder: Path) -> dict[str, str]:
    """Return our environment, without settings for another app, with the folder and the way to this package."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))
    return {**kept, FOLDER_VARIABLE: str(folder), "PYTHONPATH": path}


def _command(contender: str, verb: str, numbers: Sequence[float]) -> list[str]:
    return [sys.executable, "-m", "benchmarks.driver", contender, verb, *(str(int(number)) for number in numbers)]


def _start(command: list[str], folder: Path, stdout: int) -> subprocess.Popen[str]:
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(folder), text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=log,
        )  # fmt: skip


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
