"""Measures an idle worker: CPU and memory, and its memory growth with messages that are due later."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

from benchmarks.compare import describe
from benchmarks.figures import Bar, Report, number
from benchmarks.stage import Contender, Stage

__all__ = ["Family", "eta", "idle"]

OURS = "celeriac_sqlite"
IDLE_PEERS = ("huey_sqlite",)
CHILDREN = 2
SETTLING_SECONDS = 2.0  # wait after the first task, and after sending the messages that are due later
MB = 1e6
HOUR = 3600


@dataclass(frozen=True)
class Family:
    """The current processes of a worker: the supervisor and all its descendants."""

    supervisor: psutil.Process
    others: list[psutil.Process]

    @classmethod
    def of(cls, pid: int) -> Family:
        """Return the family of a supervisor."""
        supervisor = psutil.Process(pid)
        return cls(supervisor, supervisor.children(recursive=True))

    def cpu(self) -> Mapping[int, float]:
        """Return the CPU seconds that each process has used, by pid."""
        return {process.pid: sum(process.cpu_times()[:2]) for process in (self.supervisor, *self.others)}

    def memory(self) -> tuple[float, float, float]:
        """Return, in MB, the supervisor's RSS, its USS, and the USS of all processes."""
        mine = self.supervisor.memory_full_info()
        return mine.rss / MB, mine.uss / MB, (mine.uss + sum(one.memory_full_info().uss for one in self.others)) / MB


def idle(stage: Stage) -> Report:
    """An idle worker with 2 children: CPU of all its processes, memory of the supervisor."""
    seconds = stage.amount(20, 5)
    report = Report("idle", f"A worker with {CHILDREN} children, idle for {seconds} s")
    report.columns = ("", "CPU %", "supervisor RSS MB", "supervisor USS MB", "USS of all MB", "processes")
    contenders = stage.contenders([OURS, *IDLE_PEERS])
    for one in contenders:
        stage.say(f"idle: {one.title}")
        cpu, memory, processes = _idle(stage, one, seconds)
        report.rows.append((one.title, number(cpu), *map(number, memory), str(processes)))
        rss, uss, all_uss = memory
        report.figures[one.name] = {"cpu_percent": cpu, "rss_mb": rss, "uss_mb": uss, "all_uss_mb": all_uss}
        if one.name == OURS:
            report.bars.append(Bar("CPU of all its processes", cpu, 1.0, "%"))
            report.bars.append(Bar("supervisor's RSS", rss, 60.0, "MB"))
    describe(report, contenders)
    report.notes.append("Started as users do (Huey polls, at its default interval), measured after one task. "
                        "1 MB is 10⁶ bytes. 100 % is one core; the kernel counts in steps of 10 ms.")  # fmt: skip
    return report


def _idle(stage: Stage, one: Contender, seconds: float) -> tuple[float, tuple[float, float, float], int]:
    with stage.scratch() as folder, stage.worker(folder, one.name, CHILDREN, tuned=False) as pid:
        stage.ask(folder, one.name, "ping")
        time.sleep(SETTLING_SECONDS)
        family = Family.of(pid)
        before, start = family.cpu(), time.perf_counter()
        time.sleep(seconds)
        after, elapsed = family.cpu(), time.perf_counter() - start
        used = sum(after[process] - before[process] for process in before)
        return used / elapsed * 100, family.memory(), len(before)


def eta(stage: Stage) -> Report:
    """The supervisor's memory growth with 100,000 tasks that are due in an hour."""
    count = stage.amount(100_000, 5_000)
    report = Report("eta", f"{count:,} tasks with an ETA in an hour, and an idle worker")
    report.columns = ("", "before MB", "after MB", "growth MB", "held by the broker")
    contenders = stage.contenders([OURS])
    for one in contenders:
        with stage.scratch() as folder, stage.worker(folder, one.name, CHILDREN, tuned=False) as pid:
            stage.say(f"eta: {one.title}")
            stage.ask(folder, one.name, "ping")
            time.sleep(SETTLING_SECONDS)
            supervisor = psutil.Process(pid)
            before = supervisor.memory_info().rss / MB
            held = stage.ask(folder, one.name, "later", count, HOUR)["held"]
            stage.ask(folder, one.name, "ping")  # wakes the worker
            time.sleep(SETTLING_SECONDS)
            after = supervisor.memory_info().rss / MB
        report.rows.append((one.title, number(before), number(after), number(after - before), f"{held:,} of {count:,}"))
        report.figures[one.name] = {"before_mb": before, "after_mb": after, "held": held, "sent": count}
        report.bars.append(Bar("supervisor's RSS grows by", after - before, 5.0, "MB"))
    describe(report, contenders)
    return report
