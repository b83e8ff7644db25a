"""P4: a message that kills its child again and again becomes a dead letter after `max_deliveries`."""

from __future__ import annotations

import asyncio

import pytest

from celeriac import states
from celeriac.errors import WorkerLost
from tests.patience import PATIENCE
from tests.promises.harness import SHORT_LEASE, Stage

LANES = pytest.mark.parametrize("lane", ["plain", "coroutine"])


@LANES
@pytest.mark.parametrize("how", ["kills_itself", "exits_at_once", "crashes"])
def test_a_task_that_ends_its_child_is_put_aside_after_three_deliveries(stage: Stage, lane: str, how: str) -> None:
    stage.worker()
    result = stage.send(lane, how, 3)
    with pytest.raises(WorkerLost, match="3 times"):
        result.get(timeout=PATIENCE)
    assert result.state == states.FAILURE
    assert [run.deliveries for run in stage.runs(result)] == [1, 2, 3]
    assert [run.attempt for run in stage.runs(result)] == [1, 1, 1]
    # Where broker and backend are two servers, the outcome is there a moment before the dead letter.
    (dead,) = stage.wait(lambda: asyncio.run(stage.inspector().dead()), "a dead letter")
    assert dead.message.id == result.id
    assert "3 times" in dead.reason


@LANES
def test_a_message_that_its_task_requeues_is_redelivered_and_comes_no_closer_to_being_put_aside(
    stage: Stage, lane: str
) -> None:
    stage.worker(task_max_deliveries=2)
    result = stage.send(lane, "requeues", 3)
    assert result.get(timeout=PATIENCE)["redelivered"]
    assert [(run.attempt, run.deliveries) for run in stage.runs(result)] == [(1, 1), (1, 2), (1, 3), (1, 4)]


@LANES
def test_a_dead_letter_can_be_sent_again_as_if_new(stage: Stage, lane: str) -> None:
    stage.worker()
    result = stage.send(lane, "kills_itself_unless", stage.path("antidote"))
    with pytest.raises(WorkerLost):
        result.get(timeout=PATIENCE)
    stage.release("antidote")
    stage.wait(lambda: asyncio.run(stage.inspector().dead()), "a dead letter")
    assert asyncio.run(stage.inspector().resend([result.id])) == 1
    assert result.get(timeout=PATIENCE) == "spared"
    assert stage.runs(result)[-1].deliveries == 1
    assert asyncio.run(stage.inspector().dead()) == []


def test_a_dead_letter_can_be_dropped(stage: Stage) -> None:
    stage.worker()
    result = stage.send("plain", "kills_itself")
    with pytest.raises(WorkerLost):
        result.get(timeout=PATIENCE)
    stage.wait(lambda: asyncio.run(stage.inspector().dead()), "a dead letter")
    assert asyncio.run(stage.inspector().drop([result.id])) == 1
    assert asyncio.run(stage.inspector().dead()) == []
    assert stage.is_empty()


def test_a_task_that_kills_its_whole_worker_is_put_aside_too(stage: Stage) -> None:
    for _ in range(4):
        stage.worker(worker_lease_seconds=1, worker_concurrency=1)
    result = stage.send("plain", "kills_its_worker")
    with pytest.raises(WorkerLost, match="3 times"):
        result.get(timeout=PATIENCE)
    assert len({run.worker for run in stage.runs(result)}) == 3
    assert len(stage.wait(lambda: asyncio.run(stage.inspector().dead()), "a dead letter")) == 1


FAULT = """

from celeriac.worker.receiver import Receiver

accept = Receiver.accept

async def fragile(self, deliveries):
    if any("fault" in one.message.headers and not one.lost for one in deliveries):
        raise ZeroDivisionError
    await accept(self, deliveries)

Receiver.accept = fragile
"""


def test_a_message_whose_receipt_makes_workers_fail_is_put_aside_too(stage: Stage) -> None:
    with (stage.folder / "victim.py").open("a") as file:
        file.write(FAULT)
    culprit = stage.send("plain", "returns", 1, headers={"fault": True})
    for _ in range(3):
        worker = stage.worker(ready=False, worker_lease_seconds=1)
        assert worker.wait() == 1
        assert "One of the worker's duties has failed" in worker.text()
    stage.worker(worker_lease_seconds=SHORT_LEASE)
    with pytest.raises(WorkerLost, match="3 times"):
        culprit.get(timeout=PATIENCE)
    assert len(stage.wait(lambda: asyncio.run(stage.inspector().dead()), "a dead letter")) == 1
    assert stage.send("plain", "returns", 1).get(timeout=PATIENCE) == 1


@pytest.mark.parametrize("stage", ["sqlite"], indirect=True)  # takes its time, and is the pool's affair alone
def test_what_shares_a_child_with_a_task_that_kills_it_survives(stage: Stage) -> None:
    stage.worker()
    innocents = [stage.send("coroutine", "holds", stage.path("go")) for _ in range(20)]
    stage.started(*innocents)
    culprit = stage.send("coroutine", "kills_itself")
    with pytest.raises(WorkerLost):
        culprit.get(timeout=PATIENCE)
    stage.release("go")
    assert [result.get(timeout=PATIENCE) for result in innocents] == ["released"] * 20
    assert [dead.message.id for dead in asyncio.run(stage.inspector().dead())] == [culprit.id]


def test_what_is_sent_ahead_to_a_plain_child_that_is_killed_is_not_counted(stage: Stage) -> None:
    stage.worker(worker_concurrency=1)
    warm = stage.victim.quick.delay_many([(number,) for number in range(2000)])
    stage.wait(lambda: all(result.ready() for result in warm[-50:]), "the end of 2000 tasks")
    culprit, *innocents = stage.app.tasks["victim.plain"].delay_many(
        [("kills_itself",)] + [("tells_deliveries",)] * 100
    )
    assert [result.get(timeout=PATIENCE) for result in innocents] == [1] * 100
    with pytest.raises(WorkerLost):
        culprit.get(timeout=PATIENCE)
