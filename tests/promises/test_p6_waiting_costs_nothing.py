"""P6: 100,000 tasks due in an hour cost a worker no memory, survive restarts, can be listed and cancelled.

When tasks run whose time comes, and that none is lost while their worker is restarted, is in `test_chaos.py`.
"""

from __future__ import annotations

import asyncio
import time

import psutil
import pytest

from celeriac import states
from celeriac.errors import TaskRevoked
from celeriac.inspector import Inspector
from tests.patience import PATIENCE
from tests.promises.harness import Stage, Worker, on

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


@pytest.mark.timeout(600)
@pytest.mark.parametrize(  # RabbitMQ's own delays cannot be listed
    "stage", ["sqlite", "redis", on("rabbitmq+redis, delays", at_length=True),
              on("rabbitmq+postgresql, delays", at_length=True)], indirect=True)  # fmt: skip
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
            result.get(timeout=PATIENCE)
    stage.wait(lambda: all(result.state == states.REVOKED for result in results[:1000]), "the end of 1000 tasks")
    assert scheduled(inspector) == MANY - 1000
    assert len(stage.journal()) == 4500
