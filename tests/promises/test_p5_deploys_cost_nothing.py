"""P5: SIGTERM stops receiving, gives running tasks the grace time, the rest back, and the process is gone in time."""

from __future__ import annotations

import os
import signal
import time

import pytest

from celeriac.errors import WorkerLost
from tests.promises.harness import Stage

GRACE = 4.0  # seconds


@pytest.mark.parametrize("whole_group", [False, True], ids=["supervisor", "process group"])
def test_sigterm_under_load_ends_in_time_and_costs_no_attempt_and_no_delivery(stage: Stage, whole_group: bool) -> None:
    old = stage.worker("--grace", str(GRACE), name="old", worker_concurrency=2)
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
    print(f"\nP5: gone {took:.2f} s after SIGTERM (grace {GRACE:g} s)")
    assert took < GRACE + 0.5
    assert ending[0].get(timeout=1) == "released"
    assert stage.rows("SELECT max(deliveries), count(lease) FROM messages") == [(0, 0)]
    assert stage.rows("SELECT count(*) FROM leases") == [(0,)]

    before = len(stage.journal())
    stage.worker(name="new")
    stage.release("never")
    assert [result.get(timeout=30) for result in lasting] == ["released"] * 2
    stage.wait(lambda: all(result.ready() for result in load), "the end of the load")
    runs = stage.journal()
    assert {(run.attempt, run.deliveries) for run in runs} == {(1, 1)}
    assert len(stage.runs(*load)) == 600
    assert {run.worker for run in runs[before:]} == {"new"}


def test_a_second_sigterm_gives_back_at_once_what_runs(stage: Stage) -> None:
    old = stage.worker("--grace", "60", name="old")
    results = [stage.send(lane, "holds", stage.path("go")) for lane in ("plain", "coroutine")]
    stage.started(*results)
    old.signal(signal.SIGTERM)
    stage.wait(lambda: "Shutting down" in old.text())
    begun = time.monotonic()
    old.signal(signal.SIGTERM)
    assert old.wait() == 0
    print(f"\nP5: gone {time.monotonic() - begun:.2f} s after the second SIGTERM")
    assert time.monotonic() - begun < 3
    assert stage.rows("SELECT max(deliveries), count(lease) FROM messages") == [(0, 0)]
    stage.worker(name="new")
    assert stage.started(*results, times=2).worker == "new"
    stage.release("go")
    assert [result.get(timeout=30) for result in results] == ["released"] * 2


def test_at_most_once_a_task_that_outlasts_the_grace_time_is_recorded_as_worker_lost(stage: Stage) -> None:
    old = stage.worker("--grace", "1.5")
    results = [stage.send(lane, "holds", stage.path("go"), acks_late=False) for lane in ("plain", "coroutine")]
    stage.started(*results)
    assert old.stop() == 0
    for result in results:
        with pytest.raises(WorkerLost):
            result.get(timeout=1)
    assert stage.rows("SELECT count(*) FROM messages") == [(0,)]


def test_an_idle_worker_is_gone_at_once(stage: Stage) -> None:
    worker = stage.worker()
    begun = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - begun < 3
    assert stage.rows("SELECT count(*) FROM leases") == [(0,)]


def test_workers_told_to_stop_while_tasks_come_and_go_are_gone_as_soon_as_what_runs_has_ended(stage: Stage) -> None:
    workers = [stage.worker(ready=False, worker_concurrency=1) for _ in range(5)]
    for worker in workers:
        worker.wait_ready()
    load = stage.app.tasks["victim.plain"].delay_many([("sleeps", 0.002)] * 4000)
    stage.started(load[100])
    for worker in workers:
        worker.signal(signal.SIGTERM)
    assert [worker.wait(10) for worker in workers] == [0] * 5
    assert stage.rows("SELECT max(deliveries), count(lease) FROM messages") == [(0, 0)]
    assert len({run.id for run in stage.journal()}) == len(stage.journal())
