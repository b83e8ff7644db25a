"""What befalls a worker's children: failed births, forks of their own, broken frames, slow starts, stubborn tasks."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.errors import WorkerLost
from tests.promises.harness import Stage, set_stage

LANES = ["plain", "coroutine"]
both_lanes = pytest.mark.parametrize("lane", LANES)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with set_stage(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage with a worker, for all tests of the module."""
    with set_stage(tmp_path_factory.mktemp("shared")) as found:
        found.worker("-c", "2", worker_lease_seconds=15)
        yield found


def get(result: Any) -> Any:
    return result.get(timeout=30)


def append(stage: Stage, code: str) -> None:
    """Add code to the victim, before its workers start."""
    with (stage.folder / "victim.py").open("a") as module:
        module.write(f"\n\n{code}\n")


# --- Births -------------------------------------------------------------------------------------------


def test_a_worker_whose_nursery_dies_over_a_birth_ends(stage: Stage) -> None:
    worker = stage.worker("-c", "1")
    nursery = worker.nursery()
    nursery.suspend()
    asyncio.run(stage.inspector().pool_grow(1))
    nursery.kill()
    assert worker.wait() == 1
    assert stage.leases() == []


def test_a_child_that_cannot_be_forked_is_forked_later(stage: Stage) -> None:
    append(
        stage,
        """
def fork(fork=os.fork):
    if Path("full").exists():
        raise BlockingIOError(11, "no process to be had")
    return fork()

os.fork = fork
""",
    )
    worker = stage.worker("-c", "1")
    assert get(stage.send("plain", "returns", 1)) == 1
    stage.release("full")
    with pytest.raises(WorkerLost):
        get(stage.send("plain", "kills_itself", acks_late=False))
    stage.wait(lambda: "no process to be had" in worker.text(), "the word that no child can be forked")
    Path(stage.path("full")).unlink()
    assert get(stage.send("plain", "returns", 2)) == 2
    assert worker.stop() == 0


def test_a_worker_without_a_file_descriptor_for_a_child_tries_again_and_can_be_stopped(stage: Stage) -> None:
    worker = stage.worker("-c", "1")
    assert get(stage.send("plain", "returns", 1)) == 1
    _, most = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    victim, *_ = (child for child in worker.children() if child.pid == stage.journal()[0].pid)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, most))
    victim.send_signal(signal.SIGKILL)
    stage.wait(lambda: "No child can be started" in worker.text(), "the word that no child can be started")
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (1024, most))
    assert get(stage.send("plain", "returns", 2)) == 2
    assert worker.stop() == 0
