"""Where the time of a drain goes: `python -m benchmarks.profile [--seconds N] [--top N]`.

Two drains on the embedded file, each with a fresh worker of 2 children. The first is not looked at but for the CPU that
its processes use: microseconds per task, for the supervisor and for the children. The second runs under py-spy (`pip
install py-spy`; it may need root, or ptrace allowed): the functions in which the time is spent, by themselves and with
what they call. py-spy stops a process for each of its looks, so only its shares mean something, not its speed; and it
may take a process that waits in a system call (`read`, `poll`) for one that works: hold the shares against the CPU.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks.figures import number
from benchmarks.footprint import Family
from benchmarks.stage import BenchmarkError, Stage, Told

T = TypeVar("T")

__all__ = ["Samples", "main", "parse"]

CHILDREN = 2
SUPERVISOR, CHILD = "supervisor", "children"
LOOKS_PER_SECOND = 250
TASKS_PER_SECOND = 15_000  # how many to queue for each second under py-spy
ATTACH_SECONDS = 3  # before py-spy looks
FRAME_SHARE = 0.97  # what is on the stack more often than this is `main` and its like, and not shown


@dataclass
class Samples:
    """What py-spy saw of some processes: how often each function was at work, itself or with what it called."""

    total: int = 0
    own: Counter[str] = field(default_factory=Counter)
    cumulative: Counter[str] = field(default_factory=Counter)


def main(arguments: list[str] | None = None) -> int:
    """Profile a drain and print what it shows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description="Profile a drain.")
    parser.add_argument("--contender", metavar="NAME", default="celeriac_sqlite", help="[default: celeriac_sqlite]")
    parser.add_argument("--tasks", metavar="N", type=int, default=40_000, help="for the first drain [default: 40,000]")
    parser.add_argument("--seconds", metavar="N", type=int, default=10, help="under py-spy; 0: without [default: 10]")
    parser.add_argument("--top", metavar="N", type=int, default=20, help="functions to show [default: 20]")
    parser.add_argument("--native", action="store_true", help="show what C code does, too")
    parser.add_argument("--folder", metavar="DIR", help="drain on this folder's disk")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    stage = Stage(folder=options.folder)
    _print_cpu(console, *_cpu(stage, options.contender, options.tasks))
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if not options.seconds:
        return 0
    if spy is None:
        console.print("py-spy is not installed (pip install py-spy): no functions are shown.")
        return 0
    command = [spy, "record", "--subprocesses", "--function", "--format", "raw", "--rate", str(LOOKS_PER_SECOND),
               "--duration", str(options.seconds), *(["--native"] if options.native else [])]  # fmt: skip
    count = TASKS_PER_SECOND * (options.seconds + ATTACH_SECONDS)
    for role, samples in _spied(stage, options.contender, count, options.seconds, command).items():
        _print_functions(console, role, samples, options.top)
    return 0


# --- CPU per task -------------------------------------------------------------------------------------


def _cpu(stage: Stage, contender: str, count: int) -> tuple[Told, dict[str, float]]:
    """Return what a drain's watcher told, and the seconds of CPU by role from the first completion to the last."""

    def measure(pid: int, wait: Callable[[], Told], folder: Path) -> tuple[Told, dict[str, float]]:
        family = Family.of(pid)
        before = family.cpu()
        told, after = wait(), family.cpu()
        used = {process: after[process] - before[process] for process in before}
        return told, {SUPERVISOR: used.pop(pid), CHILD: sum(used.values())}

    return _draining(stage, contender, count, 600.0, measure)


def _draining(stage: Stage, contender: str, count: int, seconds: float,
                 measure: Callable[[int, Callable[[], Told], Path], T]) -> T:  # fmt: skip
    """Call `measure` when a worker has completed the first of its tasks."""
    with stage.scratch() as folder:
        stage.ask(folder, contender, "fill", count)
        watching = stage.watching(folder, contender, count, seconds)
        with watching as wait, stage.worker(folder, contender, CHILDREN) as pid:
            wait()
            return measure(pid, wait, folder)


def _print_cpu(console: Console, told: Told, used: Mapping[str, float]) -> None:
    table = Table(title="CPU per task, microseconds", title_style="bold", title_justify="left")
    table.add_column("process")
    table.add_column("µs per task", justify="right")
    table.add_column("of one core", justify="right")
    count = told["count"]
    for role, seconds in [*used.items(), ("together", sum(used.values()))]:
        table.add_row(role, number(seconds / count * 1e6), f"{seconds / told['seconds']:.0%}")
    console.print(table)
    console.print(f"  {count:,} tasks at {number(told['rate'])} per second", style="dim", highlight=False)


# --- py-spy -------------------------------------------------------------------------------------------


def _spied(stage: Stage, contender: str, count: int, seconds: int, command: list[str]) -> dict[str, Samples]:
    def measure(pid: int, wait: Callable[[], Told], folder: Path) -> dict[str, Samples]:
        found = folder / "stacks"
        done = subprocess.run([*command, "--pid", str(pid), "--output", str(found)], capture_output=True, text=True,
                              timeout=seconds + 60, check=False)  # fmt: skip
        if done.returncode or not found.exists():
            raise BenchmarkError(f"py-spy has failed:\n{done.stderr}")
        return parse(found.read_text(), pid)

    return _draining(stage, contender, count, seconds + 60.0, measure)


def parse(stacks: str, supervisor: int) -> dict[str, Samples]:
    """Read py-spy's raw format, `process 7:"…";outer (file);inner (file) 42`, a line for each stack.

    >>> found = parse('process 7:"x";main (a.py);work (b.py) 3\\nprocess 8:"y";main (a.py) 2', supervisor=7)
    >>> found["supervisor"].own, found["supervisor"].cumulative["main (a.py)"], found["children"].total
    (Counter({'work (b.py)': 3}), 3, 2)
    """
    found = {SUPERVISOR: Samples(), CHILD: Samples()}
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame for frame in stack.split(";") if not frame.startswith(("process ", "thread "))]
        if not frames:
            continue
        processes = [frame for frame in stack.split(";") if frame.startswith("process ")]
        innermost = processes[-1].removeprefix("process ").partition(":")[0] if processes else str(supervisor)
        samples = found[SUPERVISOR if innermost == str(supervisor) else CHILD]
        samples.total += int(count)
        samples.own[frames[-1]] += int(count)
        samples.cumulative.update(dict.fromkeys(frames, int(count)))
    return found


def _print_functions(console: Console, role: str, samples: Samples, top: int) -> None:
    for title, counter in (("by themselves", samples.own), ("with what they call", samples.cumulative)):
        table = Table(title=f"{role}: functions {title}, of {samples.total:,} looks", title_style="bold",
                      title_justify="left")  # fmt: skip
        table.add_column("share", justify="right")
        table.add_column("function")
        telling = [(name, count) for name, count in counter.most_common() if count < FRAME_SHARE * samples.total]
        for function, count in telling[:top]:
            table.add_row(f"{count / samples.total:.1%}", function)
        console.print()
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
