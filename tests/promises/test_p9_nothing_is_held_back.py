"""P9: a worker never holds back a message that another could start."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from tests.patience import PATIENCE, in_time
from tests.promises.harness import Stage


def busy(stage: Stage) -> Any:
    """Start a worker whose only child has been sent thousands of quick tasks."""
    worker = stage.worker(name="busy", worker_concurrency=1)
    warm = stage.victim.quick.delay_many([(number,) for number in range(3000)])
    warm += [stage.send("coroutine", "returns", number) for number in range(200)]
    stage.wait(lambda: all(result.ready() for result in reversed(warm)), "the end of 3200 tasks")
    return worker


def both(stage: Stage) -> tuple[Any, Any]:
    """Start a busy worker, and an idle one, which is stopped."""
    worker = busy(stage)
    idle = stage.worker(name="idle", worker_concurrency=1)
    idle.signal_all(signal.SIGSTOP)
    return worker, idle


@pytest.mark.parametrize(("stage", "ahead"), [("sqlite", 0), ("sqlite", 200), ("redis", 200)], indirect=["stage"])
def test_tasks_behind_a_slow_one_are_started_by_an_idle_worker(stage: Stage, ahead: int) -> None:
    _, idle = both(stage)
    plain = stage.app.tasks["victim.plain"]
    results = plain.delay_many([("returns", 1)] * ahead + [("holds", stage.path("go"))] + [("returns", 1)] * 200)
    slow, behind = results[ahead], results[ahead + 1 :]
    begun = stage.started(slow)
    idle.signal_all(signal.SIGCONT)
    stage.started(*behind[-20:])
    stage.wait(lambda: len(stage.runs(*behind)) == 200, "the start of all")
    runs = stage.runs(*behind)
    last = max(run.at for run in runs) - begun.at
    print(f"\nP9: the last of 200 tasks behind one that holds was started {last:.3f} s after it")
    assert {run.worker for run in runs} == {"idle"}
    assert in_time(last, 1)
    stage.release("go")
    assert slow.get(timeout=PATIENCE) == "released"
    assert len(stage.runs(*results)) == len(results)
    assert {run.deliveries for run in stage.runs(*results)} == {1}


def test_tasks_sent_after_a_slow_one_has_begun_are_started_by_an_idle_worker(stage: Stage) -> None:
    busy(stage)
    slow = stage.send("plain", "holds", stage.path("go"))
    begun = stage.started(slow)
    stage.worker(name="idle", worker_concurrency=1)  # started now: a server that pushes would give it the slow one
    behind = [stage.send("plain", "returns", 1) for _ in range(20)]
    sent = time.time()
    runs = [stage.started(result) for result in behind]
    last = max(run.at for run in runs) - sent
    print(f"\nP9: the last of 20 tasks was started {last:.3f} s after it was sent")
    assert in_time(last, 1)
    assert {run.worker for run in runs} == {"idle"}, stage.runs(slow, *behind)
    assert {run.deliveries for run in [begun, *runs]} == {1}
    stage.release("go")
    assert slow.get(timeout=PATIENCE) == "released"


def test_coroutines_behind_one_that_blocks_its_loop_are_started_by_an_idle_worker(stage: Stage) -> None:
    busy(stage)
    coroutine = stage.app.tasks["victim.coroutine"]
    blocking, *behind = coroutine.delay_many([("blocks", stage.path("go"))] + [("returns", 1)] * 20)
    stage.started(blocking)
    stage.worker(name="idle", worker_concurrency=1)
    try:
        stage.wait(lambda: len(stage.runs(*behind)) == 20, "the start of those behind")
    finally:
        stage.release("go")
    assert blocking.get(timeout=PATIENCE) == "released"


def test_a_worker_that_is_full_leaves_the_rest_to_others(stage: Stage) -> None:
    stage.worker(name="full", worker_concurrency=1, worker_coroutine_concurrency=2)
    holding = [stage.send("plain", "holds", stage.path("go")) for _ in range(3)]
    holding += [stage.send("coroutine", "holds", stage.path("go")) for _ in range(5)]
    stage.started(holding[0], *holding[3:5])
    stage.wait(lambda: stage.counts().active == 3, "what RabbitMQ has pushed beyond that to go back")
    stage.worker(name="helper", worker_concurrency=2, worker_coroutine_concurrency=3)
    stage.started(*holding)
    stage.release("go")
    assert [result.get(timeout=PATIENCE) for result in holding] == ["released"] * 8
