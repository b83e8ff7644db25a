"""P7: a worker that lost its broker is consuming again within 5 s of its return. (SQLite is lost while locked.)"""

from __future__ import annotations

import time

import pytest

from tests.promises.harness import Stage


@pytest.mark.parametrize("timeout", [0.5, 10.0], ids=["given up and tried again", "waited for"])
def test_outcomes_that_wait_while_the_database_is_locked_are_all_recorded_once(stage: Stage, timeout: float) -> None:
    stage.worker(worker_lease_seconds=15, broker_publish_timeout=timeout)
    stage.record()
    results = stage.app.tasks["victim.plain"].delay_many([("sleeps", 0.005)] * 400)
    results += stage.app.tasks["victim.coroutine"].delay_many([("sleeps", 0.005)] * 400)
    holding = [stage.send(lane, "holds", stage.path("go"), priority=9) for lane in ("plain", "coroutine")]
    stage.started(*holding, results[3], results[403])
    with stage.locked():
        stage.release("go")  # at least these end, and others that were begun
        locked = time.monotonic()
        stage.wait(lambda: time.monotonic() - locked > 3, "3 s to pass")
        assert not any(result.ready() for result in holding)
    returned = time.time()
    stage.wait(lambda: any(run.at > returned for run in stage.journal()), "a task that starts", seconds=5)
    print(f"\nP7: consuming {min(r.at for r in stage.journal() if r.at > returned) - returned:.2f} s after the return")
    everything = results + holding
    stage.wait(lambda: all(result.successful() for result in everything), "the end of all tasks")
    assert len(stage.journal()) == len(everything)
    assert set(stage.recorded().values()) == {1}


def test_nothing_is_lost_when_leases_expire_while_the_database_is_locked(stage: Stage) -> None:
    stage.worker(broker_publish_timeout=0.5)
    stage.worker(broker_publish_timeout=0.5)
    stage.record()
    results = stage.app.tasks["victim.plain"].delay_many([("sleeps", 0.005)] * 300)
    results += stage.app.tasks["victim.coroutine"].delay_many([("sleeps", 0.005)] * 300)
    stage.started(results[0], results[300])
    with stage.locked():
        locked = time.monotonic()
        stage.wait(lambda: time.monotonic() - locked > 3, "3 s to pass")
    stage.wait(lambda: all(result.successful() for result in results), "the end of all tasks")
    assert set(stage.recorded().values()) == {1}
    assert all(worker.stop() == 0 for worker in stage.workers)
    assert stage.rows("SELECT count(*) FROM messages") == [(0,)]
