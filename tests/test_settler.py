"""The settler beside a server that is slow: it finds out how much the server can do within the time-out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac import Celeriac, states
from celeriac.errors import BackendUnavailable, BrokerUnavailable, CeleriacError, WorkerLost
from celeriac.model.message import PLAIN, Message, new_id
from celeriac.model.outcome import Outcome
from celeriac.ports.operations import WorkerInfo
from celeriac.testing import running_worker
from celeriac.worker import settler
from celeriac.worker.attempt_log import AttemptLog
from celeriac.worker.counters import Counters
from celeriac.worker.decide import Ending
from celeriac.worker.options import WorkerOptions
from celeriac.worker.outages import Outages
from celeriac.worker.settlement_writer import SettlementWriter
from celeriac.worker.supervisor import Supervisor
from tests.clock import FakeClock
from tests.patience import FOR_EVER, PATIENCE, wait_for

CAN = 20  # endings that the server settles, or states that it stores, within the time-out
MANY = 1_000


def outcome(id: str, state: str) -> Outcome:
    return Outcome(id=id, task="t", state=state)


def held(app: Celeriac) -> tuple[int, int]:
    """Return how many messages wait, and how many workers hold."""
    counts = app.broker.complete(app.broker.operations().queues())
    return sum(queue.ready for queue in counts), sum(queue.active for queue in counts)


@contextmanager
def failing_worker(app: Celeriac) -> Iterator[Supervisor]:
    """Run a worker that cannot settle by the end of its grace time."""
    with ExitStack() as stack:
        worker = stack.enter_context(running_worker(app, grace_seconds=0))
        yield worker
        with pytest.raises(CeleriacError, match="test worker failed"):
            stack.close()


async def test_what_a_server_cannot_do_at_once_is_done_in_parts(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settler, "FIRST_PAUSE", 0.0)
    sizes: list[int] = []
    write, store = SettlementWriter.write, app.backend.store

    def count(number: int) -> None:
        sizes.append(number)
        if number > CAN:
            raise BackendUnavailable("The server did not answer within the time-out.")

    async def slow_write(self: Any, lease: Any, settlements: Any, now: float) -> list[bool]:
        count(len(settlements))
        return await write(self, lease, settlements, now)

    async def slow_store(outcomes: Any) -> list[bool]:
        count(len(outcomes))
        return await store(outcomes)

    monkeypatch.setattr(SettlementWriter, "write", slow_write)
    monkeypatch.setattr(app.backend, "store", slow_store)
    app.broker.publish([Message(id=new_id(), task="t") for _ in range(MANY)])
    lease = await app.broker.lease(WorkerInfo(name="w"), 60.0, 3)
    deliveries = await lease.receive(["default"], {PLAIN: MANY}, PATIENCE)
    heartbeat: Any = SimpleNamespace(lease=lease, outages=Outages(joined=True), counters=Counters())
    made = settler.Settler(app, WorkerOptions(name="w"), heartbeat)
    for _ in range(MANY):
        made.reported(outcome(new_id(), states.STARTED))
    made.ended([Ending(delivery=one, outcome=outcome(one.message.id, states.SUCCESS)) for one in deliveries])
    work = asyncio.create_task(made.run(lambda: None))
    async with asyncio.timeout(PATIENCE):
        await made.finished()
    work.cancel()
    ids = [one.message.id for one in deliveries]
    assert {found.state for found in app.backend.fetch(ids).values()} == {"SUCCESS"}
    assert len(app.backend.fetch(ids)) == MANY
    assert sum(size > CAN for size in sizes) < len(sizes) / 2


async def test_of_the_states_of_a_task_that_cannot_be_stored_yet_only_the_latest_is_kept(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "FIRST_PAUSE", 0.0)
    tries: list[list[tuple[str, bytes | None]]] = []
    heartbeat: Any = SimpleNamespace(lease=None, outages=Outages(joined=True), counters=Counters())
    made = settler.Settler(app, WorkerOptions(name="w"), heartbeat)

    def report(*values: bytes) -> None:
        for value in values:
            for id in ("a", "b"):
                made.reported(Outcome(id=id, task="t", state=states.PROGRESS, value=value))

    async def store(outcomes: Any) -> list[bool]:
        tries.append([(one.id, one.value) for one in outcomes])
        if len(tries) == 1:
            report(b"3")  # while the older one is being stored
            made.reported(Outcome(id="c", task="t", state=states.STARTED))
            raise BackendUnavailable("It is away.")
        return [True] * len(outcomes)

    monkeypatch.setattr(app.backend, "store", store)
    report(b"1", b"2")
    work = asyncio.create_task(made.run(lambda: None))
    async with asyncio.timeout(PATIENCE):
        await made.finished()
    work.cancel()
    assert tries[0] == [("a", b"2"), ("b", b"2")]
    assert [one for tried in tries[1:] for one in tried] == [("a", b"3"), ("b", b"3"), ("c", None)]


def test_a_worker_that_cannot_settle_starts_no_more_tasks_than_it_can_keep(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "MOST_WAITING", CAN)
    away = threading.Event()
    away.set()
    write, ran = SettlementWriter.write, list[int]()

    async def broken_write(self: Any, lease: Any, settlements: Any, now: float) -> list[bool]:
        if away.is_set():
            raise BackendUnavailable("It is away.")
        return await write(self, lease, settlements, now)

    @app.task(name="count")
    def count(number: int) -> None:
        ran.append(number)

    monkeypatch.setattr(SettlementWriter, "write", broken_write)
    results = count.delay_many([(number,) for number in range(MANY)])
    with running_worker(app) as worker:
        wait_for(lambda: worker.settler.is_crowded() and not worker.pool.active(), "more endings than it can keep")
        assert CAN < len(ran) < MANY / 2
        away.clear()
        for result in results:
            result.get(timeout=PATIENCE)
    assert sorted(ran) == list(range(MANY))


def test_what_has_run_and_cannot_be_recorded_is_not_given_back_when_the_worker_stops(
    make_app: Callable[..., Celeriac], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(clock=clock, result_backend="memory://elsewhere")
    ran, started = list[str](), threading.Event()

    @app.task(acks_late=False)
    def once() -> None:
        ran.append("once")

    @app.task
    async def lasts() -> None:
        if not started.is_set():
            started.set()
            await asyncio.sleep(FOR_EVER)

    store, away = app.backend.store, True

    async def may_store(outcomes: Any) -> list[bool]:
        if away:
            raise BackendUnavailable("It is away.")
        return await store(outcomes)

    monkeypatch.setattr(app.backend, "store", may_store)
    results = [once.delay(), lasts.delay()]
    with failing_worker(app) as worker:
        wait_for(lambda: started.is_set() and worker.settler.unsettled() == len(ran) == 1, "both tasks")
    assert held(app) == (1, 1), "what was stopped is given back, and nothing else"
    away = False
    clock.advance(3600)  # the lease expires
    with running_worker(app):
        results[1].get(timeout=PATIENCE)
        with pytest.raises(WorkerLost):
            results[0].get(timeout=PATIENCE)
    assert ran == ["once"]


def test_what_is_stored_and_cannot_be_acknowledged_does_not_run_again_after_the_worker_has_stopped(
    make_app: Callable[..., Celeriac], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(clock=clock, result_backend="memory://elsewhere")
    ran: list[int] = []

    @app.task
    def count() -> None:
        ran.append(1)

    async def away(settlements: Any) -> list[bool]:
        raise BrokerUnavailable("It is away.")

    with failing_worker(app) as worker:
        monkeypatch.setattr(worker.heartbeat.lease, "settle", away)
        result = count.delay()
        result.get(timeout=PATIENCE)
    clock.advance(3600)
    assert held(app) == (0, 1)
    with running_worker(app):
        wait_for(lambda: held(app) == (0, 0), "the end of the message")
    assert ran == [1]


def test_what_was_settled_is_not_settled_again_though_it_cannot_be_told(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Any, message: Message, outcome: Outcome) -> None:
        if outcome.id == "odd":
            raise ValueError("It cannot be told.")

    @app.task
    def fails() -> None:
        raise KeyError

    monkeypatch.setattr(AttemptLog, "ended", fail)
    fails.apply_async(task_id="odd")
    others = fails.delay_many([()] * 3)
    with running_worker(app, concurrency=1) as worker:
        for result in (*others, app.AsyncResult("odd")):
            with pytest.raises(KeyError):
                result.get(timeout=PATIENCE)
        statistics = worker.settler.recorder.statistics
        wait_for(lambda: sum(sums.n for _, sums in statistics.ever()) == 4, "the count of all four")
    assert "cannot be told" in caplog.text
    assert "one by one" not in caplog.text
    assert worker.settler.unsettled() == 0
