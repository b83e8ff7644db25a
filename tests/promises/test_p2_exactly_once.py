"""P2: while no lease expires, a message is run exactly once; an outcome is recorded once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.promises.grounds import GROUNDS, STORES, PairGround
from tests.promises.harness import SHORT_LEASE, Stage, Worker, on, set_stage


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_task_that_takes_three_times_the_lease_runs_once_with_two_workers(tmp_path: Path, ground: str) -> None:
    """While no lease expires; on a busy machine a short one may, and shows nothing."""
    for lease in (1.5, 6.0, 24.0):
        with set_stage(tmp_path / f"{lease:g}", ground) as stage:
            stage.worker(worker_lease_seconds=lease)
            stage.worker(worker_lease_seconds=lease)
            results = [stage.send(lane, "sleeps", 3 * lease) for lane in ("plain", "coroutine") for _ in range(2)]
            assert [result.get(timeout=PATIENCE) for result in results] == [3 * lease] * 4
            if not any("The lease is gone" in worker.text() for worker in stage.workers):
                assert len(stage.runs(*results)) == 4
                return
    pytest.fail("a lease was lost each time")


@pytest.mark.parametrize("stage", [*GROUNDS, *map(on, STORES)], indirect=True)
def test_among_many_workers_every_task_of_thousands_runs_once(stage: Stage) -> None:
    for _ in range(3):
        stage.worker()
    stage.record()
    count = 1000 if isinstance(stage.ground, PairGround) else 3000
    results = stage.victim.quick.delay_many([(number,) for number in range(count)])
    stage.wait(lambda: len(stage.recorded()) == len(results), "the outcomes of all tasks")
    stage.wait(stage.is_empty, "empty queues")
    assert sorted(run.id for run in stage.journal()) == sorted(result.id for result in results)
    assert stage.recorded() == {result.id: 1 for result in results}


@pytest.mark.parametrize("stage", ["rabbitmq", on("rabbitmq+postgresql")], indirect=True)
@pytest.mark.parametrize("lane", ["plain", "coroutine"])
def test_what_runs_twice_at_once_ends_twice_and_is_recorded_once(stage: Stage, lane: str) -> None:
    stage.worker()
    stage.record()
    message = stage.app.tasks[f"victim.{lane}"].s("tells_progress", stage.path("go")).message()
    stage.app.broker.publish([message, message])
    stage.wait(lambda: len(stage.journal()) == 2, "both runs")
    stage.release("go")
    stage.wait(lambda: len(stage.journal("end")) == 2, "the end of both")
    stage.wait(stage.is_empty, "empty queues")
    assert stage.recorded() == {message.id: 1}


def freeze(stage: Stage, lane: str, number: str) -> tuple[Worker, Worker, object]:
    """Let a task start in one worker, stop that one past its lease, and wait until another runs the task."""
    frozen = stage.worker(name="frozen", worker_lease_seconds=SHORT_LEASE)
    result = stage.send(lane, "holds", stage.path("go"))
    stage.started(result)
    other = stage.worker(name="other")
    if number == "all":
        frozen.signal_all(signal.SIGSTOP)
    else:
        frozen.signal(signal.SIGSTOP)
    assert stage.started(result, times=2).worker == "other"
    return frozen, other, result


@pytest.mark.parametrize(
    ("stage", "lane", "stopped"),
    [("sqlite", "plain", "all"), ("sqlite", "plain", "supervisor"), ("sqlite", "coroutine", "all"),
     ("sqlite", "coroutine", "supervisor"), ("redis", "plain", "supervisor"), ("redis", "coroutine", "all"),
     on("redis+mariadb", "plain", "supervisor"), on("sqlite+mongodb", "coroutine", "all")],
    indirect=["stage"],
)  # fmt: skip
def test_the_late_outcome_of_a_worker_believed_dead_is_refused_and_it_goes_on(
    stage: Stage, lane: str, stopped: str
) -> None:
    stage.record()
    frozen, other, result = freeze(stage, lane, stopped)
    stage.release("go")
    assert result.get(timeout=PATIENCE) == "released"
    outcome = result.outcome
    if stopped == "supervisor":  # its child has ended the task meanwhile: the outcome waits to be read
        stage.wait(lambda: sum(run.id == result.id for run in stage.journal("end")) == 2, "the end of both runs")

    frozen.signal_all(signal.SIGCONT)
    stage.wait(lambda: "The lease is gone" in frozen.text(), "the discovery that the lease was lost")
    assert other.stop() == 0
    later = [stage.send(lane, "returns", number) for number in range(20) for lane in ("plain", "coroutine")]
    assert [one.get(timeout=PATIENCE) for one in later] == [number for number in range(20) for _ in range(2)]
    assert {run.worker for run in stage.runs(*later)} == {"frozen"}
    assert frozen.process.poll() is None
    assert result.outcome == outcome
    assert outcome.worker == "other"
    assert stage.recorded()[result.id] == 1
    assert len(stage.runs(result)) == 2
