"""P10: a chord's body or its error callback runs exactly once, whatever is killed or delivered twice.

Here random workflows run through two workers, while children and workers are killed, messages are delivered twice, and
connections are cut: the broker's and the backend's, and with Redis and RabbitMQ the servers are killed too. The same on
the rules alone, with connections that break before or after each call, is in `tests/canvas/test_mishaps.py`, by the
hundred.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from celeriac import Workflow
from celeriac.errors import BackendError, BrokerUnavailable
from celeriac.model.message import Message
from tests.canvas.oracle import Bad, Node, interpret, random_tree, signature
from tests.patience import PATIENCE
from tests.promises.grounds import GROUNDS, STORES, PairGround, RabbitGround, RabbitRedisGround, SQLiteGround
from tests.promises.harness import Run, Stage, on
from tests.promises.test_chaos import Killer

TREES = 80  # at first; then a few more, until each kind of trouble has been made
MORE = 10
WORKFLOWS = [*GROUNDS, "rabbitmq+redis"]
PAUSE = 0.4  # seconds between two troubles
SECONDS = 500.0  # for all of it; on two idle cores it takes some thirty


class Mischief(Killer):
    """Kills as in chaos, and besides delivers twice what it has seen waiting, and cuts connections."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.seen: dict[str, Message] = {}
        self.twice: Counter[str] = Counter()  # by the id of a message
        super().__init__(stage, seed)
        self.ways |= {self.deliver_twice: 4}
        ground = stage.ground
        if isinstance(ground, RabbitGround):
            self.ways |= {self.cut_connections: 1}  # to the broker
        if isinstance(ground, RabbitRedisGround):
            self.ways |= {self.kill_connections: 3, self.kill_one_connection: 3}  # to the backend
        elif isinstance(ground, SQLiteGround) and ground.path.exists():
            self.ways |= {self.lock_database: 2}

    def deliver_twice(self) -> bool:
        """Deliver again some of what waits or has been run long ago."""
        broker = self.stage.app.broker
        waiting = broker.complete(broker.operations().peek("default", 100))
        self.seen |= {message.id: message for message in waiting}
        chosen = self.random.sample(list(self.seen.values()), min(len(self.seen), 20))
        self.twice.update(message.id for message in chosen)
        if isinstance(self.stage.ground, RabbitGround | PairGround):
            # Two servers: what follows may be sent twice, and run at once.
            links = [link for message in chosen for link in (*message.link, *message.link_error)]
            self.twice.update(link.message.id for link in links)
        broker.publish(chosen)
        return bool(chosen)

    def cut_connections(self) -> bool:
        """Cut off everybody from RabbitMQ, with which leases end."""
        ground = self.stage.ground
        assert isinstance(ground, RabbitGround)
        begun = time.time()
        ground.server.cut_connections()
        ground.outages += [(at, at) for at in (begun, time.time())]
        return True

    def lock_database(self) -> bool:
        """Do to SQLite what is most like cutting its connections."""
        ground = self.stage.ground
        assert isinstance(ground, SQLiteGround)
        with SQLiteGround.away(ground, "locked"):
            time.sleep(self.random.choice([0.1, 0.5]))
        return True

    def is_done(self) -> bool:
        """Say whether each kind of trouble has been made."""
        return self.counts.keys() == {way.__name__ for way in self.ways}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [*WORKFLOWS, *(on(name, at_length=True) for name in STORES)], indirect=True)
def test_random_workflows_end_as_they_should_whatever_is_killed_cut_or_delivered_twice(stage: Stage) -> None:
    stage.record()
    seed = random.randrange(1 << 32)
    print(f"\nseed {seed}")
    chance = random.Random(seed)
    sent: list[tuple[Node, Any]] = []
    unfinished = send(stage, sent, chance, TREES)
    mischief = Mischief(stage, seed)

    begun = time.monotonic()
    while unfinished or not mischief.is_done():
        assert time.monotonic() - begun < SECONDS, "\n".join(workflow.graph("text") for workflow in unfinished)
        mischief.kill()
        time.sleep(PAUSE)
        unfinished = not_finished(unfinished) or (send(stage, sent, chance, MORE) if not mischief.is_done() else [])
    told = [interpret(tree, 7) for tree, _ in sent]
    expected_calls = {" ".join(map(str, call)).replace(", ", ",") for item in told for call in item.calls}
    # Queues and pending nodes cannot be seen at one instant: a callback may be on its way from one to the other.
    stage.wait(lambda: calls(stage) >= expected_calls, "all callbacks")
    stage.wait(lambda: patiently(lambda: nothing_waits(stage)), "empty queues")

    for (tree, result), expected in zip(sent, told, strict=True):
        try:
            value = result.get(timeout=PATIENCE)
        except ValueError as error:
            value = Bad(error.args[0])
        assert value == expected.value, tree
    assert calls(stage) == expected_calls
    recorded = stage.recorded()
    assert set(recorded.values()) == {1}

    runs: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(stage.journal(), key=lambda run: run.at):
        runs[run.id].append(run)
    ends = {(run.id, run.pid): run.at for run in stage.journal("end")}
    again = [pair for ran in runs.values() for pair in pairwise(ran)]
    unexplained = Counter(
        run.id for run, copy in again if not mischief.explains(run, ends.get((run.id, run.pid)), copy)
    )  # fmt: skip
    failed = sum(isinstance(expected.value, Bad) for expected in told)
    print(f"{len(sent)} workflows, {failed} of them failed; {sum(map(len, runs.values()))} runs, {len(again)} of them "
          f"again; {len(recorded)} outcomes, each recorded once")  # fmt: skip
    print(f"trouble: {dict(mischief.counts)}; {mischief.twice.total()} messages delivered twice, "
          f"{(unexplained & mischief.twice).total()} of them run again for that")  # fmt: skip
    known = f"outages: {stage.ground.outages}, workers killed: {mischief.workers}"
    assert {id: runs[id] for id in unexplained - mischief.twice} == {}, known


@pytest.mark.parametrize("good", [True, False])
def test_a_body_or_its_error_callback_is_called_though_the_worker_of_the_last_member_is_killed(
    stage: Stage, good: bool
) -> None:
    header = [Node("task", (), label, "returns" if good or label else "fails") for label in range(200)]
    tree = Node("chord", (*header, Node("task", (), 1000)), errback=2001)
    result = signature(stage.app, tree, "victim.").delay(7)
    killer = Killer(stage, 1)
    stage.wait(lambda: len(stage.journal("end")) >= len(header), "the end of the members")
    killer.kill_worker()
    killer.kill_worker()
    stage.wait(result.ready, "the end of the chord")
    stage.wait(lambda: nothing_waits(stage), "empty queues")
    last = {line for line in calls(stage) if line.split()[1] in ("1000", "2001")}
    assert last == ({"task 1000 None"} if good else {"errback 2001 0"})


@pytest.mark.parametrize("stage", [*WORKFLOWS, *(on(name) for name in STORES)], indirect=True)
@pytest.mark.parametrize("way", ["returns", "fails"])
def test_a_task_that_is_delivered_again_after_its_end_repeats_no_callback(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    sent: list[Message] = []
    publish = stage.app.broker.publish
    monkeypatch.setattr(stage.app.broker, "publish", lambda messages: [sent.extend(messages), publish(messages)])
    tree = Node("chord", (Node("task", (), 1, way, 2 * 4 + 1, 3 * 4 + 1), Node("task", (), 5)), errback=6)
    result = signature(stage.app, tree, "victim.").delay(7)
    stage.worker()
    stage.wait(result.ready, "the end of the chord")
    called = len(interpret(tree, 7).calls)
    stage.wait(lambda: len(stage.journal("end")) == called and nothing_waits(stage), "the end of the callbacks")
    for times in (1, 2, 3):
        publish(sent)
        stage.wait(lambda times=times: len(stage.journal("end")) >= called + times, "the task's running again")
        stage.wait(lambda: nothing_waits(stage), "empty queues")
    assert Counter(run.id for run in stage.journal()).most_common(1) == [(sent[0].id, 4)]
    assert len(stage.journal()) == called + 3


# --- Sending and seeing -------------------------------------------------------------------------------------------


def send(stage: Stage, sent: list[tuple[Node, Any]], chance: random.Random, number: int) -> list[Workflow]:
    """Send so many random chords, nested to depth 5; return them as workflows."""
    made = []
    for _ in range(number):
        tree = Node("chord", (random_tree(chance), random_tree(chance, 1)))
        result = signature(stage.app, tree, "victim.").delay(7)
        sent.append((tree, result))
        if result.workflow_id is not None:  # a tree of nothing but empty groups has no task, and is no workflow
            made.append(stage.app.workflow(result.workflow_id))
    return made


def calls(stage: Stage) -> set[str]:
    """Return what tasks and callbacks have noted of their calls."""
    return set((stage.folder / "calls").read_text().splitlines())


def nothing_waits(stage: Stage) -> bool:
    broker = stage.app.broker
    counts = broker.complete(broker.operations().queues())
    pending = asyncio.run(stage.app.backend.claim_pending(1, 0.0))
    return not pending and not any(count.ready + count.active + count.scheduled for count in counts)


def not_finished(workflows: Sequence[Workflow]) -> list[Workflow]:
    return [workflow for workflow in workflows if not patiently(workflow.finished)]


def patiently(condition: Callable[[], Any]) -> Any:
    """Return what a condition gives; False while a server is away."""
    try:
        return condition()
    except (BrokerUnavailable, BackendError):
        return False
