"""20,000 tasks through two workers, while every second a child, or a whole worker, is killed with SIGKILL."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter, defaultdict

import psutil
import pytest

from tests.promises.harness import Run, Stage, Worker

TASKS = 20_000
LEASE = 3.0  # seconds
LAG = 2.0  # seconds; an outcome is settled so soon after its run has ended


class Killer:
    """Kills, and knows afterwards whom."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.killed: dict[int, float] = {}  # when, by process
        self.workers: dict[str, float] = {}  # when, by worker
        self.living = [self.start(), self.start()]

    def start(self) -> Worker:
        return self.stage.worker("-c", "2", ready=False, worker_lease_seconds=LEASE, task_max_deliveries=10)

    def kill_child(self) -> None:
        worker = random.choice(self.living)
        try:
            child = random.choice(worker.children())
            child.send_signal(signal.SIGKILL)
        except (psutil.NoSuchProcess, ValueError, IndexError):
            return  # it is starting
        self.killed[child.pid] = time.time()

    def kill_worker(self) -> None:
        worker = self.living.pop(0)
        worker.kill()
        self.workers[worker.name] = time.time()
        self.living.append(self.start())

    def explains(self, run: Run, ended: float | None) -> bool:
        """Say whether a kill took the run, or its outcome before that was settled."""
        killed = [at for at in (self.killed.get(run.pid), self.workers.get(run.worker)) if at is not None]
        return any(at >= run.at - 0.1 and (ended is None or at <= ended + LAG) for at in killed)


@pytest.mark.timeout(150)
def test_whatever_is_killed_every_task_is_run_and_none_twice_without_a_kill_that_explains_it(stage: Stage) -> None:
    stage.record()
    begun = time.monotonic()
    half = [(number,) for number in range(TASKS // 2)]
    plain, coroutine = stage.victim.brief.delay_many(half), stage.victim.abrief.delay_many(half)
    results = [result for pair in zip(plain, coroutine, strict=True) for result in pair]
    killer = Killer(stage)
    for worker in killer.living:
        worker.wait_ready()

    due, kills = time.monotonic() + 1, 0
    while len(recorded := stage.rows("SELECT DISTINCT id FROM recorded")) < TASKS:
        assert time.monotonic() - begun < 120, f"only {len(recorded)} of {TASKS} outcomes:\n{killer.living[0].text()}"
        time.sleep(0.1)  # not to hinder the workers by looking
        if time.monotonic() >= due:
            due, kills = due + 1, kills + 1
            if kills % 4:
                killer.kill_child()
            else:
                killer.kill_worker()
    took = time.monotonic() - begun

    runs: dict[str, list[Run]] = defaultdict(list)
    for run in stage.journal():
        runs[run.id].append(run)
    ends = {(run.id, run.pid): run.at for run in stage.journal("end")}
    again = [run for ran in runs.values() for run in sorted(ran, key=lambda run: run.at)[:-1]]
    unexplained = [run for run in again if not killer.explains(run, ends.get((run.id, run.pid)))]
    interrupted = sum((run.id, run.pid) not in ends for run in again)
    states = Counter(state for (state,) in stage.rows("SELECT state FROM outcomes"))
    twice = sum(count > 1 for count in stage.recorded().values())
    print(f"\nchaos: {TASKS} tasks in {took:.1f} s")
    print(f"  killed {len(killer.killed)} children and {len(killer.workers)} workers")
    print(f"  tasks run {len(runs)}, runs {sum(map(len, runs.values()))}, tasks run again {len(again)}")
    print(f"  of these cut off {interrupted}, ended and not yet settled {len(again) - interrupted}, "
          f"unexplained {len(unexplained)}")  # fmt: skip
    print(f"  outcomes {dict(states)}, recorded twice {twice}")

    assert len(killer.killed) >= 3
    assert killer.workers
    assert runs.keys() == {result.id for result in results}
    assert unexplained == []
    assert twice == 0
    assert states == {"SUCCESS": TASKS}
    for result in random.sample(results, 200):
        assert result.get(timeout=1) in {run.pid for run in runs[result.id]}
    stage.wait(lambda: stage.rows("SELECT count(*) FROM messages") == [(0,)], "an empty database", seconds=LEASE + 5)
