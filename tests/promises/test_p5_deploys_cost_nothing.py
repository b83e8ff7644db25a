"""P5: SIGTERM stops receiving, gives running tasks the grace time, the rest back, and the process is gone in time.

`make chaos` holds it to that time exactly; see `tests/patience.py`.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from celeriac.errors import WorkerLost
from celeriac.worker.supervisor import FINAL_SECONDS
from tests.patience import PATIENCE, in_time
from tests.promises.harness import SHORT_LEASE, Stage, be_patient, set_stage

GRACE = 6.0  # seconds


@pytest.mark.parametrize(
    ("ground", "whole_group"), [("sqlite", False), ("sqlite", True), ("redis", False)],
    ids=["sqlite-supervisor", "sqlite-process group", "redis-supervisor"],
)  # fmt: skip
def test_sigterm_under_load_ends_in_time_and_costs_no_attempt_and_no_delivery(
    tmp_path: Path, ground: str, whole_group: bool
) -> None:
    for grace in (GRACE, 5 * GRACE):  # on a busy machine, what ends in it may need longer than usual
        with set_stage(tmp_path / f"{grace:g}", ground) as stage:
            if stops_under_load(stage, grace, whole_group):
                return
    pytest.fail("what was to end within the grace time was given back each time")


def stops_under_load(stage: Stage, grace: float, whole_group: bool) -> bool:
    """Stop a worker, and let another do the rest. Return whether a task that ended within the grace time was done."""
    old = stage.worker("--grace", str(grace + be_patient(stage)), name="old", worker_concurrency=2)
    lasting = [stage.send(lane, "holds", stage.path("never")) for lane in ("plain", "coroutine")]
    ending = [stage.send("coroutine", "holds", stage.path("soon"))]
    stage.started(*lasting, *ending)
    load = stage.app.tasks["victim.plain"].delay_many([("sleeps", 0.01)] * 300)
    load += stage.app.tasks["victim.coroutine"].delay_many([("sleeps", 0.01)] * 300)
    stage.started(load[5], load[305])

    begun = time.monotonic()
    if whole_group:
        os.killpg(old.pid, signal.SIGTERM)
    else:
        old.signal(signal.SIGTERM)
    stage.wait(lambda: "Shutting down" in old.text(), "the word that the worker is stopping")
    stage.release("soon")
    assert old.wait() == 0
    took = time.monotonic() - begun
    print(f"\nP5: gone {took:.2f} s after SIGTERM (grace {grace:g} s)")
    assert in_time(took, grace + 0.5)
    in_grace_time = ending[0].ready()
    assert stage.counts().active == 0
    assert stage.leases() == []

    before = len(stage.journal())
    stage.worker(name="new")
    stage.release("never")
    assert [result.get(timeout=PATIENCE) for result in (*lasting, *ending)] == ["released"] * 3
    stage.wait(lambda: all(result.ready() for result in load), "the end of the load")
    runs = stage.journal()
    assert {(run.attempt, run.deliveries) for run in runs} == {(1, 1)}
    assert len(stage.runs(*load)) == 600
    assert {run.worker for run in runs[before:]} == {"new"}
    return in_grace_time


def test_a_second_sigterm_gives_back_at_once_what_runs(stage: Stage) -> None:
    be_patient(stage)
    old = stage.worker("--grace", "3600", name="old")
    results = [stage.send(lane, "holds", stage.path("go")) for lane in ("plain", "coroutine")]
    stage.started(*results)
    old.signal(signal.SIGTERM)
    stage.wait(lambda: "Shutting down" in old.text())
    begun = time.monotonic()
    # Two signals at once are one: whoever means two, sends the other a moment later.
    stage.wait(lambda: old.signal(signal.SIGTERM) or "Cold shutdown" in old.text())
    assert old.wait() == 0
    print(f"\nP5: gone {time.monotonic() - begun:.2f} s after the second SIGTERM")
    assert in_time(time.monotonic() - begun, 3)
    assert stage.counts().active == 0
    stage.worker(name="new")
    assert stage.started(*results, times=2).worker == "new"
    assert {run.deliveries for run in stage.runs(*results)} == {1}
    stage.release("go")
    assert [result.get(timeout=PATIENCE) for result in results] == ["released"] * 2


def test_at_most_once_a_task_that_outlasts_the_grace_time_is_recorded_as_worker_lost(stage: Stage) -> None:
    old = stage.worker("--grace", str(1.5 + be_patient(stage)))
    results = [stage.send(lane, "holds", stage.path("go"), acks_late=False) for lane in ("plain", "coroutine")]
    stage.started(*results)
    assert old.stop() == 0
    for result in results:
        with pytest.raises(WorkerLost):
            result.get(timeout=PATIENCE)
    assert stage.is_empty()


@pytest.mark.parametrize(("stage", "how"), [("sqlite", "locked"), ("redis", "frozen")], indirect=["stage"])
def test_a_worker_is_gone_within_the_grace_time_though_its_broker_is_away(stage: Stage, how: str) -> None:
    old = stage.worker("--grace", "2", worker_lease_seconds=SHORT_LEASE)
    results = [stage.send(lane, "holds", stage.path("go")) for lane in ("plain", "coroutine")]
    stage.started(*results)
    with stage.away(how):
        begun = time.monotonic()
        old.signal(signal.SIGTERM)
        assert old.wait() == 1
        took = time.monotonic() - begun
    print(f"\nP5: gone {took:.2f} s after SIGTERM (grace 2 s), without a broker")
    assert in_time(took, 2 + 0.7)
    assert "had confirmed what became of 2 messages" in old.text()
    stage.worker()
    stage.started(*results, times=2)
    stage.release("go")
    assert [result.get(timeout=PATIENCE) for result in results] == ["released"] * 2


@pytest.mark.parametrize(("stage", "how"), [("sqlite", "locked"), ("redis", "frozen")], indirect=["stage"])
def test_what_ends_while_the_broker_is_away_is_recorded_if_it_is_back_within_the_grace_time(
    stage: Stage, how: str
) -> None:
    old = stage.worker("--grace", str(PATIENCE))
    results = [stage.send(lane, "holds", stage.path("go")) for lane in ("plain", "coroutine")]
    stage.started(*results)
    with stage.away(how):
        old.signal(signal.SIGTERM)
        stage.wait(lambda: "Shutting down" in old.text(), "the word that the worker is stopping")
        stage.release("go")
        time.sleep(3 * FINAL_SECONDS)  # the broker is away for longer than a cold stop takes
    assert old.wait() == 0
    assert stage.is_empty()
    assert [result.get(timeout=PATIENCE) for result in results] == ["released"] * 2
    assert len(stage.runs(*results)) == 2


def test_an_idle_worker_is_gone_at_once(stage: Stage) -> None:
    worker = stage.worker("--grace", "3600")
    begun = time.monotonic()
    assert worker.stop() == 0
    assert in_time(time.monotonic() - begun, 3)
    assert stage.leases() == []


def test_workers_stopped_under_load_end_as_soon_as_their_running_tasks_have_ended(stage: Stage) -> None:
    workers = [stage.worker("--grace", "3600", ready=False, worker_concurrency=1) for _ in range(5)]
    for worker in workers:
        worker.wait_ready()
    load = stage.app.tasks["victim.plain"].delay_many([("sleeps", 0.002)] * 3000)
    stage.started(load[100])
    for worker in workers:
        worker.signal(signal.SIGTERM)
    assert [worker.wait() for worker in workers] == [0] * 5
    assert stage.counts().active == 0
    assert stage.leases() == []
    assert stage.counts().ready == 3000 - len(stage.journal())
    stage.worker(worker_concurrency=5)
    stage.wait(stage.is_empty, "the end of the rest")
    assert len({run.id for run in stage.journal()}) == len(stage.journal()) == 3000
    assert {run.deliveries for run in stage.journal()} == {1}
