"""Profiles Celeriac: `python -m benchmarks.profile [--contender celeriac_redis] [--seconds N] [--top N]`.

Runs two drains on the chosen broker, each with a fresh worker of 2 children. The first measures only the CPU time of
the processes: microseconds per task, for the supervisor and for the children. The second runs under py-spy (`pip
install py-spy`; it may need root, or permission to use ptrace) and shows in which functions the time is spent, by
themselves and including what they call. py-spy pauses a process for each sample, so only the shares are meaningful,
not the speed. It can also count a process that waits in a system call (`read`, `poll`) as working: compare the shares
with the CPU time.

On Redis, the samples are summed by the legs of a task's path (`legs.py`) and converted to microseconds per task, using
the CPU time of the first drain. A producer that calls `delay()` is profiled in the same way, and Redis's own time is
shown by script.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks import rabbitmq_server
from benchmarks.figures import number
from benchmarks.footprint import Family
from benchmarks.legs import CHILD_LEGS, PRODUCER_LEGS, SUPERVISOR_LEGS, WAITING, Legs, leg_of
from benchmarks.peers.base import KEPT, NONE, RESULTS_VARIABLE
from benchmarks.redis_cost import RedisCost, measuring
from benchmarks.redis_line import Line
from benchmarks.redis_server import running
from benchmarks.stage import BenchmarkError, Result, Stage

T = TypeVar("T")

__all__ = ["Samples", "main", "parse"]

REDIS, RABBITMQ = "celeriac_redis", "celeriac_rabbitmq"
CHILDREN = 2
SUPERVISOR, CHILD = "supervisor", "children"
LEGS = {SUPERVISOR: SUPERVISOR_LEGS, CHILD: CHILD_LEGS}
SAMPLES_PER_SECOND = 250
TASKS_PER_SECOND = {"celeriac_sqlite": 40_000, REDIS: 50_000, RABBITMQ: 15_000}  # to queue per second under py-spy
ATTACH_SECONDS = 3  # until py-spy takes samples
SENDS = 10_000_000  # more than can be sent in the time
FRAME_SHARE = 0.97  # functions on the stack more often than this, such as `main`, are not shown


@dataclass
class Samples:
    """py-spy's samples of some processes: how often each function was running, itself or in what it called."""

    total: int = 0
    own: Counter[str] = field(default_factory=Counter)
    cumulative: Counter[str] = field(default_factory=Counter)
    stacks: list[tuple[list[str], int]] = field(default_factory=list)

    def by_leg(self, legs: Legs) -> Counter[str]:
        """Return the number of samples in each leg."""
        found: Counter[str] = Counter()
        for frames, count in self.stacks:
            found[leg_of(frames, legs)] += count
        del found[WAITING]
        return found


def main(arguments: list[str] | None = None) -> int:
    """Profile a drain, and on Redis a producer, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description="Profile a drain.")
    parser.add_argument("--contender", metavar="NAME", default="celeriac_sqlite", help="[default: celeriac_sqlite]")
    parser.add_argument("--tasks", metavar="N", type=int, default=40_000, help="for the first drain [default: 40,000]")
    parser.add_argument("--seconds", metavar="N", type=int, default=10, help="under py-spy; 0: no py-spy [default: 10]")
    parser.add_argument("--top", metavar="N", type=int, default=20, help="functions to show [default: 20]")
    parser.add_argument("--native", action="store_true", help="also show C functions")
    parser.add_argument("--folder", metavar="DIR", help="drain on this folder's disk")
    parser.add_argument("--results", action="store_true", help="on a server: keep results")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    stage = Stage(folder=options.folder)
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if options.seconds and spy is None:
        console.print("py-spy is not installed (pip install py-spy): functions are not shown.")
        options.seconds = 0
    command = [str(spy), "record", "--subprocesses", "--function", "--format", "raw", "--rate", str(SAMPLES_PER_SECOND),
               "--duration", str(options.seconds), *(["--native"] if options.native else [])]  # fmt: skip
    stage.variables[RESULTS_VARIABLE] = KEPT if options.results else NONE
    if options.contender == RABBITMQ:
        with rabbitmq_server.running(stage):
            _profile_drain(console, stage, options, command)
        return 0
    if options.contender != REDIS:
        _profile_drain(console, stage, options, command)
        return 0
    with running(stage) as line:
        _profile_delay(console, stage, options, command, line)
        _profile_drain(console, stage, options, command, line)
    return 0


def _profile_drain(console: Console, stage: Stage, options: argparse.Namespace, command: list[str],
                   line: Line | None = None) -> None:  # fmt: skip
    result, used, cost = _cpu(stage, options.contender, options.tasks, line)
    _print_cpu(console, result, used)
    if line is not None:
        _print_redis(console, "Redis: a task in a drain", cost, result["count"])
    if not options.seconds:
        return
    count = TASKS_PER_SECOND[options.contender] * (options.seconds + ATTACH_SECONDS)
    for role, samples in _spied(stage, options.contender, count, options.seconds, command).items():
        if line is not None:
            _print_legs(console, f"{role}: a task", samples.by_leg(LEGS[role]), used[role] / result["count"])
        _print_functions(console, role, samples, options.top)


def _profile_delay(console: Console, stage: Stage, options: argparse.Namespace, command: list[str],
                   line: Line) -> None:  # fmt: skip
    """Profile `delay()` by wall time, because its caller waits for Redis; py-spy also samples the waiting."""
    seconds = max(1, options.seconds)
    with stage.scratch() as folder:
        result = stage.ask(folder, options.contender, "send", SENDS, seconds)
    wall = result["seconds"] / result["count"]
    with stage.scratch() as folder, _redis_time(line, "publish_one") as cost:
        noted = stage.ask(folder, options.contender, "send", SENDS, 1)
    _print_redis(console, "Redis: a delay()", cost, noted["count"])
    console.print(f"  {number(result['rate'])} calls of delay() per second", style="dim", highlight=False)
    if not options.seconds:
        return
    with stage.scratch() as folder:
        sending = stage.started(folder, options.contender, "send", SENDS, seconds + ATTACH_SECONDS)
        with sending as process:
            time.sleep(ATTACH_SECONDS / 2)  # until it has imported its modules
            samples = _sampled([*command, "--idle"], process.pid, folder, seconds)[SUPERVISOR]
    _print_legs(console, "producer: a delay(), wall time", samples.by_leg(PRODUCER_LEGS), wall)
    _print_functions(console, "producer", samples, options.top)


@contextmanager
def _redis_time(line: Line | None, script: str | None = None) -> Iterator[RedisCost]:
    """Measure Redis's time within a `with` block, for one script or for each; without a connection, measure nothing."""
    if line is None:
        yield RedisCost()
        return
    from celeriac.drivers.redis.scripts import SCRIPTS  # noqa: PLC0415 - needed only on Redis

    with measuring(line, script or {script.sha: script.name for script in SCRIPTS.all()}) as cost:
        yield cost


def _print_redis(console: Console, what: str, cost: RedisCost, count: int) -> None:
    table = Table(title=f"{what}, microseconds", title_style="bold", title_justify="left")
    for place, column in enumerate(("script", "µs", "calls", "tasks per call")):
        table.add_column(column, justify="right" if place else "left")
    slowest = sorted(cost.seconds.items(), key=lambda entry: -entry[1])
    for name, seconds in slowest:
        calls = cost.calls[name]
        table.add_row(name, number(seconds / count * 1e6), f"{calls:,}", number(count / calls))
    outside = cost.cpu - sum(cost.seconds.values())
    table.add_row("requests, replies and the rest", number(outside / count * 1e6), "", "")
    table.add_row("total CPU of the server", number(cost.cpu / count * 1e6), "", "")
    console.print(table)


def _print_legs(console: Console, what: str, legs: Counter[str], seconds: float) -> None:
    """Print how the time of one task, or one call, is distributed over the legs."""
    table = Table(title=f"{what}, microseconds by leg", title_style="bold", title_justify="left")
    table.add_column("leg")
    table.add_column("µs", justify="right")
    table.add_column("share", justify="right")
    total = sum(legs.values())
    for leg, samples in legs.most_common():
        table.add_row(leg, number(seconds * samples / total * 1e6), f"{samples / total:.0%}")
    table.add_row("total", number(seconds * 1e6), "")
    console.print(table)


# --- CPU per task -------------------------------------------------------------------------------------


def _cpu(stage: Stage, contender: str, count: int, line: Line | None) -> tuple[Result, dict[str, float], RedisCost]:
    """Run a drain; return its result, the CPU seconds by role from the first completion to the last, Redis's time."""

    def measure(pid: int, wait: Callable[[], Result], folder: Path) -> tuple[Result, dict[str, float], RedisCost]:
        family = Family.of(pid)
        before = family.cpu()
        with _redis_time(line) as cost:
            result, after = wait(), family.cpu()
        used = {process: after[process] - before[process] for process in before}
        return result, {SUPERVISOR: used.pop(pid), CHILD: sum(used.values())}, cost

    return _draining(stage, contender, count, 600.0, measure)


def _draining(stage: Stage, contender: str, count: int, seconds: float,
                 measure: Callable[[int, Callable[[], Result], Path], T]) -> T:  # fmt: skip
    """Run a drain, and call `measure` when the worker has completed its first task."""
    with stage.scratch() as folder:
        stage.ask(folder, contender, "fill", count)
        watching = stage.watching(folder, contender, count, seconds)
        with watching as wait, stage.worker(folder, contender, CHILDREN) as pid:
            wait()
            return measure(pid, wait, folder)


def _print_cpu(console: Console, result: Result, used: Mapping[str, float]) -> None:
    table = Table(title="CPU per task, microseconds", title_style="bold", title_justify="left")
    table.add_column("process")
    table.add_column("µs per task", justify="right")
    table.add_column("of one core", justify="right")
    count = result["count"]
    for role, seconds in [*used.items(), ("total", sum(used.values()))]:
        table.add_row(role, number(seconds / count * 1e6), f"{seconds / result['seconds']:.0%}")
    console.print(table)
    console.print(f"  {count:,} tasks at {number(result['rate'])} per second", style="dim", highlight=False)


# --- py-spy -------------------------------------------------------------------------------------------


def _spied(stage: Stage, contender: str, count: int, seconds: int, command: list[str]) -> dict[str, Samples]:
    def measure(pid: int, wait: Callable[[], Result], folder: Path) -> dict[str, Samples]:
        return _sampled(command, pid, folder, seconds)

    return _draining(stage, contender, count, seconds + 60.0, measure)


def _sampled(command: list[str], pid: int, folder: Path, seconds: float) -> dict[str, Samples]:
    found = folder / "stacks"
    done = subprocess.run([*command, "--pid", str(pid), "--output", str(found)], capture_output=True, text=True,
                          timeout=seconds + 60, check=False)  # fmt: skip
    if done.returncode or not found.exists():
        raise BenchmarkError(f"py-spy failed:\n{done.stderr}")
    return parse(found.read_text(), pid)


def parse(stacks: str, supervisor: int) -> dict[str, Samples]:
    """Parse py-spy's raw format: one line per stack, `process 7:"…";outer (file);inner (file) 42`.

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
        samples.stacks.append((frames, int(count)))
        samples.own[frames[-1]] += int(count)
        samples.cumulative.update(dict.fromkeys(frames, int(count)))
    return found


def _print_functions(console: Console, role: str, samples: Samples, top: int) -> None:
    for title, counter in (("by themselves", samples.own), ("including calls", samples.cumulative)):
        table = Table(title=f"{role}: functions {title}, {samples.total:,} samples", title_style="bold",
                      title_justify="left")  # fmt: skip
        table.add_column("share", justify="right")
        table.add_column("function")
        shown = [(name, count) for name, count in counter.most_common() if count < FRAME_SHARE * samples.total]
        for function, count in shown[:top]:
            table.add_row(f"{count / samples.total:.1%}", function)
        console.print()
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
