"""P3: a killed worker's messages start elsewhere within its lease + 2 s; a killed child's at once.

`make chaos` holds them to these times exactly; see `tests/patience.py`.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.patience import PATIENCE, in_time
from tests.promises.harness import SHORT_LEASE, Run, Stage


def test_a_killed_workers_tasks_start_elsewhere_within_its_lease_and_two_seconds(stage: Stage) -> None:
    victim = stage.worker(worker_lease_seconds=SHORT_LEASE)
    results = [stage.send(lane, "holds", stage.path("go")) for lane in ("plain", "coroutine") for _ in range(2)]
    stage.started(*results)
    heir = stage.worker()
    killed = time.time()
    victim.kill()

    def taken_over() -> list[Run]:
        return [run for run in stage.runs(*results) if run.worker == heir.name]

    stage.wait(lambda: len({run.id for run in taken_over()}) == 4, "runs of all tasks elsewhere")
    runs = taken_over()
    waits = [run.at - killed for run in runs]
    print(f"\nP3: taken over {max(waits):.2f} s after the kill (lease {SHORT_LEASE:g} s)")
    assert len(runs) == 4
    assert in_time(max(waits), SHORT_LEASE + 2)
    stage.release("go")
    assert [result.get(timeout=PATIENCE) for result in results] == ["released"] * 4


@pytest.mark.parametrize("lane", ["plain", "coroutine"])
def test_a_killed_childs_task_starts_again_at_once_though_there_is_no_other_child(stage: Stage, lane: str) -> None:
    stage.worker(worker_concurrency=1, worker_lease_seconds=3600)
    result = stage.send(lane, "holds", stage.path("go"))
    first = stage.started(result)
    killed = time.time()
    os.kill(first.pid, signal.SIGKILL)
    wait = stage.started(result, times=2).at - killed
    print(f"\nP3: a {lane} child's task started again after {wait:.3f} s")
    assert in_time(wait, 1)
    stage.release("go")
    assert result.get(timeout=PATIENCE) == "released"
