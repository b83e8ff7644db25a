"""The history that workers write is the truth, whatever is killed, restarted, away or too much."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from msgspec.msgpack import encode

from celeriac import Celeriac, states
from celeriac.drivers.memory.history import MemoryHistory
from celeriac.errors import BrokerUnavailable, ImproperlyConfigured, Unstorable
from celeriac.model.failure import Failure
from celeriac.model.history import Batch, decode_attempt, decode_signature
from celeriac.model.message import Message, new_id
from celeriac.model.outcome import Outcome
from celeriac.ports.history import History, Limits
from celeriac.testing import running_worker
from celeriac.worker import recorder as recorder_module
from celeriac.worker.options import WorkerOptions
from celeriac.worker.recorder import Recorder
from celeriac.worker.sampling import PER_MINUTE, PER_SECOND, attempt_of, signature_of_failure
from celeriac.worker.statistics import MOST_GROUPS, Ended
from tests.clock import FakeClock
from tests.patience import PATIENCE, wait_for
from tests.promises.harness import Stage, get
from tests.rabbitmq_server import Place
from tests.redis_server import RedisServer, running_redis
from tests.sql_server import SQLServer


def ended(task: str = "shop.add", state: str = states.SUCCESS, runtime: float = 0.01, error: str = "",
          **fields: Any) -> Ended:  # fmt: skip
    id = new_id()
    failure = Failure("builtins", error, "bad", signature=f"sig-{error}") if error else None
    message = Message(**{"id": id, "task": task, "sent_at": 100.0, **fields})
    return message, Outcome(id=id, task=task, state=state, runtime=runtime, started_at=107.0, done_at=108.0,
                            failure=failure)  # fmt: skip


class Unreliable(MemoryHistory):
    """A history that can be away, and that can lose its replies."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.loses_replies = False
        self.writes = 0

    async def record(self, batch: Batch, now: float) -> None:
        self.writes += 1
        if self.away:
            raise BrokerUnavailable("it is away")
        await super().record(batch, now)
        if self.loses_replies:
            raise BrokerUnavailable("the reply was lost")


@pytest.fixture
def store() -> Unreliable:
    return Unreliable()


@pytest.fixture
def recorder(make_app: Callable[..., Celeriac], clock: FakeClock, store: Unreliable) -> Recorder:
    return recorder_on(make_app(clock=clock), store)


def test_a_failure_of_a_class_with_an_endless_name_can_be_read() -> None:
    kind = type("E" * 2000, (Exception,), {"__module__": "m" * 2000})
    message, outcome = ended(state=states.FAILURE)
    outcome.failure = Failure.of(kind("bad"), outcome.task)
    assert decode_attempt(encode(attempt_of((message, outcome)))).error.endswith("EEE")
    assert decode_signature(encode(signature_of_failure(outcome, "w"))).error.endswith("EEE")


def recorder_on(app: Celeriac, store: History) -> Recorder:
    made = Recorder(app, WorkerOptions(name="w"))
    made.history = store
    return made


async def counts(store: History) -> dict[tuple[str, str], int]:
    return {(point.task, point.state): point.sums.n for point in await store.totals(by=("task", "state"))}


# --- What is counted ----------------------------------------------------------------------------------


async def test_counts_durations_and_waits_are_written(recorder: Recorder, store: Unreliable, clock: FakeClock) -> None:
    recorder.add([ended(), ended(runtime=1.0), ended(due_at=105.0), ended(state=states.REVOKED, runtime=0.0)],
                 clock.now())  # fmt: skip
    recorder.add([ended(state=states.FAILURE, error="ValueError", queue="mail")], clock.now())
    await recorder.write()
    points = {point.state: point for point in await store.totals()}
    assert {state: point.sums.n for state, point in points.items()} == {"SUCCESS": 3, "REVOKED": 1, "FAILURE": 1}
    success = points["SUCCESS"].sums
    assert (success.runtime.most, success.wait.least, success.wait.most) == (1.0, 2.0, 7.0)
    assert points["REVOKED"].sums.runtime.n == points["REVOKED"].sums.wait.n == 0
    assert (points["FAILURE"].queue, points["FAILURE"].error) == ("mail", "builtins.ValueError")
    assert recorder.statistics.summary()["shop.add"]["states"] == {"SUCCESS": 3, "REVOKED": 1, "FAILURE": 1}


async def test_a_clock_of_another_machine_makes_no_wait_negative(
    recorder: Recorder, store: Unreliable, clock: FakeClock
) -> None:
    message, outcome = ended(sent_at=0.0)
    outcome.started_at = clock.now()
    recorder.add([ended(sent_at=200.0), (message, outcome)], clock.now())
    await recorder.write()
    (point,) = await store.totals()
    assert (point.sums.n, point.sums.wait.n, point.sums.wait.total) == (2, 1, 0.0)


async def test_slots_are_final_when_they_have_passed_and_the_sums_since_the_start_stay(
    recorder: Recorder, store: Unreliable, clock: FakeClock
) -> None:
    for _ in range(5):
        recorder.add([ended()] * 3, clock.now())
        await recorder.write()
        await store.compact(clock.now())
        clock.advance(7)
    await recorder.write(last=True)
    await store.compact(clock.now())
    assert await store.unfolded() == []
    assert await counts(store) == {("shop.add", "SUCCESS"): 15}
    assert recorder.statistics.summary()["shop.add"]["count"] == 15
    assert recorder.statistics.slots == {}


async def test_a_clock_that_is_set_back_loses_nothing(recorder: Recorder, store: Unreliable, clock: FakeClock) -> None:
    for step in (0, 25, -1000, 5, 1010):
        clock.advance(step)
        recorder.add([ended()], clock.now())
        await recorder.write()
        await store.compact(clock.now())
    await recorder.write(last=True)
    assert await counts(store) == {("shop.add", "SUCCESS"): 5}


async def test_nothing_is_written_when_nothing_has_ended(
    recorder: Recorder, store: Unreliable, clock: FakeClock
) -> None:
    recorder.add([ended()], clock.now())
    await recorder.write()
    clock.advance(20)
    await recorder.write()  # the slot is final
    for _ in range(3):
        clock.advance(20)
        await recorder.write()
    assert store.writes == 2


# --- Outages ------------------------------------------------------------------------------------------


async def test_what_ends_during_a_write_is_in_the_next_though_nothing_ends_later(
    recorder: Recorder, store: Unreliable, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "SLOT", 10 * PATIENCE)  # until which a recorder without work rests
    monkeypatch.setattr(recorder_module, "WRITE_SECONDS", 0.05)
    is_writing, goes_on, record = asyncio.Event(), asyncio.Event(), store.record

    async def slow(batch: Batch, now: float) -> None:
        sent = deepcopy(batch)
        is_writing.set()
        await goes_on.wait()
        await record(sent, now)

    monkeypatch.setattr(store, "record", slow)
    many = int(PER_SECOND)  # all of which are kept; of those after them none, which are counted alone
    recorder.add([ended() for _ in range(many)], clock.now())
    work = asyncio.create_task(recorder.run())
    async with asyncio.timeout(PATIENCE):
        await is_writing.wait()
        recorder.add([ended()], clock.now())
        goes_on.set()
        while await counts(store) != {("shop.add", "SUCCESS"): many + 1}:
            await asyncio.sleep(0.01)
    work.cancel()


async def test_what_has_ended_is_written_at_once_for_who_asks(
    recorder: Recorder, store: Unreliable, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "WRITE_SECONDS", 10 * PATIENCE)
    work = asyncio.create_task(recorder.run())
    async with asyncio.timeout(PATIENCE):
        for number in (1, 2):
            recorder.add([ended()], clock.now())
            await asyncio.gather(recorder.written(), recorder.written())
            assert await counts(store) == {("shop.add", "SUCCESS"): number}
        store.away = True
        recorder.add([ended()], clock.now())
        with pytest.raises(BrokerUnavailable, match="it is away"):
            await recorder.written()
    work.cancel()


async def test_an_outage_loses_nothing(recorder: Recorder, store: Unreliable, clock: FakeClock) -> None:
    store.away = True
    for _ in range(30):
        recorder.add([ended(), ended(state=states.FAILURE, error="E")], clock.now())
        with pytest.raises(BrokerUnavailable):
            await recorder.write()
        clock.advance(10)
    store.away = False
    while await recorder.write():
        pass
    assert await counts(store) == {("shop.add", "SUCCESS"): 30, ("shop.add", "FAILURE"): 30}
    assert (await store.search()).of == 60
    (signature,) = await store.signatures()
    assert (signature.count, recorder.dropped) == (30, 0)


async def test_a_lost_reply_counts_nothing_twice(recorder: Recorder, store: Unreliable, clock: FakeClock) -> None:
    store.loses_replies = True
    for _ in range(5):
        recorder.add([ended()], clock.now())
        with pytest.raises(BrokerUnavailable):
            await recorder.write()
        await store.compact(clock.now())
        clock.advance(10)
    store.loses_replies = False
    while await recorder.write():
        pass
    await store.compact(clock.now())
    assert await counts(store) == {("shop.add", "SUCCESS"): 5}


async def test_after_long_what_is_too_old_is_dropped_and_counted(
    recorder: Recorder, store: Unreliable, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "MOST_ATTEMPTS", 50)
    store.away = True
    for _ in range(20):
        recorder.add([ended() for _ in range(5)], clock.now())
        recorder._bound(10)
        clock.advance(10)
    assert len(recorder.statistics.slots) == 10
    store.away = False
    while await recorder.write():
        pass
    assert await counts(store) == {("shop.add", "SUCCESS"): 50}
    assert (await store.search()).of == 50
    assert recorder.dropped == 50 + 50  # attempts that were counted, and chosen ones
    assert recorder.statistics.summary()["shop.add"]["count"] == 100


@pytest.mark.parametrize("fault", [KeyError("a fault"), Unstorable("too large")], ids=repr)
async def test_a_fault_of_the_history_does_not_end_the_duty(
    recorder: Recorder, store: Unreliable, clock: FakeClock, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, fault: Exception,
) -> None:  # fmt: skip
    """An outage is told once, a fault is logged, and writing goes on."""
    monkeypatch.setattr(recorder_module, "WRITE_SECONDS", 0.0)
    faults: list[Exception] = [BrokerUnavailable("away"), BrokerUnavailable("away"), fault]

    async def record(batch: Batch, now: float) -> None:
        if faults:
            raise faults.pop(0)
        await MemoryHistory.record(store, batch, now)
        done.set()

    done = asyncio.Event()
    monkeypatch.setattr(store, "record", record)
    recorder.add([ended()], clock.now())
    with caplog.at_level(logging.WARNING):
        duty = asyncio.ensure_future(recorder.run())
        while faults:
            await asyncio.sleep(0.01)
        recorder.add([ended(task="later")], clock.now())
        async with asyncio.timeout(60):
            await done.wait()
        duty.cancel()
    told = [record.getMessage() for record in caplog.records]
    assert sum("cannot be written, the worker keeps trying" in text for text in told) == 1
    assert sum("dropped" in text and "what was to be written" in text for text in told) == 1
    assert ("later", "SUCCESS") in await counts(store)


async def test_a_fault_of_the_history_does_not_break_the_end_of_the_worker(
    recorder: Recorder, store: Unreliable, clock: FakeClock, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    async def hang(batch: Batch, now: float) -> None:
        await asyncio.sleep(3600)

    async def fail(batch: Batch, now: float) -> None:
        raise KeyError("a fault")

    for record in (hang, fail):
        recorder.add([ended()], clock.now())
        monkeypatch.setattr(store, "record", record)
        await recorder.finish(0.01)
    assert len([one for one in caplog.records if "could not be written" in one.getMessage()]) == 2


# --- What is kept of single attempts ------------------------------------------------------------------


async def test_few_successes_are_all_kept_and_many_are_sampled_fairly(
    recorder: Recorder, store: Unreliable, clock: FakeClock
) -> None:
    recorder.add([ended() for _ in range(10)], clock.now())
    for _ in range(100):
        clock.advance(0.1)
        recorder.add([ended() for _ in range(100)], clock.now())
    await recorder.write()
    rows = (await store.search(limit=2000)).rows
    assert 10 + 8 * PER_SECOND <= len(rows) <= 10 + 12 * PER_SECOND
    assert sum(1 / row.share for row in rows) == pytest.approx(10_010, rel=0.1)
    assert max(row.share for row in rows) == 1.0


async def test_a_rare_task_is_kept_among_many_others(recorder: Recorder, store: Unreliable, clock: FakeClock) -> None:
    for number in range(100):
        clock.advance(0.1)
        recorder.add([ended() for _ in range(200)] + [ended("rare")] * (number == 99), clock.now())
    await recorder.write()
    assert any(row.task == "rare" for row in (await store.search(limit=2000)).rows)


async def test_the_slowest_are_kept(recorder: Recorder, store: Unreliable, clock: FakeClock) -> None:
    recorder.add([ended() for _ in range(1000)], clock.now())
    clock.advance(20)
    await recorder.write()
    clock.advance(0.01)
    recorder.add([ended() for _ in range(1000)] + [ended(runtime=9.0)], clock.now())
    await recorder.write()
    assert any(row.runtime == 9.0 for row in (await store.search(limit=2000)).rows)


async def test_failures_of_one_kind_are_kept_up_to_a_number_a_minute(
    recorder: Recorder, store: Unreliable, clock: FakeClock
) -> None:
    for _ in range(10):
        recorder.add([ended(state=states.FAILURE, error="Often") for _ in range(50)], clock.now())
    recorder.add([ended(state=states.FAILURE, error="Once")], clock.now())
    await recorder.write()
    rows = (await store.search(limit=2000)).rows
    assert len(rows) == PER_MINUTE + 1
    assert {one.error: one.count for one in await store.signatures()} == {"builtins.Often": 500, "builtins.Once": 1}
    clock.advance(60)
    recorder.add([ended(state=states.FAILURE, error="Often")], clock.now())
    await recorder.write()
    assert (await store.search()).of == PER_MINUTE + 2


async def test_pruning_keeps_pace_with_workers_that_write(
    recorder: Recorder, store: Unreliable, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step deletes 1,000 samples, and a worker writes up to 50 a second."""
    steps: list[float] = []

    async def prune(limits: Limits, now: float) -> int:
        steps.append(now)
        return 1000

    monkeypatch.setattr(store, "prune", prune)
    await recorder._prune()
    assert len(steps) * 1000 >= 10 * PER_SECOND * recorder_module.PRUNE_SECONDS


async def test_all_are_kept_if_the_settings_say_so(
    make_app: Callable[..., Celeriac], clock: FakeClock, store: Unreliable
) -> None:
    recorder = recorder_on(make_app(clock=clock, history="all"), store)
    recorder.add([ended() for _ in range(700)] + [ended(state=states.FAILURE, error="E") for _ in range(700)],
                 clock.now())  # fmt: skip
    while await recorder.write():
        pass
    assert (await store.search()).of == 1400


async def test_countless_tasks_and_signatures_are_bounded(
    recorder: Recorder, store: Unreliable, clock: FakeClock
) -> None:
    recorder.add([ended(state=states.FAILURE, error=f"E{number}") for number in range(3 * MOST_GROUPS)], clock.now())
    recorder.add([ended(f"t{number}") for number in range(3 * MOST_GROUPS)], clock.now())
    (slot,) = recorder.statistics.slots.values()
    assert len(slot) <= MOST_GROUPS + 10
    while await recorder.write():
        pass
    assert sum((await counts(store)).values()) == 6 * MOST_GROUPS


# --- Workers ------------------------------------------------------------------------------------------


def history_of(app: Celeriac) -> History:
    assert app.history is not None
    return app.history


def total(app: Celeriac, state: str = "SUCCESS") -> int:
    async def count() -> int:
        return sum(point.sums.n for point in await history_of(app).totals() if point.state == state)

    return app.broker.complete(count())


def test_restarts_of_workers_lose_nothing(stage: Stage) -> None:
    sent = 0
    for number in range(3):
        worker = stage.worker("-c", "2", name=f"worker-{number}")
        results = [stage.send("plain", "returns", one) for one in range(100)]
        results.append(stage.send("plain", "raises", "no"))
        for result in results:
            result.get(timeout=120, propagate=False)
        sent += 100
        assert worker.stop() == 0
        assert total(stage.app) == sent
    assert total(stage.app, "FAILURE") == 3

    async def look() -> tuple[list[str], int]:
        history = history_of(stage.app)
        (signature,) = await history.signatures()
        return [event.kind for event in await history.events()], signature.count

    kinds, failures = stage.app.broker.complete(look())
    assert (kinds.count("worker.started"), kinds.count("worker.stopped"), failures) == (3, 3, 3)


def test_a_killed_worker_loses_only_what_it_has_not_written_and_others_go_on(stage: Stage) -> None:
    """All that ended before a pause is written before long. Killing the worker then costs nothing."""
    first = stage.worker("-c", "1", name="first")
    for result in [stage.send("plain", "returns", number) for number in range(50)]:
        get(result)
    wait_for(lambda: total(stage.app) == 50, "the counts of the first worker")
    first.signal_all(signal.SIGKILL)
    first.wait()
    second = stage.worker("-c", "1", name="second")
    for result in [stage.send("plain", "returns", number) for number in range(50)]:
        get(result)
    wait_for(lambda: total(stage.app) == 100, "the counts of both")
    assert second.stop() == 0
    assert total(stage.app) == 100


@pytest.fixture(params=["redis", "postgresql"])
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RedisServer | SQLServer, str]]:
    """A server that keeps what it has confirmed when it is killed, and the URL of a history on it."""
    if request.param == "postgresql":
        sql: SQLServer = request.getfixturevalue("postgresql")
        yield sql, sql.url(sql.database())
    else:
        (folder := tmp_path / "redis").mkdir()
        with running_redis(folder, "--appendonly", "yes", "--appendfsync", "always") as server:
            yield server, server.url


def test_an_outage_of_the_server_of_the_history_delays_no_task_and_loses_nothing(
    stage: Stage, lasting: tuple[RedisServer | SQLServer, str]
) -> None:
    server, url = lasting
    with closing(stage.app):
        stage.app.conf.history_url = url
        worker = stage.worker("-c", "2", history_url=url)
        for result in [stage.send("plain", "returns", number) for number in range(50)]:
            get(result)
        wait_for(lambda: total(stage.app) == 50, "the counts before the outage")
        server.kill()
        for result in [stage.send("plain", "returns", number) for number in range(50)]:
            get(result)
        wait_for(lambda: "The history cannot be written" in worker.text(), "the worker noticing")
        for result in [stage.send("plain", "returns", number) for number in range(50)]:
            get(result)
        server.start()
        wait_for(lambda: "The history is written again" in worker.text(), "the end of the outage")
        wait_for(lambda: total(stage.app) == 150, "the counts after the outage")
        assert worker.stop() == 0
        assert total(stage.app) == 150


def test_without_a_history_workers_only_count(make_app: Callable[..., Celeriac], clock: FakeClock) -> None:
    app = make_app(history="off")
    assert app.history is None
    recorder = Recorder(app, WorkerOptions(name="w"))
    for _ in range(5):
        recorder.add([ended()], clock.now())
        clock.advance(10)
    assert recorder.statistics.summary()["shop.add"]["count"] == 5
    assert len(recorder.statistics.slots) == 1


def test_the_history_can_be_on_another_server(make_app: Callable[..., Celeriac], tmp_path: Path) -> None:
    app = make_app(history_url=f"sqlite:///{tmp_path}/history.db")
    history = history_of(app)
    app.broker.complete(history.record(Batch(lease="a"), 0.0))
    assert (tmp_path / "history.db").exists()
    assert app.history is history
    app.close()
    assert app.history is not history


def test_a_url_of_a_store_without_history_is_refused(make_app: Callable[..., Celeriac]) -> None:
    app = make_app(history_url="amqp://guest:secret@127.0.0.1:1/")
    with pytest.raises(ImproperlyConfigured, match="keeps no history") as caught:
        _ = app.history
    assert "secret" not in str(caught.value)


def test_with_a_broker_that_keeps_none_the_history_is_where_history_url_says(place: Place, tmp_path: Path) -> None:
    app = Celeriac("r", environ={}, broker_url=place.url, broker_publish_timeout=PATIENCE,
                   history_url=f"sqlite:///{tmp_path}/history.db")  # fmt: skip
    assert Celeriac("s", environ={}, broker_url=place.url).history is None
    run_on(app)


def test_beside_rabbitmq_a_sql_database_keeps_results_and_history(place: Place, postgresql: SQLServer) -> None:
    name = postgresql.database()
    run_on(Celeriac("r", environ={}, broker_url=place.url, result_backend=postgresql.url(name),
                    broker_publish_timeout=PATIENCE))  # fmt: skip
    (leases,) = postgresql.ask("SELECT count(*) FROM celeriac_history_workers", name)
    assert leases == (1,)


def test_on_redis_the_history_is_in_the_result_backend(redis: RedisServer) -> None:
    app = Celeriac("r", environ={}, broker_url=redis.url)
    run_on(app)
    assert b"celeriac:history:attempts" in redis.ask("KEYS", "*:history:*")


def run_on(app: Celeriac) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with running_worker(app):
        assert [add.delay(n, 1).get(timeout=120) for n in range(20)] == list(range(1, 21))
    assert total(app) == 20
    app.close()
