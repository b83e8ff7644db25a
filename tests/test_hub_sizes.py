"""What is asked of a hub, and answered, in portions: 4 MB at a time, unless one item has more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.backends.zmq import HubBackend
from celeriac.brokers.zmq import HubBroker
from celeriac.drivers.zmq.frames import FRAME_BYTES, portions
from celeriac.drivers.zmq.server import Server
from celeriac.model.clock import Clock
from celeriac.ports.broker import Action, Settlement
from celeriac.ports.operations import WorkerInfo
from tests.conformance.broker import LONG, ids, message, receive, success
from tests.hub_server import HubServer, running_hub
from tests.patience import PATIENCE

MANY = 10
LARGE = b"x" * (1 << 20)
FIT = FRAME_BYTES // len(LARGE)  # so many, and one more


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with running_hub(tmp_path) as made:
        yield made


@pytest.fixture
def server(hub: HubServer) -> Iterator[Server]:
    made = Server(hub.url, timeout=PATIENCE)
    yield made
    made.close()


@pytest.fixture
def broker(server: Server) -> HubBroker:
    return HubBroker(server, Clock())


@pytest.fixture
def backend(server: Server) -> HubBackend:
    return HubBackend(server, Clock())


async def test_a_worker_gets_large_messages_a_few_at_a_time(broker: HubBroker) -> None:
    sent = [message(body=LARGE) for _ in range(MANY)]
    broker.publish(sent)
    broker.publish([vast := message(body=LARGE * (FIT + 2))])
    lease = await broker.lease(WorkerInfo(name="a"), LONG, 3)
    found: list[str] = []
    while len(found) <= MANY:
        some = await receive(lease, 100, wait=LONG)
        assert some
        assert sum(len(one.message.body) for one in some) <= FRAME_BYTES or len(some) == 1
        found += ids(some)
    assert found == ids([*sent, vast])


async def test_small_messages_after_large_ones_come_together_again(broker: HubBroker) -> None:
    broker.publish([message(body=LARGE) for _ in range(FIT + 1)])
    broker.publish(small := [message() for _ in range(200)])
    lease = await broker.lease(WorkerInfo(name="a"), LONG, 3)
    for _ in range(3):
        found = await receive(lease, 1000, wait=LONG)
    assert len(found) > len(small) / 2


async def test_large_outcomes_are_settled_stored_and_fetched_in_portions(
    broker: HubBroker, backend: HubBackend, server: Server
) -> None:
    broker.publish(sent := [message() for _ in range(MANY)])
    outcomes = [success(one) for one in sent]
    for outcome in outcomes:
        outcome.value = LARGE
    lease = await broker.lease(WorkerInfo(name="a"), LONG, 3)
    found = await receive(lease, wait=LONG)
    done = [Settlement(delivery=one, outcome=outcome) for one, outcome in zip(found, outcomes, strict=True)]
    assert await lease.settle(done) == [True] * MANY
    assert await backend.store(outcomes) == [False] * MANY, "they are there"
    asked = ids(sent)
    for wait in (0.0, LONG):
        assert backend.fetch(asked, wait) == await backend.afetch(asked, wait) == {one.id: one for one in outcomes}
    assert 0 < len(server.do("backend.fetch", asked, 0.0)) < MANY


async def test_listings_of_large_messages_are_answered_in_portions(broker: HubBroker, server: Server) -> None:
    operations = broker.operations()
    broker.publish(sent := [message(body=LARGE) for _ in range(MANY)])
    assert ids(await operations.peek("default", 100)) == ids(sent)
    assert ids(await operations.peek("default", 7, 2)) == ids(sent[2:9])
    assert set(await operations.find(ids(sent))) == {one.id for one in sent}
    lease = await broker.lease(WorkerInfo(name="a"), LONG, 3)
    for _ in range(MANY):
        [one] = await receive(lease, 1, wait=LONG)
        assert await lease.settle([Settlement(delivery=one, action=Action.BURY, reason="large")]) == [True]
    assert set(ids(await operations.dead(None, 100))) == {one.id for one in sent}
    assert len(await operations.dead("default", 6, 1)) == 6
    assert 0 < len(server.do("operations.dead", None, 100, 0)) < MANY
    assert await operations.resend(ids(sent)) == MANY


def test_portions_keep_the_order_and_the_bounds() -> None:
    sizes = [FRAME_BYTES // 2, FRAME_BYTES // 2, 1, 3 * FRAME_BYTES, 1, 1, 1, 1]
    found = [list(part) for part in portions(sizes, int, 3)]
    assert found == [sizes[:2], sizes[2:3], sizes[3:4], sizes[4:7], sizes[7:]]
    assert list(portions([], int, 3)) == []
