"""P1: a message that `delay()` returned for is run, whatever is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from celeriac.errors import WorkerLost
from tests.patience import PATIENCE, in_time
from tests.promises.grounds import GROUNDS, STORES, RedisGround
from tests.promises.harness import SHORT_LEASE, Stage, lives, on

LANES = pytest.mark.parametrize("lane", ["plain", "coroutine"])

SEND_AND_DIE = """
import os, signal, sys
from victim import quick
for number in range(100):
    sys.stdout.write(quick.delay(number).id + "\\n")
    sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_producer_has_sent_is_run(stage: Stage) -> None:
    producer = subprocess.run([sys.executable, "-c", SEND_AND_DIE], cwd=stage.folder, capture_output=True, text=True)
    assert producer.returncode == -signal.SIGKILL, producer.stderr
    ids = producer.stdout.split()
    stage.worker()
    assert [stage.app.AsyncResult(id).get(timeout=PATIENCE) for id in ids] == list(range(100))


@LANES
def test_the_task_of_a_killed_child_runs_again(stage: Stage, lane: str) -> None:
    stage.worker()
    result = stage.send(lane, "holds", stage.path("go"))
    first = stage.started(result)
    os.kill(first.pid, signal.SIGKILL)
    second = stage.started(result, times=2)
    stage.release("go")
    assert result.get(timeout=PATIENCE) == "released"
    assert second.pid != first.pid
    assert (second.attempt, second.deliveries) == (1, 2)
    assert len(stage.runs(result)) == 2


@LANES
def test_the_tasks_of_a_killed_worker_run_elsewhere_and_its_children_die_with_it(stage: Stage, lane: str) -> None:
    victim, _ = stage.worker(name="victim", worker_lease_seconds=SHORT_LEASE), stage.worker("-Q", "other", name="heir")
    result = stage.send(lane, "holds", stage.path("go"))
    stage.started(result)
    stage.worker(name="second")
    stage.wait(lambda: len(victim.tree()) == 5, "all its processes")  # a lost lease would have cost it some
    others = victim.kill()
    assert len(others) == 4  # forkserver, two plain children, one for coroutines
    stage.wait(lambda: not any(map(lives, others)), "the end of the children")
    stage.wait(lambda: stage.runs(result)[-1].worker == "second", "a run elsewhere")
    stage.release("go")
    assert result.get(timeout=PATIENCE) == "released"


@LANES
def test_at_most_once_a_killed_child_is_recorded_as_worker_lost_at_once(stage: Stage, lane: str) -> None:
    """By its worker, long before the worker's lease could run out."""
    stage.worker(worker_lease_seconds=3600)
    result = stage.send(lane, "holds", stage.path("go"), acks_late=False)
    os.kill(stage.started(result).pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match=r"killed by SIGKILL.*acks_late=False"):
        result.get(timeout=PATIENCE)
    assert len(stage.runs(result)) == 1


@pytest.mark.parametrize(
    ("stage", "lane"),
    [*((name, lane) for name in GROUNDS for lane in ("plain", "coroutine")), *(on(name, "plain") for name in STORES)],
    indirect=["stage"],
)
def test_at_most_once_a_killed_worker_is_recorded_as_worker_lost_within_its_lease(stage: Stage, lane: str) -> None:
    victim = stage.worker(worker_lease_seconds=SHORT_LEASE)
    result = stage.send(lane, "holds", stage.path("go"), acks_late=False)
    stage.started(result)
    stage.worker()
    victim.kill()
    killed = time.monotonic()
    with pytest.raises(WorkerLost, match="acks_late=False"):
        result.get(timeout=PATIENCE)
    assert in_time(time.monotonic() - killed, SHORT_LEASE + 2)
    assert len(stage.runs(result)) == 1


def test_a_worker_without_its_forkserver_gives_its_tasks_to_others_and_exits_with_a_failure(stage: Stage) -> None:
    victim = stage.worker(worker_lease_seconds=3600)
    result = stage.send("plain", "holds", stage.path("go"))
    stage.started(result)
    heir = stage.worker()
    victim.forkserver().kill()
    assert victim.wait() == 1
    assert stage.started(result, times=2).worker == heir.name
    stage.release("go")
    assert result.get(timeout=PATIENCE) == "released"


@pytest.mark.parametrize("stage", ["redis"], indirect=True)
def test_what_was_settled_before_the_server_went_back_to_older_data_is_run_again_or_recorded_as_lost(
    stage: Stage,
) -> None:
    """As after a crash without `appendfsync always`, or after a failover to a replica that lagged."""
    assert isinstance(stage.ground, RedisGround)
    worker = stage.worker()
    late = [stage.send(lane, "holds", stage.path("go")) for lane in ("plain", "coroutine")]
    once = stage.send("coroutine", "holds", stage.path("go"), acks_late=False)
    stays = stage.send("coroutine", "holds", stage.path("go on"))
    stage.started(*late, once, stays)
    older = stage.folder / "older"
    shutil.copytree(stage.ground.server.folder / "appendonlydir", older)
    stage.release("go")
    assert [result.get(timeout=PATIENCE) for result in [*late, once]] == ["released"] * 3
    with stage.away("down"):
        shutil.rmtree(stage.ground.server.folder / "appendonlydir")
        shutil.move(older, stage.ground.server.folder / "appendonlydir")
    assert [result.get(timeout=PATIENCE) for result in late] == ["released"] * 2
    with pytest.raises(WorkerLost):
        once.get(timeout=PATIENCE)
    stage.release("go on")
    assert stays.get(timeout=PATIENCE) == "released"
    assert [len(stage.runs(result)) for result in (*late, once, stays)] == [2, 2, 1, 1]
    assert {run.deliveries for run in stage.journal()} == {1}
    assert stage.is_empty()
    assert worker.stop() == 0
