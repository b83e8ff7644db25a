"""P6: 100,000 tasks due in an hour cost a worker no memory, survive restarts, can be listed and cancelled."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import psutil
import pytest

from celeriac import states
from celeriac.errors import TaskRevoked
from celeriac.inspector import Inspector
from tests.promises.harness import Stage, Worker

MANY = 100_000
MEGABYTE = 1 << 20


def scheduled(inspector: Inspector) -> int:
    return sum(counts.scheduled for counts in asyncio.run(inspector.queues()))


def memory(worker: Worker) -> int:
    return int(psutil.Process(worker.pid).memory_info().rss)


def work(stage: Stage) -> None:
    """Have tasks run, so that all parts of the worker have been in use."""
    for _ in range(3):
        results = stage.victim.quick.delay_many([(number,) for number in range(500)])
        stage.wait(lambda results=results: all(result.ready() for result in results), "the end of 500 tasks")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stage", ["sqlite", "redis"], indirect=True)  # RabbitMQ cannot list: below
def test_a_hundred_thousand_tasks_due_in_an_hour(stage: Stage) -> None:
    worker = stage.worker()
    inspector = stage.inspector()
    work(stage)
    before = memory(worker)

    begun = time.monotonic()
    results = stage.victim.quick.delay_many([(number,) for number in range(MANY)], countdown=3600)
    took = time.monotonic() - begun
    work(stage)
    growth = memory(worker) - before
    print(f"\nP6: the supervisor grew by {growth / MEGABYTE:.2f} MB (sent in {took:.1f} s)")
    assert growth < 5 * MEGABYTE
    assert scheduled(inspector) == MANY

    worker.kill()
    stage.ground.restart()
    worker = stage.worker()
    work(stage)
    print(f"P6: after a restart the supervisor has {(memory(worker) - before) / MEGABYTE:+.2f} MB")
    assert memory(worker) - before < 5 * MEGABYTE
    assert scheduled(inspector) == MANY
    listed = asyncio.run(inspector.scheduled("default", limit=100, offset=50_000))
    assert [message.task for message in listed] == ["victim.quick"] * 100

    stage.app.control.revoke([result.id for result in results[:1000]])
    for result in results[:1000:100]:
        with pytest.raises(TaskRevoked):
            result.get(timeout=30)
    stage.wait(lambda: all(result.state == states.REVOKED for result in results[:1000]), "the end of 1000 tasks")
    assert scheduled(inspector) == MANY - 1000
    assert len(stage.journal()) == 4500


@pytest.mark.timeout(150)
def test_tasks_run_within_a_second_of_their_time_though_the_worker_is_restarted_half_way(
    stage: Stage, request: pytest.FixtureRequest
) -> None:
    count, seconds = (10_000, 60.0) if request.config.getoption("--chaos") else (1_000, 6.0)
    worker = stage.worker()
    work(stage)
    begun = time.time() + 3.0 + count / 500  # they are all sent by then
    due = {}
    for start in range(0, count, 5):
        eta = datetime.fromtimestamp(begun + seconds * start / count, UTC)
        for result in stage.victim.quick.delay_many([(number,) for number in range(5)], eta=eta):
            due[result.id] = eta.timestamp()
    assert time.time() < begun
    time.sleep(max(0.0, begun + seconds / 2 - time.time()))
    stage.worker()  # as a deploy does it: the next one is ready before the last one goes
    assert worker.stop() == 0
    stage.wait(lambda: sum(run.id in due for run in stage.journal()) >= count, "all tasks", seconds=seconds + 30)
    late = sorted(run.at - due[run.id] for run in stage.journal() if run.id in due)
    assert len(late) == count
    median, p99 = late[count // 2], late[int(count * 0.99)]
    print(f"\nP6: late by {median:.3f} s (median), {p99:.3f} s (p99); from {late[0]:.3f} to {late[-1]:.3f} s")
    assert late[0] > -0.5
    assert p99 < 1.0
