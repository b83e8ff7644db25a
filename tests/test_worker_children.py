"""Child processes of a worker: failed forks, forks by tasks, interrupted frames, slow starts, tasks that do not end."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from celeriac import Celeriac, states
from celeriac.errors import SoftTimeLimitExceeded, TaskRevoked, TimeLimitExceeded, WorkerLost
from celeriac.model.message import COROUTINE, Message
from celeriac.ports.broker import Delivery
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pools import process_pool
from celeriac.worker.pools.child_handle import ChildHandle
from celeriac.worker.pools.coroutine_child import CoroutineChild
from celeriac.worker.pools.forkserver import Exited, Spawn, Spawned
from celeriac.worker.pools.frames import PERMIT, Run, Runs, frame
from celeriac.worker.pools.pool import Reports
from tests.patience import eventually
from tests.promises.harness import Stage, get

LANES = ["plain", "coroutine"]
both_lanes = pytest.mark.parametrize("lane", LANES)


NO_PID = 2**23  # more than any process has


def ignore(report: Any) -> None:
    """Do nothing with what a pool reports."""


def append(stage: Stage, code: str) -> None:
    """Add code to the victim module. Call it before workers start."""
    with (stage.folder / "victim.py").open("a") as module:
        module.write(f"\n\n{code}\n")


# --- Spawner -------------------------------------------------------------------------------------------


def test_a_worker_exits_if_its_fork_server_dies_while_forking_a_child(stage: Stage) -> None:
    worker = stage.worker("-c", "1")
    forkserver = worker.forkserver()
    forkserver.suspend()
    asyncio.run(stage.inspector().pool_grow(1))
    forkserver.kill()
    assert worker.wait() == 1
    assert stage.leases() == []


async def test_a_child_that_ends_while_one_of_the_other_lane_is_forked_is_replaced(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_pool, "SHORT_LIFE", 0.0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def be_the_fork_server() -> None:
        for pid in itertools.count(NO_PID):
            data, descriptors, *_ = socket.recv_fds(theirs, 4096, 2)
            for descriptor in descriptors:
                os.close(descriptor)
            if not data:
                return
            if msgspec.json.decode(data, type=Spawn).lane == COROUTINE:
                theirs.send(msgspec.json.encode(Exited(NO_PID, 0)))
            theirs.send(msgspec.json.encode(Spawned(pid)))

    reports = Reports(ended=ignore, reported=ignore, freed=lambda: None, broken=ignore)
    pool = process_pool.ProcessPool(app, WorkerOptions(), reports, ours)
    with ThreadPoolExecutor() as executor:
        work = executor.submit(be_the_fork_server)
        await pool.start()
        lanes = [child.lane for child in pool.children()]
        theirs.shutdown(socket.SHUT_RDWR)
        await eventually(lambda: not pool.children(), "the end of the pool")
        work.result()
    ours.close()
    theirs.close()
    assert sorted(lanes) == sorted(LANES)


def test_a_child_that_cannot_be_forked_is_forked_later(stage: Stage) -> None:
    append(
        stage,
        """
def fork(fork=os.fork):
    if Path("full").exists():
        raise BlockingIOError(11, "no free process")
    return fork()

os.fork = fork
""",
    )
    worker = stage.worker("-c", "1")
    assert get(stage.send("plain", "returns", 1)) == 1
    stage.release("full")
    with pytest.raises(WorkerLost):
        get(stage.send("plain", "kills_itself", acks_late=False))
    stage.wait(lambda: "no free process" in worker.text(), "the warning that no child can be forked")
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
    stage.wait(lambda: "Cannot start a child process" in worker.text(), "the warning that no child can be started")
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (1024, most))
    assert get(stage.send("plain", "returns", 2)) == 2
    assert worker.stop() == 0


# --- What children report -----------------------------------------------------------------------------


def test_a_soft_time_limit_that_passes_while_the_task_reports_a_state_breaks_no_frame(shared: Stage) -> None:
    result = shared.send("plain", "tells_without_end", soft_time_limit=0.5)
    assert get(result) == "cleaned up"
    assert len(shared.runs(result)) == 1


def test_threads_of_a_task_may_report_states_at_the_same_time(shared: Stage) -> None:
    result = shared.send("plain", "tells_from_threads")
    assert get(result) == "told"
    assert len(shared.runs(result)) == 1


def test_a_default_timeout_of_sockets_does_not_apply_to_the_socket_of_a_child(stage: Stage) -> None:
    append(stage, "socket.setdefaulttimeout(0.5)")
    stage.worker("-c", "1")
    assert set(get(stage.send("plain", "tells_link_timeouts"))) == {None}


def test_a_soft_time_limit_works_after_a_task_that_ignored_its_signal(stage: Stage) -> None:
    stage.worker("-c", "1")
    get(stage.send("plain", "ignores_sigusr1"))
    result = stage.send("plain", "cleans_up", stage.path("never"), soft_time_limit=0.2, time_limit=100)
    assert get(result) == "cleaned up"


# --- What children start ------------------------------------------------------------------------------


@both_lanes
@pytest.mark.parametrize("how", ["exits", "returns"])
def test_a_process_that_a_task_forks_exits_when_it_returns_from_the_task(stage: Stage, lane: str, how: str) -> None:
    worker = stage.worker("-c", "1")
    assert get(stage.send(lane, "forks", how)) == "from the child"
    results = [stage.send(lane, "returns", number) for number in range(20)]
    assert [get(result) for result in results] == list(range(20))
    assert {run.pid for run in stage.runs(*results)} <= {child.pid for child in worker.children()}


@both_lanes
def test_a_process_that_a_task_forks_exits_with_its_own_code(shared: Stage, lane: str) -> None:
    codes = {(): 0, (0,): 0, (None,): 0, (3,): 3, (-1,): 255, ("the reason",): 1}
    results = {code: shared.send(lane, "tells_exit_code_of_fork", code) for code in codes}
    assert {code: get(result) for code, result in results.items()} == codes


def test_a_process_that_a_task_starts_ends_at_sigterm(shared: Stage) -> None:
    assert get(shared.send("plain", "terminates_a_process")) == -signal.SIGTERM


@both_lanes
def test_programs_that_a_task_starts_do_not_inherit_the_sockets_of_its_child(shared: Stage, lane: str) -> None:
    assert get(shared.send(lane, "lists_inheritable")) == []


# --- Coroutines ---------------------------------------------------------------------------------------


def test_a_retiring_coroutine_child_sends_its_last_outcome_completely(stage: Stage) -> None:
    stage.worker("-c", "1", "--max-memory-per-child", "1000")
    for _ in range(3):
        large = stage.send("coroutine", "slowly_returns_much", 12_000_000)
        small = stage.send("coroutine", "returns", 1)
        assert get(small) == 1
        assert len(get(large)) == 12_000_000
        assert len(stage.runs(large)) == 1


def test_a_retiring_coroutine_child_waits_for_the_runs_that_it_has_permits_for(stage: Stage) -> None:
    stage.worker("-c", "1", "--max-memory-per-child", "1000", message_max_bytes=20_000_000)
    stage.app.conf.message_max_bytes = 20_000_000
    results = []
    for pause in range(0, 40, 4):
        short = stage.send("coroutine", "sleeps", 0.1)
        stage.started(short)
        time.sleep(pause / 1000)
        results += [short, stage.send("coroutine", "counts", "x" * 4_000_000)]
        get(results[-1])
    assert {run.deliveries for run in stage.runs(*results)} == {1}
    assert len(stage.runs(*results)) == len(results)


def test_a_retiring_coroutine_child_does_not_wait_for_threads(stage: Stage) -> None:
    worker = stage.worker("-c", "1", "--max-tasks-per-child", "1")
    results = [stage.send("coroutine", "leaves_a_thread", stage.path("never")) for _ in range(5)]
    for result in results:
        get(result)
    stage.wait(lambda: len(worker.children()) == 2, "the end of the children that were replaced")


@both_lanes
def test_a_replaced_child_that_hangs_at_its_end_is_killed(stage: Stage, lane: str) -> None:
    append(
        stage,
        """
from celeriac import signals
from celeriac.worker.pools import process_pool

process_pool.HANG_SECONDS = 0.5

@signals.worker_process_shutdown.connect
def hangs(**_):
    time.sleep(3600)
""",
    )
    worker = stage.worker("-c", "1", "--max-tasks-per-child", "1")
    for number in range(3):
        assert get(stage.send(lane, "returns", number)) == number
    stage.wait(lambda: len(worker.children()) == 2, "the end of the children that were replaced")
    assert "is killed: it has nothing left to run" in worker.text()


def test_a_state_reported_by_a_thread_of_a_coroutine_is_visible_at_once(shared: Stage) -> None:
    name = f"go{time.time()}"
    result = shared.send("coroutine", "tells_from_a_thread", shared.path(name))
    shared.wait(lambda: result.state == states.PROGRESS, "the state that the thread reported")
    shared.release(name)
    assert get(result) == "released"


@pytest.mark.parametrize("limit", ["soft_time_limit", "time_limit", None])
def test_interrupting_a_task_cancels_the_subtasks_of_its_task_groups(shared: Stage, limit: str | None) -> None:
    name = f"cancelled{time.time()}"
    result = shared.send("coroutine", "holds_a_group", shared.path(name), **({limit: 2.0} if limit else {}))
    shared.started(result)
    if limit is None:
        result.revoke(terminate=True)
    with pytest.raises((SoftTimeLimitExceeded, TimeLimitExceeded, TaskRevoked)):
        get(result)
    shared.wait(Path(shared.path(name)).exists, "the end of the subtask")


@pytest.mark.parametrize("how", ["swallows_termination", "blocks"])
def test_terminate_ends_a_coroutine_that_resists_and_no_other(stage: Stage, how: str) -> None:
    stage.worker("-c", "1")
    other = stage.send("coroutine", "holds", stage.path("go"))
    stage.started(other)
    result = stage.send("coroutine", how, stage.path("never"))
    stage.started(result)
    result.revoke(terminate=True)
    with pytest.raises(TaskRevoked):
        get(result)
    stage.release("go")
    assert get(other) == "released"
    assert len(stage.runs(result)) == 1


def test_more_coroutines_may_run_at_a_time_than_a_pipe_holds_permits(stage: Stage) -> None:
    stage.app.tasks["victim.coroutine"].delay_many([("sleeps", 0.5)] * 9000)
    stage.worker("-c", "1", worker_coroutine_concurrency=10_000)
    stage.wait(stage.is_empty, "the end of all")


async def test_a_coroutine_child_that_takes_its_permits_slowly_does_not_count_as_blocked() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    permits_read, permits_write = os.pipe()
    child = ChildHandle(asyncio.get_running_loop(), 0, COROUTINE, ours, permits_read, permits_write, 100)
    message = Message(id="1", task="task", lane=COROUTINE)
    child.run([Delivery(message, "token", 1) for _ in range(3)])
    now = time.monotonic()
    for later in range(2):
        os.read(permits_read, PERMIT.size)
        assert not child.check_blocked(now + later)
    assert child.check_blocked(now + 2)
    child.close()
    theirs.close()


async def test_a_coroutine_child_starts_a_run_without_a_look_at_all_that_wait(app: Celeriac) -> None:
    started: list[int] = []
    looks = 0

    class Permit(int):
        """Counts with how many runs it is compared."""

        def __lt__(self, other: int) -> bool:
            nonlocal looks
            looks += 1
            return int(self) < other

        def __ge__(self, other: int) -> bool:
            return not self < other

    async def run(self: CoroutineChild, run: Run) -> None:
        started.append(run.index)

    ours, theirs = socket.socketpair()
    child = CoroutineChild(app, "w", ours, -1, False)
    child._loop = asyncio.get_running_loop()
    message = Message(id="1", task="task", lane=COROUTINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CoroutineChild, "_run", run)
        child.data_received(frame(Runs([Run(index, 1, message) for index in range(1, 501)])))
        for index in range(1, 1001, 2):  # every second one was recalled
            child._permitted.append(Permit(index))
            child._start()
        child.data_received(frame(Runs([Run(index, 1, message) for index in range(501, 1001)])))
        await eventually(lambda: len(started) == 500, "the start of all")
    ours.close()
    theirs.close()
    assert started == list(range(1, 1001, 2))
    assert looks < 3000


# --- Starts -------------------------------------------------------------------------------------------


@both_lanes
def test_a_time_limit_does_not_include_the_start_of_the_child(stage: Stage, lane: str) -> None:
    append(
        stage,
        """
from celeriac import signals

@signals.worker_process_init.connect
def starts_slowly(**_):
    time.sleep(5)
""",
    )
    stage.worker("-c", "1")
    result = stage.send(lane, "returns", 1, time_limit=2.5)
    assert get(result) == 1
    assert [run.deliveries for run in stage.runs(result)] == [1]


# --- New releases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["processes", "threads", "solo"])
def test_a_message_to_a_coroutine_task_runs_after_the_task_has_become_a_plain_one(stage: Stage, pool: str) -> None:
    result = stage.send("coroutine", "returns", 1)
    (stage.folder / "victim.py").write_text("""
from celeriac import Celeriac

app = Celeriac("victim", task_queues=["default", "other"])

@app.task(name="victim.coroutine")
def coroutine(how, value):
    return "plain"
""")
    stage.worker("-c", "1", "--pool", pool)
    assert get(result) == "plain"
