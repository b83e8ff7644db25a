"""Every way in which a task can end, with a real worker, in both lanes; and how a worker starts, runs and stops.

Tests share one worker where they can. Some of them kill its children, which it replaces.
"""

from __future__ import annotations

import asyncio
import os
import queue
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, states
from celeriac.errors import (
    EncodeError,
    Reject,
    RemoteError,
    SoftTimeLimitExceeded,
    TaskExpired,
    TaskRevoked,
    TimeLimitExceeded,
    WaitInTask,
    WorkerLost,
)
from celeriac.inspector import TaskStats, WorkerStats
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pools.worker_thread import WorkerThread
from celeriac.worker.supervisor import Supervisor
from tests.patience import PATIENCE, in_time, wait_for
from tests.promises.harness import SHORT_LEASE, Stage, Worker, be_patient, get

LANES = ["plain", "coroutine"]
both_lanes = pytest.mark.parametrize("lane", LANES)


def stats(stage: Stage) -> WorkerStats:
    """Ask the only worker."""
    (found,) = asyncio.run(stage.inspector().stats()).values.values()
    return found


# --- Endings ------------------------------------------------------------------------------------------


@both_lanes
@pytest.mark.parametrize("value", [None, 1, "ü", [1, {"a": None}], {"b": b"\0"}, datetime(2026, 1, 1, tzinfo=UTC)])
def test_a_return_value_comes_back(shared: Stage, lane: str, value: Any) -> None:
    result = shared.send(lane, "returns", value)
    assert get(result) == value
    assert result.state == states.SUCCESS


@both_lanes
@pytest.mark.parametrize(
    ("how", "value", "kind", "words"),
    [
        ("raises", "no", ValueError, "no"),
        ("runs_out_of_memory", None, MemoryError, None),
        ("recurses", None, RecursionError, "recursion"),
        ("returns_object", None, EncodeError, "object"),
        ("returns_much", 17_000_000, EncodeError, "result_max_bytes"),
        ("rejects", None, Reject, "not for me"),
        ("raises_unspeakable", None, RemoteError, "Unspeakable"),
        ("raises_fatal", None, RemoteError, "Fatal"),
        ("tells_no_state", 123, TypeError, "state"),
        ("retries_nowhen", None, TypeError, "the delay of a Retry must be seconds"),
        ("raises_unpicklable", None, RemoteError, "locked"),
        ("raises_interrupt", None, RemoteError, "KeyboardInterrupt"),
        ("exits", 3, RemoteError, "SystemExit"),
        ("exits", 0, RemoteError, "SystemExit"),
    ],
)
def test_an_exception_comes_back_as_itself_or_as_a_remote_error_and_harms_no_child(
    shared: Stage, lane: str, how: str, value: Any, kind: type[Exception], words: str | None
) -> None:
    result = shared.send(lane, how, value)
    with pytest.raises(kind, match=words):
        get(result)
    assert result.state == states.FAILURE
    assert len(shared.runs(result)) == 1


@both_lanes
def test_an_exception_that_cannot_be_rebuilt_keeps_its_name_words_and_traceback(shared: Stage, lane: str) -> None:
    with pytest.raises(RemoteError, match=r"victim\.Unspeakable: ") as caught:
        get(shared.send(lane, "raises_unspeakable"))
    assert "raise Unspeakable" in caught.value.traceback


@both_lanes
def test_an_exception_with_a_constructor_of_its_own_comes_back_as_itself(shared: Stage, lane: str) -> None:
    with pytest.raises(shared.victim.Odd, match="1 is not 2"):
        get(shared.send(lane, "raises_odd"))


@both_lanes
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("kills_itself", "SIGKILL"),
        ("exits_at_once", "exited with status 7"),
        ("crashes", "SIGSEGV"),
        ("ends_untold", "exited with status 1"),
    ],
)
def test_the_death_of_the_process_of_a_task_is_worker_lost(shared: Stage, lane: str, how: str, words: str) -> None:
    result = shared.send(lane, how, 7, acks_late=False)
    with pytest.raises(WorkerLost, match=words):
        get(result)
    assert len(shared.runs(result)) == 1


@both_lanes
@pytest.mark.parametrize("what", ["text", "frame"])
def test_a_child_that_sends_an_invalid_frame_is_killed_and_its_task_lost(shared: Stage, lane: str, what: str) -> None:
    result = shared.send(lane, "garbles", what, acks_late=False)
    with pytest.raises(WorkerLost, match="sent an invalid frame"):
        get(result)
    assert get(shared.send(lane, "returns", 1)) == 1


@both_lanes
def test_a_task_that_raises_ignore_ends_as_ignored(shared: Stage, lane: str) -> None:
    result = shared.send(lane, "ignores")
    shared.wait(result.ready)
    assert result.state == states.IGNORED


# --- Time limits --------------------------------------------------------------------------------------


@both_lanes
def test_at_the_soft_time_limit_a_task_can_clean_up(shared: Stage, lane: str) -> None:
    assert get(shared.send(lane, "cleans_up", shared.path("never"), soft_time_limit=0.2)) == "cleaned up"


@both_lanes
def test_the_soft_time_limit_holds_in_a_child_that_starts_the_task_late(stage: Stage, lane: str) -> None:
    worker = stage.worker("-c", "1")
    get(stage.send(lane, "returns", 1))
    for child in worker.children():
        child.suspend()
    result = stage.send(lane, "cleans_up", stage.path("never"), soft_time_limit=0.2)
    stage.wait(lambda: asyncio.run(stage.inspector().active()).values["worker1"], "the run being sent to the child")
    time.sleep(0.4)  # lets the limit pass, as the supervisor sees it
    for child in worker.children():
        child.resume()
    assert get(result) == "cleaned up"


@both_lanes
def test_the_soft_time_limit_holds_though_the_clock_is_set_back(stage: Stage, lane: str) -> None:
    with (stage.folder / "victim.py").open("a") as module:
        module.write("""
def with_the_clock_set_back(call):
    def called(task, value, now=time.time):
        time.time = lambda: now() - 3600
        return call(task, value)
    return called

WAYS["cleans_up_later"] = with_the_clock_set_back(cleans_up)
WAYS["acleans_up_later"] = with_the_clock_set_back(acleans_up)
""")
    stage.worker("-c", "1")
    result = stage.send(lane, "cleans_up_later", stage.path("never"), soft_time_limit=0.2, time_limit=PATIENCE / 4)
    assert get(result) == "cleaned up"


@both_lanes
def test_the_soft_time_limit_ends_a_task_that_does_not_catch_it(shared: Stage, lane: str) -> None:
    result = shared.send(lane, "holds", shared.path("never"), soft_time_limit=0.2)
    with pytest.raises(SoftTimeLimitExceeded, match=r"0\.2 s"):
        get(result)
    assert result.outcome.runtime > 0.15
    assert in_time(result.outcome.runtime, 5)


@both_lanes
@pytest.mark.parametrize("how", ["holds", "is_stubborn", "blocks", "swallows_limits"])
def test_the_hard_time_limit_ends_a_task_whatever_it_does(shared: Stage, lane: str, how: str) -> None:
    result = shared.send(lane, how, shared.path("never"), soft_time_limit=0.4, time_limit=1.0)
    limits = TimeLimitExceeded if how == "is_stubborn" else (TimeLimitExceeded, SoftTimeLimitExceeded)
    with pytest.raises(limits):
        get(result)
    assert result.state == states.FAILURE
    assert len(shared.runs(result)) == 1


def test_a_coroutine_that_blocks_past_its_limit_costs_the_others_no_delivery(shared: Stage) -> None:
    name = f"go{time.time()}"
    other = shared.send("coroutine", "holds", shared.path(name))
    shared.started(other)
    result = shared.send("coroutine", "blocks", shared.path("never"), time_limit=0.3)
    with pytest.raises(TimeLimitExceeded):
        get(result)
    assert shared.started(other, times=2).deliveries == 1  # it was not at fault
    shared.release(name)
    assert get(other) == "released"


def test_coroutines_that_share_a_loop_with_an_uncaught_exit_run_again(shared: Stage) -> None:
    name = f"go{time.time()}"
    other = shared.send("coroutine", "holds", shared.path(name))
    shared.started(other)
    result = shared.send("coroutine", "exits_behind", acks_late=False)
    with pytest.raises(WorkerLost, match="exited with status"):
        get(result)
    shared.started(other, times=2)
    shared.release(name)
    assert get(other) == "released"


# --- Retries ------------------------------------------------------------------------------------------


@both_lanes
def test_a_retry_is_another_attempt_of_the_same_task(shared: Stage, lane: str) -> None:
    result = shared.send(lane, "retries_at_once", 3)
    assert get(result) == 3
    assert [(run.attempt, run.deliveries) for run in shared.runs(result)] == [(1, 1), (2, 1), (3, 1)]


@both_lanes
def test_after_the_last_retry_the_original_exception_is_raised(shared: Stage, lane: str) -> None:
    result = shared.send(lane, "raises_temporary")
    with pytest.raises(shared.victim.Temporary, match="every time"):
        get(result)
    runs = shared.runs(result)
    assert [run.attempt for run in runs] == [1, 2, 3, 4]
    pauses = [later.at - sooner.at for sooner, later in pairwise(runs)]
    assert [pause >= bound for pause, bound in zip(pauses, (0.05, 0.1, 0.2), strict=True)] == [True] * 3


@both_lanes
def test_while_a_retry_waits_its_state_and_reason_can_be_seen(shared: Stage, lane: str) -> None:
    result = shared.send(lane, "retries_later", 3600)
    shared.wait(lambda: result.state == states.RETRY)
    assert str(result.info) == "later"
    view = asyncio.run(shared.inspector().find([result.id]))[result.id]
    assert view.place == "scheduled"
    assert view.message.attempt == 2
    result.revoke()
    with pytest.raises(TaskRevoked):
        get(result)


# --- Before the start ---------------------------------------------------------------------------------


@both_lanes
def test_a_task_that_has_expired_is_not_run(stage: Stage, lane: str) -> None:
    result = stage.send(lane, "returns", expires=0.01)
    later = stage.send(lane, "returns", 1, expires=datetime.now(UTC) + timedelta(hours=1))
    stage.worker("-c", "1")
    with pytest.raises(TaskExpired):
        get(result)
    assert get(later) == 1
    assert stage.runs(result) == []


@both_lanes
def test_a_revoked_task_is_not_run_by_a_worker_that_starts_later(stage: Stage, lane: str) -> None:
    result, delayed = stage.send(lane, "returns"), stage.send(lane, "returns", countdown=3600)
    result.revoke()
    delayed.revoke()
    stage.worker("-c", "1")
    for revoked in (result, delayed):
        with pytest.raises(TaskRevoked):
            get(revoked)
        assert revoked.state == states.REVOKED
    assert stage.runs(result, delayed) == []


def test_a_task_revoked_while_it_waits_is_not_run(stage: Stage) -> None:
    stage.worker("-c", "1")
    first = stage.send("plain", "holds", stage.path("go"))
    stage.started(first)
    waiting = stage.send("plain", "returns")
    waiting.revoke()
    stage.release("go")
    assert get(first) == "released"
    with pytest.raises(TaskRevoked):
        get(waiting)
    assert stage.runs(waiting) == []


@both_lanes
def test_terminate_ends_one_task_and_no_other(shared: Stage, lane: str) -> None:
    name = f"go{time.time()}"
    terminated, other = (shared.send(lane, "holds", shared.path(name)) for _ in range(2))
    shared.started(terminated, other)
    terminated.revoke(terminate=True)
    with pytest.raises(TaskRevoked):
        get(terminated)
    shared.release(name)
    assert get(other) == "released"
    assert len(shared.runs(terminated)) == 1


def test_higher_priorities_start_first_and_equals_in_the_order_of_sending(stage: Stage) -> None:
    results = [stage.send("plain", "returns", priority=priority) for priority in (1, 9, 5, 9, 0, 5)]
    stage.worker("-c", "1")
    stage.started(*results)
    order = [run.id for run in stage.runs(*results)]
    assert order == [results[place].id for place in (1, 3, 2, 5, 0, 4)]


def test_a_rate_limit_is_kept_and_delays_no_other_task(stage: Stage) -> None:
    stage.worker("-c", "1")
    begun = time.time()
    limited = stage.victim.limited.delay_many([(number,) for number in range(11)])
    others = stage.victim.quick.delay_many([(number,) for number in range(200)])
    for result in limited:
        get(result)
    starts = sorted(run.at for run in stage.runs(*limited))
    assert starts[-1] - begun > 1.8  # ten intervals of 0.2 s
    assert in_time(starts[-1] - starts[0], 6)
    assert sum(run.at < starts[-1] for run in stage.runs(*others)) > 100
    assert len(stage.runs(*limited)) == 11
    assert {run.deliveries for run in stage.runs(*limited)} == {1}


def test_a_rate_limit_can_be_set_while_the_worker_runs(stage: Stage) -> None:
    stage.worker("-c", "1")
    asyncio.run(stage.inspector().rate_limit("victim.quick", "5/s"))
    results = stage.victim.quick.delay_many([(number,) for number in range(6)])
    for result in results:
        get(result)
    starts = sorted(run.at for run in stage.runs(*results))
    assert starts[-1] - starts[0] > 0.8


@pytest.mark.parametrize(("lasts", "name"), [(3600, "not_yet"), (2, "plan")])
def test_an_unknown_task_goes_back_to_its_queue_and_ends_as_a_dead_letter(
    stage: Stage, lasts: float, name: str
) -> None:
    worker = stage.worker("-c", "1", worker_unknown_task_seconds=lasts)
    result = stage.app.send_task(f"victim.{name}", (1,))
    stage.wait(lambda: "is registered here" in worker.text(), "the warning that the task is unknown")
    if lasts == 2:
        with pytest.raises(Exception, match=r"No task named 'victim\.plan'.* Did you mean 'victim\.plain'\?"):
            get(result)
        (dead,) = asyncio.run(stage.inspector().dead())
        assert dead.message.id == result.id
        return
    assert result.state == states.PENDING
    # The warning comes before the message is returned: until then it is reserved, not scheduled.
    stage.wait(lambda: asyncio.run(stage.inspector().scheduled()), "the message back in its queue")
    (waiting,) = asyncio.run(stage.inspector().scheduled())
    assert waiting.id == result.id
    with (stage.folder / "victim.py").open("a") as module:  # deploy a new version
        module.write("\n\n@app.task\nasync def not_yet(number):\n    return number\n")
    stage.worker("-c", "1")
    assert worker.stop() == 0
    assert get(result) == 1
    assert asyncio.run(stage.inspector().dead()) == []


# --- Follow-ups, states, results ----------------------------------------------------------------------


@both_lanes
def test_a_link_gets_the_result_and_a_link_error_gets_the_id_of_the_failed_task(shared: Stage, lane: str) -> None:
    returns = shared.app.tasks[f"victim.{lane}"]
    link, unused = returns.s("returns"), returns.si("returns", 0)
    task = shared.send(lane, "returns", "returns", link=shared.victim.coroutine.s("linked"), link_error=unused)
    assert get(task) == "returns"
    shared.wait(lambda: any(view.parent_id == task.id for view in asyncio.run(shared.inspector().recent(50))))
    failing = shared.send(lane, "raises", "no", link=unused, link_error=link)
    with pytest.raises(ValueError, match="no"):
        get(failing)

    def followed() -> list[Any]:
        found = asyncio.run(shared.inspector().recent(50))
        return [outcome for outcome in found if outcome.parent_id == failing.id]

    (followed_up,) = shared.wait(followed)
    assert followed_up.task == link.task


@both_lanes
@pytest.mark.parametrize("how", ["retries_at_once", "tells_progress"])
def test_with_ignore_result_no_earlier_state_is_kept_either(shared: Stage, lane: str, how: str) -> None:
    shared.release("gone")
    value = 2 if how == "retries_at_once" else shared.path("gone")
    result = shared.send(lane, how, value, ignore_result=True)
    shared.wait(lambda: not result.exists(), "the removal of the task's state")
    assert len(shared.runs(result)) == (2 if how == "retries_at_once" else 1)
    assert result.state == states.PENDING


@both_lanes
def test_progress_can_be_seen_while_the_task_runs(shared: Stage, lane: str) -> None:
    name = f"go{time.time()}"
    result = shared.send(lane, "tells_progress", shared.path(name))
    shared.wait(lambda: result.state == states.PROGRESS)
    assert result.info == {"done": 1, "total": 2, "phase": "half"}
    shared.release(name)
    assert get(result) == "released"


@both_lanes
def test_blocking_for_a_result_inside_a_task_raises_at_once_and_blocks_no_lane(shared: Stage, lane: str) -> None:
    held = shared.send("plain", "holds", shared.path(f"{lane} go"))
    with pytest.raises(WaitInTask):
        get(shared.send(lane, "waits_for_another", held.id))
    assert get(shared.send(lane, "returns", 1)) == 1
    shared.release(f"{lane} go")
    assert get(held) == "released"


def test_a_task_that_awaits_a_rejected_or_revoked_one_fails_and_is_not_rejected_itself(shared: Stage) -> None:
    rejected, revoked = shared.send("plain", "rejects"), shared.send("plain", "returns", countdown=3600)
    revoked.revoke()
    for other, kind in ((rejected, Reject), (revoked, TaskRevoked)):
        result = shared.send("coroutine", "awaits_another", other.id)
        with pytest.raises(kind):
            get(result)
        assert result.state == states.FAILURE
        assert result.id not in {dead.message.id for dead in asyncio.run(shared.inspector().dead())}


def test_coroutine_tasks_may_all_wait_for_results_of_each_other(shared: Stage) -> None:
    name = f"go{time.time()}"
    last = shared.send("coroutine", "holds", shared.path(name))
    chain = [last]
    for _ in range(20):
        chain.append(shared.send("coroutine", "awaits_another", chain[-1].id))
    shared.started(*chain)
    shared.release(name)
    assert get(chain[-1]) == "released"


def test_statistics_count_states_and_runtimes_by_task(stage: Stage) -> None:
    stage.worker("-c", "1")
    results = [stage.send("plain", "sleeps", 0.25) for _ in range(10)] + [stage.send("plain", "raises", "no")]
    results += [stage.send("coroutine", "retries_at_once", 2)]
    for result in results:
        result.get(timeout=PATIENCE, propagate=False)

    def counted() -> dict[str, TaskStats]:
        tasks = stats(stage).tasks
        return tasks if sum(one.count for one in tasks.values()) == 13 else {}

    tasks = stage.wait(counted, "the worker has counted them all")  # which it does after it has stored the results
    plain = tasks["victim.plain"]
    assert (plain.count, plain.states) == (11, {"SUCCESS": 10, "FAILURE": 1})
    assert tasks["victim.coroutine"].states == {"RETRY": 1, "SUCCESS": 1}
    assert plain.min is not None
    assert plain.min < 0.2 <= plain.p50 <= plain.p95 <= plain.p99 <= plain.max
    assert plain.min <= plain.mean <= plain.max


# --- Children -----------------------------------------------------------------------------------------


@both_lanes
def test_a_child_is_replaced_after_max_tasks_per_child_and_nothing_is_lost(stage: Stage, lane: str) -> None:
    worker = stage.worker("-c", "1", "--max-tasks-per-child", "10")
    results = [stage.send(lane, "returns", number) for number in range(100)]
    assert [get(result) for result in results] == list(range(100))
    runs = stage.runs(*results)
    assert len(runs) == 100
    counts = [sum(run.pid == pid for run in runs) for pid in {run.pid for run in runs}]
    assert max(counts) == 10
    assert len(counts) == 10
    assert worker.stop() == 0


def test_a_child_is_replaced_when_its_memory_exceeds_the_limit(stage: Stage) -> None:
    stage.worker("-c", "1", "--max-memory-per-child", str(150 * 1024))
    small = [stage.send("plain", "eats_memory", 1) for _ in range(5)]
    for result in small:
        get(result)
    assert len({run.pid for run in stage.runs(*small)}) == 1
    big = stage.send("plain", "eats_memory", 200)
    after = [stage.send("plain", "returns", number) for number in range(20)]
    assert get(big) == 200 << 20
    assert [get(result) for result in after] == list(range(20))
    (pid,) = {run.pid for run in stage.runs(*small)}
    assert stage.runs(big)[0].pid == pid
    assert pid not in {run.pid for run in stage.runs(*after)}
    assert len(stage.runs(big, *after)) == 21


def test_the_pool_grows_and_shrinks(stage: Stage) -> None:
    stage.worker("-c", "1")
    asyncio.run(stage.inspector().pool_grow(2))
    holding = [stage.send("plain", "holds", stage.path("go")) for _ in range(3)]
    stage.started(*holding)
    asyncio.run(stage.inspector().pool_shrink(2))
    stage.release("go")
    assert [get(result) for result in holding] == ["released"] * 3

    def plain_children() -> int:
        return sum(child.lane == "plain" for child in stats(stage).pool.children)

    stage.wait(lambda: plain_children() == 1, "one plain child")


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_the_other_pools_run_both_lanes_and_end_tasks_the_same_way(stage: Stage, pool: str) -> None:
    worker = stage.worker("-c", "2", "--pool", pool)
    for lane in LANES:
        assert get(stage.send(lane, "returns", 1)) == 1
        assert get(stage.send(lane, "retries_at_once", 2)) == 2
        assert get(stage.send(lane, "cleans_up", stage.path("never"), soft_time_limit=0.2)) == "cleaned up"
        for how, kind in (
            ("raises", ValueError),
            ("exits", RemoteError),
            ("runs_out_of_memory", MemoryError),
            ("raises_fatal", RemoteError),
            ("retries_nowhen", TypeError),
        ):
            with pytest.raises(kind):
                get(stage.send(lane, how, "no"))
        with pytest.raises(TimeLimitExceeded):
            get(stage.send(lane, "is_stubborn", stage.path("never"), soft_time_limit=0.1, time_limit=0.3))
        running = stage.send(lane, "holds", stage.path("never"))
        stage.started(running)
        running.revoke(terminate=True)
        with pytest.raises(TaskRevoked):
            get(running)
        assert get(stage.send(lane, "returns", 2)) == 2
    with pytest.raises(WorkerLost, match="its event loop failed"):
        get(stage.send("coroutine", "exits_behind", acks_late=False))
    assert get(stage.send("coroutine", "returns", 3)) == 3
    assert {run.pid for run in stage.journal()} == {worker.pid}
    assert worker.stop() == 0


def test_an_exception_raised_in_a_worker_thread_too_late_costs_it_no_job() -> None:
    worker_thread = WorkerThread()
    done: queue.SimpleQueue[int] = queue.SimpleQueue()

    def job() -> None:
        if worker_thread.start_job():
            done.put(1)

    running = threading.Thread(target=worker_thread.run, daemon=True)
    running.start()
    for _ in range(20):
        worker_thread.put(job)
        assert done.get(timeout=PATIENCE) == 1
        wait_for(lambda: sys._current_frames()[worker_thread.thread_id].f_code.co_name == "_run_jobs")
        worker_thread.raise_inside(SoftTimeLimitExceeded)  # the thread waits, so the exception comes with its next job
    worker_thread.stop()
    running.join(PATIENCE)
    assert worker_thread.stopped.is_set()


def test_a_job_of_a_worker_thread_can_be_traced_as_a_debugger_does() -> None:
    worker_thread = WorkerThread()
    done: queue.SimpleQueue[int] = queue.SimpleQueue()

    def traced() -> int:
        return 1

    def job() -> None:
        if worker_thread.start_job():
            sys.settrace(lambda frame, event, argument: None)
            value = traced()
            sys.settrace(None)
            done.put(value)

    running = threading.Thread(target=worker_thread.run, daemon=True)
    running.start()
    for _ in range(2):
        worker_thread.put(job)
        assert done.get(timeout=PATIENCE) == 1
        wait_for(lambda: sys._current_frames()[worker_thread.thread_id].f_code.co_name == "_run_jobs")
        worker_thread.raise_inside(SoftTimeLimitExceeded)  # too late: it must not stay pending
    worker_thread.stop()
    running.join(PATIENCE)
    assert worker_thread.stopped.is_set()


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_the_other_pools_stop_within_the_grace_time_and_give_back_what_runs(stage: Stage, pool: str) -> None:
    worker = stage.worker("--pool", pool, "--grace", str(2 + be_patient(stage)))
    results = [stage.send(lane, "holds", stage.path("go")) for lane in LANES]
    stage.started(*results)
    begun = time.monotonic()
    assert worker.stop() == 0
    assert in_time(time.monotonic() - begun, 3)
    assert stage.counts().active == 0
    stage.release("go")
    stage.worker("-c", "1")
    assert [get(result) for result in results] == ["released"] * 2
    assert {run.deliveries for run in stage.runs(*results)} == {1}


@pytest.mark.parametrize("pool", ["threads", "solo"])
@pytest.mark.parametrize("how", ["never_ends", "blocks"])
def test_the_other_pools_give_up_a_coroutine_that_goes_on_past_its_hard_limit(
    stage: Stage, how: str, pool: str
) -> None:
    worker = stage.worker("--pool", pool)
    other = stage.send("coroutine", "holds", stage.path("go"))
    stage.started(other)
    result = stage.send("coroutine", how, stage.path("never"), time_limit=0.2)
    with pytest.raises(TimeLimitExceeded):
        get(result)
    assert stage.started(other, times=2 if how == "blocks" else 1).deliveries == 1  # it was not at fault
    stage.release("go")
    assert get(other) == "released"
    assert get(stage.send("coroutine", "returns", 1)) == 1
    assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["threads", "solo"])
@pytest.mark.parametrize("lane", LANES)
def test_the_other_pools_exit_though_tasks_have_left_threads(stage: Stage, pool: str, lane: str) -> None:
    worker = stage.worker("--pool", pool)
    get(stage.send(lane, "leaves_threads"))
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert "has failed" not in worker.text()


def test_a_busy_thread_pool_shrinks_as_its_threads_become_free(stage: Stage) -> None:
    stage.worker("-c", "3", "--pool", "threads")
    results = [stage.send("plain", "holds", stage.path("go")) for _ in range(3)]
    stage.started(*results)
    asyncio.run(stage.inspector().pool_shrink(2))
    stage.release("go")
    assert [get(result) for result in results] == ["released"] * 3
    stage.wait(lambda: sum(child.lane == "plain" for child in stats(stage).pool.children) == 1, "one thread")


def test_a_worker_whose_fork_server_is_suspended_still_stops(stage: Stage) -> None:
    worker = stage.worker("-c", "1", "--grace", "1")
    result = stage.send("plain", "holds", stage.path("go"))
    stage.started(result)
    forkserver = worker.forkserver()
    forkserver.suspend()
    try:
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    finally:
        forkserver.kill()
    assert stage.counts().active == 0
    stage.release("go")
    stage.worker("-c", "1")
    assert get(result) == "released"


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_worker_whose_output_nobody_reads_goes_on(stage: Stage, kind: str) -> None:
    ours, theirs = map(socket.socket.detach, socket.socketpair()) if kind == "socket" else os.pipe()
    command = [sys.executable, "-m", "celeriac", "-A", "victim", "worker", "-c", "2", "--grace", "1", "-l", "info"]
    process = subprocess.Popen(command, cwd=stage.folder, stdout=theirs, stderr=theirs)
    os.close(theirs)
    read = bytearray()

    def read_all() -> None:
        while some := os.read(ours, 1 << 16):
            read.extend(some)

    reader = threading.Thread(target=read_all)
    try:
        printing = stage.send("plain", "prints", 2_000_000)
        stage.started(printing)
        others = stage.app.tasks["victim.plain"].delay_many([("returns", 1)] * 400)
        stage.wait(lambda: all(result.ready() for result in others), "tasks that are logged while nobody reads")
        with pytest.raises(TimeLimitExceeded):
            get(stage.send("plain", "holds", stage.path("never"), time_limit=0.1))
        assert not printing.ready()
        reader.start()
        assert get(printing) is None

        def said_so() -> bool:
            get(stage.send("plain", "returns", 1))
            return b"log lines were dropped" in read

        stage.wait(said_so, "the note that log lines were dropped")
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        if reader.is_alive():
            reader.join()
        os.close(ours)


def test_a_worker_without_stdout_and_stderr_works(stage: Stage) -> None:
    command = f"exec {sys.executable} -m celeriac -A victim worker -c 1 >&- 2>&- <&-"
    process = subprocess.Popen(["/bin/sh", "-c", command], cwd=stage.folder)
    try:
        assert get(stage.send("plain", "returns", 1)) == 1
    finally:
        process.terminate()
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("how", ["never_ends", "computes"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_solo_worker_stops_whatever_its_main_thread_does(stage: Stage, how: str, number: int) -> None:
    worker = stage.worker("--pool", "solo", "--grace", str(1.5 + be_patient(stage)))
    result = stage.send("plain", how, stage.path("never"), time_limit=0.2)
    stage.started(result)
    stage.wait(result.ready)
    with pytest.raises(TimeLimitExceeded):
        get(result)
    running = stage.send("plain", "returns", 1)
    worker.signal(number)
    assert worker.wait() == 0
    assert stage.journal("end") == []
    assert stage.counts().active == 0
    stage.worker("-c", "1")
    assert get(running) == 1


def test_a_solo_worker_stops_at_a_signal_that_comes_while_it_starts(stage: Stage) -> None:
    for _ in range(5):
        worker = stage.worker("--pool", "solo", ready=False)
        while not _catches(worker.pid, signal.SIGTERM):
            assert worker.process.poll() is None
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


def _catches(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal."""
    (caught,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(caught, 16) >> number - 1 & 1)


@pytest.mark.parametrize("pool", ["processes", "threads", "solo"])
def test_sighup_stops_a_worker_as_sigterm_does(stage: Stage, pool: str) -> None:
    worker = stage.worker("--pool", pool, "--grace", str(1.2 + be_patient(stage)))
    result = stage.send("plain", "holds", stage.path("never"))
    stage.started(result)
    worker.signal(signal.SIGHUP)
    assert worker.wait() == 0
    assert "Shutting down after SIGHUP" in worker.text()
    assert stage.counts().active == 0


@pytest.mark.parametrize("pool", ["processes", "threads", "solo"])
def test_sigusr1_shows_what_a_worker_does_and_does_not_end_it(stage: Stage, pool: str) -> None:
    worker = stage.worker("--pool", pool)
    worker.signal(signal.SIGUSR1)
    stage.wait(lambda: "most recent call first" in worker.text() or worker.process.poll() is not None, "the stacks")
    assert worker.process.poll() is None
    assert get(stage.send("plain", "returns", 1)) == 1
    assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["processes", "threads", "solo"])
def test_a_worker_under_nohup_does_not_stop_at_sighup(stage: Stage, pool: str) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the worker inherits that
    try:
        worker = stage.worker("--pool", pool)
    finally:
        signal.signal(signal.SIGHUP, before)
    worker.signal(signal.SIGHUP)
    assert get(stage.send("plain", "returns", 1)) == 1
    assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_the_other_pools_go_on_after_a_lost_lease(stage: Stage, pool: str) -> None:
    frozen = stage.worker("--pool", pool, name="frozen", worker_lease_seconds=SHORT_LEASE)
    results = [stage.send(lane, "holds", stage.path("go")) for lane in LANES]
    stage.started(*results)
    frozen.signal_all(signal.SIGSTOP)
    other: Worker = stage.worker("-c", "1", name="other")
    assert stage.started(*results, times=2).worker == "other"
    frozen.signal_all(signal.SIGCONT)
    stage.wait(lambda: "The lease is gone" in frozen.text(), "the loss of the lease")
    stage.release("go")
    assert [get(result) for result in results] == ["released"] * 2
    assert {result.outcome.worker for result in results} == {"other"}
    assert other.stop() == 0
    later = [stage.send(lane, "returns", 5) for lane in LANES]
    assert [get(result) for result in later] == [5, 5]


# --- Starting without a broker -----------------------------------------------------------------------


def test_a_worker_that_waits_for_its_broker_still_ends_at_sigterm(stage: Stage) -> None:
    with stage.away("locked"):
        worker = stage.worker(ready=False, broker_publish_timeout=0.2)
        stage.wait(lambda: "cannot take a lease" in worker.text(), "the wait for the broker")
        assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["processes", "threads", "solo"])
def test_a_worker_whose_database_cannot_be_opened_logs_that_and_exits(stage: Stage, pool: str) -> None:
    worker = stage.worker("--pool", pool, ready=False, broker_url=f"sqlite:///{stage.path('nowhere')}/celeriac.db")
    assert worker.wait() == 1
    assert "folder exists" in worker.text()
    assert "Traceback" not in worker.text()


@pytest.mark.parametrize("pool", ["processes", "threads", "solo"])
def test_a_worker_that_cannot_serve_its_metrics_says_so_and_exits(stage: Stage, pool: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        worker = stage.worker("--pool", pool, "--metrics", f"127.0.0.1:{taken.getsockname()[1]}", ready=False)
        assert worker.wait() == 2
    assert "Choose another port" in worker.text()
    assert "Traceback" not in worker.text()


@pytest.mark.parametrize("pool", ["processes", "threads", "solo"])
def test_a_worker_exits_though_a_thread_of_its_event_loop_still_waits_for_a_server(stage: Stage, pool: str) -> None:
    with (stage.folder / "victim.py").open("a") as module:
        module.write("""
import sys
from celeriac import signals

@signals.worker_ready.connect
def wait_for_a_server(**_):
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)

@signals.worker_shutdown.connect
def say_goodbye(**_):
    sys.stdout.write("the last words")
""")
    worker = stage.worker("--pool", pool)
    assert worker.stop() == 0
    assert "the last words" in worker.text()


# --- A damaged database ---------------------------------------------------------------------------------


def test_a_worker_and_its_callers_go_on_when_the_database_is_deleted(stage: Stage) -> None:
    worker = stage.worker()
    assert get(stage.send("plain", "returns", 1)) == 1
    for file in stage.folder.glob("celeriac.db*"):
        file.unlink()
    assert [get(stage.send(lane, "returns", 2)) for lane in LANES] == [2, 2]
    assert "was replaced while it was in use" in worker.text() or "was deleted while it was in use" in worker.text()
    assert worker.stop() == 0


def test_an_unreadable_message_stops_no_worker(stage: Stage) -> None:
    stage.send("plain", "returns", 1)
    connection = sqlite3.connect(stage.folder / "celeriac.db")
    assert connection.execute("UPDATE ready SET message = x'ff'").rowcount == 1
    connection.commit()
    connection.close()
    worker = stage.worker()
    assert get(stage.send("plain", "returns", 2)) == 2
    assert stage.counts().dead == 1
    assert worker.stop() == 0


async def test_a_worker_that_cannot_listen_yet_stops_when_asked_to(
    make_app: Callable[..., Celeriac], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    supervisor = Supervisor(app, WorkerOptions.of(app, pool="threads"))
    trying = asyncio.Event()

    async def unanswered(channel: str) -> AsyncIterator[bytes]:
        trying.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(app.broker, "listen", unanswered)
    running = asyncio.ensure_future(supervisor.run())
    async with asyncio.timeout(PATIENCE):
        await trying.wait()
        supervisor.ask_to_stop("a test")
        assert await running == 0
