"""P10: a chord's body or its error callback runs exactly once, whatever is killed or delivered twice.

Here random workflows run through two workers, while children, workers and, on Redis, connections and the server are
killed. Messages that come twice, and connections that break before or after each call, are in
`tests/canvas/test_mishaps.py`, by the hundred.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from celeriac import Workflow
from celeriac.errors import BrokerUnavailable
from tests.canvas.oracle import Bad, Node, interpret, random_tree, signature
from tests.promises.harness import Run, Stage
from tests.promises.test_chaos import Killer

TREES = 80
PAUSE = 0.4  # seconds between kills
SECONDS = 100.0


@pytest.mark.timeout(180)
def test_random_workflows_end_as_they_should_whatever_is_killed(stage: Stage) -> None:
    stage.record()
    seed = random.randrange(1 << 32)
    print(f"\nseed {seed}")
    chance = random.Random(seed)
    trees = [Node("chord", (random_tree(chance), random_tree(chance, 1))) for _ in range(TREES)]
    told = [interpret(tree, 7) for tree in trees]
    results = [signature(stage.app, tree, "victim.").delay(7) for tree in trees]
    # A tree of nothing but empty groups has no task, and is no workflow.
    workflows = [stage.app.workflow(result.workflow_id) for result in results if result.workflow_id is not None]
    killer = Killer(stage, seed)

    begun = time.monotonic()
    while unfinished := not_finished(workflows):
        assert time.monotonic() - begun < SECONDS, "\n".join(workflow.graph("text") for workflow in unfinished)
        killer.kill()
        time.sleep(PAUSE)
    stage.wait(lambda: patiently(lambda: nothing_waits(stage)), "empty queues")

    for tree, result, expected in zip(trees, results, told, strict=True):
        try:
            value = result.get(timeout=5)
        except ValueError as error:
            value = Bad(error.args[0])
        assert value == expected.value, tree
    assert calls(stage) == {" ".join(map(str, call)).replace(", ", ",") for item in told for call in item.calls}
    assert set(stage.recorded().values()) == {1}

    runs: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(stage.journal(), key=lambda run: run.at):
        runs[run.id].append(run)
    ends = {(run.id, run.pid): run.at for run in stage.journal("end")}
    again = [run for ran in runs.values() for run in ran[:-1]]
    print(f"{TREES} workflows, {sum(map(len, runs.values()))} runs, {len(again)} of them again; {dict(killer.counts)}")
    assert [run for run in again if not killer.explains(run, ends.get((run.id, run.pid)))] == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("good", [True, False])
def test_a_body_or_its_error_callback_is_called_though_who_ended_the_last_member_is_killed(
    stage: Stage, good: bool
) -> None:
    header = [Node("task", (), label, "returns" if good or label else "fails") for label in range(200)]
    tree = Node("chord", (*header, Node("task", (), 1000)), errback=2000)
    result = signature(stage.app, tree, "victim.").delay(7)
    killer = Killer(stage, 1)
    stage.wait(lambda: len(stage.journal("end")) >= len(header), "the end of the members")
    killer.kill_worker()
    killer.kill_worker()
    stage.wait(result.ready, "the end of the chord")
    stage.wait(lambda: nothing_waits(stage), "empty queues")
    last = {line for line in calls(stage) if line.split()[1] in ("1000", "2000")}
    assert last == ({"task 1000 None"} if good else {"errback 2000 0"})


# --- Seeing -------------------------------------------------------------------------------------------


def calls(stage: Stage) -> set[str]:
    """Return what tasks and callbacks have noted of their calls."""
    return set((stage.folder / "calls").read_text().splitlines())


def nothing_waits(stage: Stage) -> bool:
    broker = stage.app.broker
    counts = broker.complete(broker.operations().queues())
    due = asyncio.run(stage.app.backend.due(1, 0.0))
    return not due and not any(count.ready + count.active + count.scheduled for count in counts)


def not_finished(workflows: Sequence[Workflow]) -> list[Workflow]:
    return [workflow for workflow in workflows if not patiently(workflow.finished)]


def patiently(condition: Callable[[], Any]) -> Any:
    """Return what a condition gives; False while the server is away."""
    try:
        return condition()
    except BrokerUnavailable:
        return False
