"""Remote workers: P1 to P5 and P9 hold for workers in other languages, too, whose deliveries go over HTTP.

The workers are processes of Node.js, the server of the HTTP API is a process of its own, and any of them is killed.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.needs import needs_node
from tests.patience import PATIENCE, in_time
from tests.promises.harness import LEASE, SHORT_LEASE, Run, Stage, get, on, set_stage
from tests.promises.remote import Node, Web

pytestmark = needs_node

SQLITE_REDIS_HUB = pytest.mark.parametrize("stage", ["sqlite", "redis", "hub"], indirect=True)
SQLITE_ABOVE_ALL = pytest.mark.parametrize(  # what workers and the server do is the same with each of these brokers
    "stage", ["sqlite", on("redis", at_length=True), "hub"], indirect=True
)
RABBITMQ = pytest.mark.parametrize("stage", ["rabbitmq"], indirect=True)

WEB_LEASE = 12.0  # seconds; a server that was killed is there again sooner, and what was on its way runs soon after


# --- P1, P2 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ground", ["sqlite", on("redis", at_length=True), "hub"])
def test_p1_p2_the_server_is_killed_and_started_again_under_load(tmp_path: Path, ground: str) -> None:
    """Each task runs; one that a worker held is not run twice, though the server that gave it is gone.

    While no lease expires; on a busy machine a short one may, before the server is there again.
    """
    for lease in (WEB_LEASE, 4 * WEB_LEASE):
        with set_stage(tmp_path / f"{lease:g}", ground) as stage:
            if not twice(stage, lease):
                return
    pytest.fail("a task ran twice each time")


def twice(stage: Stage, lease: float) -> list[str]:
    """Kill the server under load, check that all tasks run and are recorded once, and return those that ran twice."""
    web = Web(stage)
    stage.record()
    nodes = [Node(web, f"node{number}", concurrency=8, lease=lease) for number in (1, 2)]
    results = [stage.send(lane, "sleeps", 0.05) for _ in range(150) for lane in ("plain", "coroutine")]
    for share in (1, 2, 3):
        stage.wait(lambda share=share: len(stage.journal("end")) >= share * 60, f"{share * 60} ends")
        web.kill()
        web.start()
    assert [get(result) for result in results] == [0.05] * len(results)
    stage.wait(stage.is_empty, "an empty broker")
    assert stage.recorded() == {result.id: 1 for result in results}
    assert {run.id for run in stage.journal()} == {result.id for result in results}
    assert all(node.process is not None and node.process.poll() is None for node in nodes)
    ends = Counter(run.id for run in stage.journal("end"))
    return [id for id, times in ends.items() if times > 1]


@SQLITE_REDIS_HUB
def test_p2_a_task_that_runs_while_the_server_is_killed_runs_once(stage: Stage) -> None:
    web = Web(stage)
    stage.record()
    Node(web, "node", concurrency=2, lease=5 * WEB_LEASE)  # nothing is lost here, so that nothing waits for its end
    results = [stage.send("plain", "holds", stage.path("go")) for _ in range(2)]
    stage.started(*results)
    stage.worker("-Q", "default,other")  # it would run what a lease has lost
    for _ in range(2):
        web.kill()
        web.start()
    stage.release("go")
    assert [get(result) for result in results] == ["released"] * 2
    assert [run.worker for run in stage.runs(*results)] == ["node"] * 2
    assert stage.recorded() == {result.id: 1 for result in results}


@SQLITE_ABOVE_ALL
def test_p1_workers_are_killed_under_load(stage: Stage) -> None:
    web = Web(stage)
    stage.record()
    first, second = (Node(web, name, concurrency=4, lease=SHORT_LEASE) for name in ("first", "second"))
    results = [stage.send("plain", "sleeps", 0.02) for _ in range(200)]
    for share in (1, 2, 3):
        stage.wait(lambda share=share: len(stage.journal("end")) >= share * 40, f"{share * 40} ends")
        (first if share % 2 else second).kill()
        (first if share % 2 else second).start()
    assert [get(result) for result in results] == [0.02] * 200
    stage.wait(stage.is_empty, "an empty broker")
    assert stage.recorded() == {result.id: 1 for result in results}


@pytest.mark.parametrize("stage", ["sqlite", "redis", "rabbitmq", "hub"], indirect=True)
def test_p2_the_late_settlement_of_a_frozen_worker_is_refused(stage: Stage) -> None:
    web = Web(stage)
    stage.record()
    frozen = Node(web, "frozen", lease=SHORT_LEASE)
    result = stage.send("plain", "holds", stage.path("go"))
    stage.started(result)
    frozen.freeze()
    heir = stage.worker(name="heir")
    stage.started(result, times=2)
    stage.release("go")
    assert get(result) == "released"
    frozen.signal(signal.SIGCONT)
    stage.wait(lambda: "another worker" in frozen.text(), "the frozen worker hearing of it")
    assert stage.recorded() == {result.id: 1}
    outcome = stage.app.backend.fetch([result.id])[result.id]
    assert outcome.worker == heir.name
    late = stage.send("plain", "returns", 3)  # it goes on
    assert get(late) == 3


@RABBITMQ
def test_p1_p2_on_rabbitmq_a_killed_servers_tasks_run_again_and_are_recorded_once(stage: Stage) -> None:
    """A lease is a connection of the server there. What a worker held runs again at once; its late end is refused."""
    web = Web(stage)
    node = Node(web, "node")
    result = stage.send("plain", "holds", stage.path("go"))
    stage.started(result)
    web.kill()
    web.start()
    stage.started(result, times=2)
    stage.release("go")
    assert get(result) == "released"
    stage.wait(stage.is_empty, "an empty broker")
    assert get(stage.send("plain", "returns", 5)) == 5
    assert node.process is not None
    assert node.process.poll() is None


# --- P3 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["sqlite", "redis", "rabbitmq", "hub"], indirect=True)
def test_p3_a_killed_workers_tasks_start_elsewhere_within_its_lease_and_two_seconds(stage: Stage) -> None:
    web = Web(stage)
    victim = Node(web, "victim", lease=SHORT_LEASE)
    results = [stage.send(lane, "holds", stage.path("go")) for lane in ("plain", "coroutine")]
    stage.started(*results)
    Node(web, "heir")  # no worker of Celeriac's own: the server sweeps
    killed = time.time()
    victim.kill()

    def taken_over() -> list[Run]:
        return [run for run in stage.runs(*results) if run.worker == "heir"]

    stage.wait(lambda: len({run.id for run in taken_over()}) == 2, "runs of both tasks elsewhere")
    runs = taken_over()
    wait = max(run.at for run in runs) - killed
    print(f"\nP3: a remote worker's tasks were taken over {wait:.2f} s after its kill (lease {SHORT_LEASE:g} s)")
    starts = Counter(run.id for run in stage.runs(*results))
    assert [run.deliveries for run in runs] == [starts[run.id] for run in runs]
    assert len(runs) == 2
    assert in_time(wait, SHORT_LEASE + 2)
    stage.release("go")
    assert [get(result) for result in results] == ["released"] * 2


# --- P4 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["sqlite", "redis", "rabbitmq", "hub"], indirect=True)
def test_p4_a_message_that_kills_its_worker_again_and_again_becomes_a_dead_letter(stage: Stage) -> None:
    web = Web(stage)
    result = stage.send("plain", "dies")
    for number in (1, 2, 3):
        node = Node(web, f"node{number}", concurrency=1, lease=1.5)
        stage.started(result, times=number)
        assert node.wait() == -signal.SIGKILL
    stage.wait(lambda: stage.counts().dead == 1, "a dead letter")
    assert [run.deliveries for run in stage.runs(result)] == [1, 2, 3]
    outcome = stage.app.backend.fetch([result.id], wait=PATIENCE)[result.id]
    assert outcome.failure is not None
    assert outcome.failure.type == "WorkerLost"


# --- P5 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["sqlite", "redis", "rabbitmq", "hub"], indirect=True)
def test_p5_a_worker_that_is_stopped_returns_what_it_cannot_finish_and_that_costs_no_attempt(stage: Stage) -> None:
    web = Web(stage)
    node = Node(web, "old", concurrency=2, lease=LEASE, grace=1.0)
    endless = stage.send("plain", "holds", stage.path("go"))
    short = stage.send("plain", "sleeps", 0.3)
    stage.started(endless, short)
    assert node.stop() == 0
    assert get(short) == 0.3
    Node(web, "new")
    assert stage.started(endless, times=2).deliveries == 1
    stage.release("go")
    assert get(endless) == "released"
    assert len(stage.runs(short)) == 1


@SQLITE_ABOVE_ALL
def test_p5_a_server_that_is_stopped_and_started_again_costs_no_attempt(stage: Stage) -> None:
    web = Web(stage)
    Node(web, "node", concurrency=2, lease=LEASE)
    held = stage.send("plain", "holds", stage.path("go"))
    stage.started(held)
    assert web.stop() == 0
    waiting = stage.send("plain", "returns", 1)
    web.start()
    assert get(waiting) == 1
    stage.release("go")
    assert get(held) == "released"
    assert [(run.attempt, run.deliveries) for run in stage.runs(held, waiting)] == [(1, 1)] * 2


@RABBITMQ
def test_p5_on_rabbitmq_a_server_that_is_stopped_returns_what_its_workers_hold_uncounted(stage: Stage) -> None:
    web = Web(stage)
    Node(web, "node", concurrency=2)
    held = stage.send("plain", "holds", stage.path("go"))
    stage.started(held)
    assert web.stop() == 0
    web.start()
    assert stage.started(held, times=2).deliveries == 1
    stage.release("go")
    assert get(held) == "released"
    stage.wait(stage.is_empty, "an empty broker")


# --- P7 -----------------------------------------------------------------------------------------------


@SQLITE_REDIS_HUB
def test_p7_what_ended_while_the_broker_was_away_is_settled_when_it_is_back(stage: Stage) -> None:
    web = Web(stage, broker_publish_timeout=1)
    stage.record()
    node = Node(web, "node", concurrency=2)
    held = stage.send("plain", "holds", stage.path("go"))
    stage.started(held)
    with stage.away(stage.ground.absences[0]):
        stage.release("go")
        stage.wait(lambda: held.id in [run.id for run in stage.journal("end")], "the end of the task")
        stage.wait(lambda: "trying again" in node.text(), "a settlement that is refused")
    assert get(held) == "released"
    assert get(stage.send("plain", "returns", 7)) == 7
    assert len(stage.runs(held)) == 1
    assert stage.recorded()[held.id] == 1


# --- P9 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["sqlite", "redis", "rabbitmq", "hub"], indirect=True)
def test_p9_a_remote_worker_holds_back_nothing_that_another_could_start(stage: Stage) -> None:
    web = Web(stage)
    Node(web, "busy", concurrency=1)
    held = stage.send("plain", "holds", stage.path("go"))
    stage.started(held)
    others = [stage.send(lane, "returns", 2) for lane in ("plain", "coroutine") for _ in range(5)]
    Node(web, "free", concurrency=1)
    assert [get(result) for result in others] == [2] * 10
    assert {run.worker for run in stage.runs(*others)} == {"free"}
    stage.release("go")
    assert get(held) == "released"
