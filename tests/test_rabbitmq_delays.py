"""RabbitMQ whose delayed messages wait in a store: when they are moved, what faults do, which store it is.

The broker's conformance suite (`test_brokers.py`) and the promises run on it, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from celeriac import Celeriac
from celeriac.brokers.amqp import AmqpBroker
from celeriac.brokers.amqp.transport import AmqpTransport
from celeriac.brokers.queue_server.transport import Holds
from celeriac.drivers.memory.delays import MemoryDelays, MemoryDelayStore
from celeriac.errors import (
    BackendUnavailable,
    BrokerError,
    BrokerUnavailable,
    ImproperlyConfigured,
    LeaseLost,
    NotSupported,
)
from celeriac.inspector import Inspector
from celeriac.model.message import Message, new_id
from celeriac.ports.abilities import Ability
from celeriac.ports.broker import Action, Delivery, Lease, Settlement
from celeriac.ports.delays import Delayed, DelayStore, Due, Taken, delay_store
from celeriac.ports.operations import WorkerInfo
from celeriac.testing import running_worker
from tests.clock import FakeClock
from tests.conformance.broker import ids, receive
from tests.patience import PATIENCE, eventually, in_time
from tests.rabbitmq_server import Place

HOLD = 15.0


def message(**fields: Any) -> Message:
    return Message(**{"id": new_id(), "task": "t", **fields})


class Store(MemoryDelayStore):
    """A store that can be away, or forget to remove what was moved: as if who moved it were killed before."""

    def __init__(self, delays: MemoryDelays, clock: FakeClock) -> None:
        super().__init__(delays, clock)
        self.clock = clock
        self.away = self.forgets = False
        self.fault: Exception | None = None  # of Celeriac's, while there is one
        self.forgotten = 0
        self.loses = False  # the next request to remove messages

    def keep(self, messages: Sequence[Delayed]) -> None:
        if self.away:
            raise BackendUnavailable("The store is away.")
        super().keep(messages)

    async def take_due(self, limit: int, seconds: float) -> Due:
        if self.fault is not None:
            raise self.fault
        if self.away:
            raise BackendUnavailable("The store is away.")
        return await super().take_due(limit, seconds)

    async def remove(self, taken: Sequence[Taken]) -> list[bool]:
        if self.loses:
            self.loses = False
            raise BackendUnavailable("The store is away.")
        if self.forgets:
            self.forgotten += len(taken)
            return [False] * len(taken)
        return await super().remove(taken)


@pytest.fixture
def store(clock: FakeClock) -> Store:
    return Store(MemoryDelays(), clock)


@pytest.fixture
def broker(place: Place, store: Store) -> AmqpBroker:
    # A message whose publishing was not confirmed in time is published again, and says so.
    made = AmqpBroker(place.server(timeout=PATIENCE), store.clock)
    made.keep_delays_in(lambda: store, "store")
    return made


async def leased(broker: AmqpBroker, name: str = "w") -> Lease:
    return await broker.lease(WorkerInfo(name=name), HOLD, 3)


async def everything(lease: Lease) -> list[Delivery]:
    """Return what there is to be received, and give it back to nobody."""
    found: list[Delivery] = []
    while some := await receive(lease):
        found += some
    return found


# --- Moving -------------------------------------------------------------------------------------------


async def test_a_message_that_was_moved_and_not_removed_comes_again_and_says_so(broker: AmqpBroker,
                                                                               store: Store) -> None:  # fmt: skip
    """As when its worker is killed in between. A worker asks the backend before it runs such a message."""
    sent = message(due_at=store.clock.now() + 60)
    broker.publish([sent])
    lease = await leased(broker)
    store.forgets = True
    store.clock.advance(61)
    first = await eventually_received(lease)
    assert (first.message.id, first.again) == (sent.id, False)
    await eventually(lambda: store.forgotten)
    store.forgets = False
    assert await everything(lease) == []  # it is held until then
    store.clock.advance(HOLD + 1)
    [second] = await everything(lease)
    assert (second.message.id, second.again) == (sent.id, True)
    store.clock.advance(HOLD + 1)
    assert await everything(lease) == []


async def eventually_received(lease: Lease) -> Delivery:
    [delivery] = await lease.receive(["default"], {"plain": 1}, PATIENCE)
    return delivery


async def test_a_retry_whose_first_message_was_not_removed_waits_and_the_other_does_not_come(
    broker: AmqpBroker, store: Store
) -> None:
    sent = message(due_at=store.clock.now() + 60)
    broker.publish([sent])
    lease = await leased(broker)
    store.forgets = True
    store.clock.advance(61)
    delivery = await eventually_received(lease)
    await eventually(lambda: store.forgotten)
    store.forgets = False
    retry = replace(sent, attempt=2, due_at=store.clock.now() + 100)
    settlement = Settlement(delivery=delivery, action=Action.RETURN, message=retry, delay=100.0)
    assert await lease.settle([settlement]) == [True]
    store.clock.advance(HOLD + 1)
    assert await everything(lease) == []
    store.clock.advance(100)
    assert [(one.message.id, one.message.attempt) for one in await everything(lease)] == [(sent.id, 2)]


async def test_an_id_can_be_called_again_before_what_was_moved_is_removed(broker: AmqpBroker, store: Store) -> None:
    broker.publish([message(id="order-17", due_at=store.clock.now() + 60)])
    lease = await leased(broker)
    store.forgets = True
    store.clock.advance(61)
    await eventually_received(lease)
    await eventually(lambda: store.forgotten)
    broker.publish([message(id="order-17", due_at=store.clock.now() + 60, body=b"new")])
    store.forgets = False
    store.clock.advance(61)
    assert [one.message.body for one in await everything(lease)] == [b"new"]


async def test_workers_move_each_message_once(place: Place, store: Store) -> None:
    brokers = [AmqpBroker(place.server(), store.clock) for _ in range(3)]
    for one in brokers:
        one.keep_delays_in(lambda: store, "store")
    sent = [message(due_at=store.clock.now() + 60) for _ in range(1500)]
    brokers[0].publish(sent)
    leases = [await leased(one, f"w{number}") for number, one in enumerate(brokers)]
    store.clock.advance(61)
    found: list[Delivery] = []

    async def work(lease: Lease) -> None:
        while len(found) < len(sent):
            found.extend(await lease.receive(["default"], {"plain": 100}, 0.2))

    await asyncio.wait_for(asyncio.gather(*map(work, leases)), PATIENCE)
    assert sorted(ids(found)) == sorted(ids(sent))
    assert not any(delivery.again for delivery in found)
    assert await store.counts() == {}


async def test_a_task_starts_soon_after_its_countdown(place: Place) -> None:
    """Within the poll of a store that cannot tell, as docs/howto/eta.md says; memory tells at once."""
    app = Celeriac("soon", broker_url=place.url, result_backend="memory://soon", broker_delays="store",
                   broker_publish_timeout=PATIENCE)  # fmt: skip

    @app.task
    def when() -> float:
        return time.time()

    with running_worker(app):
        begun = time.time()
        results = [when.apply_async(countdown=delay) for delay in (0.05, 0.4, 1.2)]
        late = [result.get(timeout=PATIENCE) - begun - delay
                for result, delay in zip(results, (0.05, 0.4, 1.2), strict=True)]  # fmt: skip
    app.close()
    assert min(late) > -0.01
    assert in_time(max(late), 0.5)


# --- Faults -------------------------------------------------------------------------------------------


async def test_while_the_store_is_away_calls_that_wait_are_refused_and_others_are_not(
    broker: AmqpBroker, store: Store
) -> None:
    store.away = True
    later = message(due_at=store.clock.now() + 60)
    with pytest.raises(BrokerUnavailable, match="has to wait, in the result backend, which does not keep it"):
        broker.publish([later])
    with pytest.raises(BrokerUnavailable, match="The store is away"):
        await broker.apublish([later])
    sent = message()
    await broker.apublish([sent])
    assert (await eventually_received(await leased(broker))).message.id == sent.id


async def test_a_worker_moves_messages_again_when_the_store_is_back(
    broker: AmqpBroker, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "celeriac.brokers")
    lease = await leased(broker)
    sent = message(due_at=store.clock.now() + 60)
    broker.publish([sent])
    store.away = True
    await eventually(lambda: "cannot be moved" in caplog.text)
    store.away = False
    store.clock.advance(61)
    assert (await eventually_received(lease)).message.id == sent.id
    await eventually(lambda: "are moved to their queues again" in caplog.text)


async def test_what_was_moved_while_the_store_went_away_is_removed_when_it_is_back(broker: AmqpBroker,
                                                                                  store: Store) -> None:  # fmt: skip
    broker.publish([message(due_at=store.clock.now() + 60)])
    lease = await leased(broker)
    store.loses = True
    store.clock.advance(61)
    await eventually_received(lease)
    await eventually(lambda: not store.loses)
    await eventually(lambda: not store._delays.rows)
    store.clock.advance(HOLD + 1)
    assert await everything(lease) == []


async def test_what_cannot_be_read_becomes_a_dead_letter(broker: AmqpBroker, store: Store) -> None:
    good = message(due_at=store.clock.now() + 60)
    broker.publish([good])
    store.keep([Delayed(id="junk", queue="default", data=b"\x00junk", due_at=store.clock.now() + 60)])
    listed = await broker.operations().scheduled("default", 10)
    assert sorted(one.id for one in listed) == sorted([good.id, "junk"])
    lease = await leased(broker)
    store.clock.advance(61)
    assert ids(await everything(lease)) == [good.id]
    [letter] = await broker.operations().dead("default", 10)
    assert letter.message.id == "junk"
    assert "cannot be read" in letter.reason


async def test_a_message_that_the_server_refuses_holds_up_no_other(
    broker: AmqpBroker, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent = [message(due_at=store.clock.now() + 60) for _ in range(3)]
    broker.publish(sent)
    lease = await leased(broker)
    send = broker.sender.send

    async def refusing(envelopes: Any, *others: Any) -> None:
        if any(one.message.id == sent[1].id for one in envelopes):
            raise BrokerError("Not that one.")
        await send(envelopes, *others)

    monkeypatch.setattr(broker.sender, "send", refusing)
    store.clock.advance(61)
    assert sorted(ids(await everything(lease))) == sorted([sent[0].id, sent[2].id])
    assert "is tried again" in caplog.text
    monkeypatch.setattr(broker.sender, "send", send)
    store.clock.advance(HOLD + 1)
    assert ids(await everything(lease)) == [sent[1].id]


@pytest.mark.parametrize("queue", ["q" * 300, "ü", "celeriac.journal"])
async def test_a_row_of_which_no_dead_letter_can_be_made_holds_up_no_other(
    broker: AmqpBroker, store: Store, caplog: pytest.LogCaptureFixture, queue: str
) -> None:
    good = message(due_at=store.clock.now() + 60)
    broker.publish([good])
    store.keep([Delayed(id="junk", queue=queue, data=b"junk", due_at=store.clock.now() + 60)])
    lease = await leased(broker)
    store.clock.advance(61)
    assert (await eventually_received(lease)).message.id == good.id
    await eventually(lambda: "The delayed message junk cannot be moved" in caplog.text)
    later = message(due_at=store.clock.now() + 60)
    broker.publish([later])
    store.clock.advance(61)
    assert (await eventually_received(lease)).message.id == later.id
    await eventually(lambda: list(store._delays.rows) == ["junk"])


async def test_a_worker_moves_messages_again_after_an_error_that_nobody_expects(
    broker: AmqpBroker, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await leased(broker)
    sent = message(due_at=store.clock.now() + 60)
    broker.publish([sent])
    store.fault = ValueError("A fault.")
    store.clock.advance(61)
    await eventually(lambda: "ValueError: A fault." in caplog.text)  # with where it was raised
    store.fault = None
    assert (await eventually_received(lease)).message.id == sent.id
    await eventually(lambda: "are moved to their queues again" in caplog.text)
    assert caplog.text.count("cannot be moved") == 1


async def test_a_worker_whose_clock_is_behind_lets_a_message_wait_once_more(place: Place, store: Store) -> None:
    """An ETA is compared with the worker's clock, too; it does not go to and fro until then."""
    behind = FakeClock(store.clock.now() - 30)
    broker = AmqpBroker(place.server(), behind)
    broker.keep_delays_in(lambda: store, "store")
    sent = message(due_at=store.clock.now() + 60)
    broker.publish([sent])
    lease = await leased(broker)
    store.clock.advance(61)
    behind.advance(61)
    assert await everything(lease) == []
    [waiting] = await store.page(None, False, 10)
    assert waiting.due_at == pytest.approx(store.clock.now() + 29)
    store.clock.advance(30)
    behind.advance(30)
    assert ids(await everything(lease)) == [sent.id]


async def test_a_countdown_minds_no_clock_of_a_worker(place: Place, store: Store) -> None:
    behind = FakeClock(store.clock.now() - 3600)
    broker = AmqpBroker(place.server(), behind)
    broker.keep_delays_in(lambda: store, "store")
    sent = message(due_at=store.clock.now() + 60, countdown=60.0)
    broker.publish([sent])
    lease = await leased(broker)
    store.clock.advance(59)
    assert await everything(lease) == []
    store.clock.advance(2)
    assert ids(await everything(lease)) == [sent.id]


async def test_a_worker_that_stops_leaves_nothing_that_it_holds(broker: AmqpBroker, store: Store) -> None:
    lease = await leased(broker)
    await lease.end()
    broker.publish([message(due_at=store.clock.now() + 1)])
    store.clock.advance(2)
    with pytest.raises(LeaseLost):
        await receive(lease)
    assert len((await store.take_due(10, HOLD)).taken) == 1


# --- Which store --------------------------------------------------------------------------------------


def auto(place: Place, source: Callable[[], DelayStore], clock: FakeClock, mode: str = "auto") -> AmqpBroker:
    broker = AmqpBroker(place.server(), clock)
    broker.keep_delays_in(source, mode)
    return broker


def none() -> DelayStore:
    raise NotSupported("<Nothing> keeps no messages that wait. Set `result_backend`.")


@pytest.mark.parametrize(("holds", "kept"), [(Holds.SAFELY, 0), (Holds.UNSAFELY, 1), (Holds.NEVER, 1)])
async def test_messages_wait_in_the_store_where_the_server_does_not_hold_them_safely(
    place: Place, store: Store, holds: Holds, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AmqpTransport, "holds_delayed", holds)
    broker = auto(place, lambda: store, store.clock)
    assert broker.can(Ability.SEE_SCHEDULED) is (holds is Holds.NEVER)  # for the others the server is asked first
    await broker.apublish([message(due_at=store.clock.now() + 60)])
    assert broker.can(Ability.SEE_SCHEDULED) is bool(kept)
    assert sum(counts.waiting for counts in (await store.counts()).values()) == kept


@pytest.mark.parametrize("mode", ["auto", "server"])
async def test_where_nothing_can_wait_a_call_is_refused_with_the_reason(
    place: Place, store: Store, mode: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(AmqpTransport, "holds_delayed", Holds.NEVER)
    broker = auto(place, none, store.clock, mode)
    late = message(due_at=store.clock.now() + 60)
    why = {"auto": "Nothing can wait .* holds no delayed messages .*Set `result_backend`",
           "server": "`broker_delays = 'server'` leaves no place"}[mode]  # fmt: skip
    with pytest.raises(NotSupported, match=why):
        broker.publish([late])
    with pytest.raises(NotSupported, match=why):
        await broker.apublish([late])
    broker.publish([message(), message(due_at=store.clock.now() - 1)])
    assert len(await everything(await leased(broker))) == 2
    assert "is retried later, or whose rate is limited, becomes a dead letter" in caplog.text
    with pytest.raises(NotSupported, match="cannot list"):
        await broker.operations().scheduled(None, 10)


async def test_a_cluster_that_may_lose_messages_holds_them_where_there_is_no_store(
    place: Place, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(AmqpTransport, "holds_delayed", Holds.UNSAFELY)
    broker = auto(place, none, store.clock)
    await broker.apublish([message(due_at=store.clock.now() + 60)])
    assert await everything(await leased(broker)) == []
    assert "dead letter" not in caplog.text


async def test_what_others_keep_in_a_store_that_is_not_used_is_moved_all_the_same(place: Place, store: Store) -> None:
    """The setting differs between a caller and a worker, as during a deployment."""
    caller, worker = auto(place, lambda: store, store.clock, "store"), auto(place, lambda: store, store.clock, "server")
    sent = message(due_at=store.clock.now() + 60)
    caller.publish([sent])
    store.clock.advance(61)
    assert (await eventually_received(await leased(worker))).message.id == sent.id


def test_rpc_keeps_no_messages_that_wait(place: Place) -> None:
    app = Celeriac("caller", broker_url=place.url, result_backend="rpc://", broker_delays="store",
                   broker_publish_timeout=PATIENCE)  # fmt: skip
    with pytest.raises(NotSupported, match=r"Nothing can wait .*<RpcBackend .*keeps no messages that wait.*sqlite://"):
        app.send_task("t", countdown=1)
    app.close()


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{folder}/celeriac.db", "redis://127.0.0.1:1"])
def test_brokers_that_hold_delayed_messages_themselves_refuse_the_setting(url: str, tmp_path: Any) -> None:
    app = Celeriac("caller", broker_url=url.format(folder=tmp_path), broker_delays="store")
    with pytest.raises(ImproperlyConfigured, match="leave that setting out"):
        app.send_task("t")


@pytest.mark.parametrize("backend", ["memcached://127.0.0.1:1", "tyrant://127.0.0.1:1"])
def test_other_backends_say_what_to_set(backend: str) -> None:
    app = Celeriac("caller", broker_url="memory://", result_backend=backend)
    with pytest.raises(NotSupported, match="keeps no messages that wait"):
        delay_store(app.backend)


# --- Front ends ---------------------------------------------------------------------------------------


async def test_front_ends_see_what_waits_and_end_it(place: Place) -> None:
    app = Celeriac("seen", broker_url=place.url, result_backend="memory://seen", broker_delays="store",
                   broker_publish_timeout=PATIENCE)  # fmt: skip

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    results = [add.apply_async((number, 1), countdown=3600) for number in range(4)]
    inspector = Inspector(app)
    [counts] = await inspector.queues()
    assert (counts.queue, counts.ready, counts.scheduled) == ("default", 0, 4)
    assert len(await inspector.scheduled("default", limit=10)) == 4
    with running_worker(app):
        assert await inspector.run_now([results[0].id]) == 1
        assert await results[0].aget(timeout=PATIENCE) == 1
        await inspector.revoke([results[1].id])
        await eventually(results[1].ready)
        assert results[1].state == "REVOKED"
    assert await inspector.purge(["default"]) == {"default": 2}
    assert [result.state for result in results[2:]] == ["REVOKED"] * 2
    [counts] = await inspector.queues()
    assert (counts.ready, counts.scheduled) == (0, 0)
    app.close()
