"""On a cluster of RabbitMQ, workers and callers consume in another channel now and then.

`brokers/amqp/work_channel.py` says why. Tested on one node, with a message that is lost on its way: the server waits
for its acknowledgement until the channel is closed. `tests/promises/test_rabbitmq_cluster.py` has a cluster whose nodes
are killed.
"""

from __future__ import annotations

import asyncio
import math
import random
from urllib.parse import quote

import pytest

from celeriac.backends import amqp as replies
from celeriac.backends.amqp import RpcBackend
from celeriac.brokers.amqp import connections
from celeriac.brokers.amqp.connections import AmqpWorkerConnection
from celeriac.brokers.amqp.work_channel import SPAN, parted
from celeriac.brokers.queue_server.lease import QueueServerLease
from celeriac.drivers.amqp.aio import Channel
from celeriac.drivers.amqp.frames import Content
from celeriac.model.clock import Clock
from celeriac.ports.broker import Settlement
from tests.conformance.broker import LONG, ids, message, one, receive, several, success
from tests.patience import eventually, wait_for
from tests.rabbitmq_server import Place
from tests.test_rabbitmq import lease_on


@pytest.fixture
def cluster(place: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of what is told to be two nodes, on which a channel is old as soon as it is open."""
    monkeypatch.setattr(connections, "FRESH_SECONDS", 0.0)
    host = f"127.0.0.1:{place.rabbit.port}"
    return f"amqp://guest:guest@{host},{host}/{quote(place.vhost, safe='')}"


def worker_of(lease: QueueServerLease) -> AmqpWorkerConnection:
    assert isinstance(lease.connection, AmqpWorkerConnection)
    return lease.connection


def channels_of(lease: QueueServerLease) -> list[int]:
    """Return the numbers of the channels in which a worker consumes, or holds something."""
    return [work.number for work in worker_of(lease)._open()]


def lose_one(channel: Channel, lost: list[Content]) -> None:
    """Let the next message that comes in a channel be lost."""
    taken = channel.on_content

    def lose(content: Content) -> None:
        lost.append(content)
        channel.on_content = taken

    channel.on_content = lose


async def renewed(lease: QueueServerLease) -> None:
    """Renew a lease, and wait until its worker consumes in another channel."""
    before = worker_of(lease)._work.number
    await eventually(lambda: worker_of(lease)._fresh_until < math.inf, "the end of the last change")
    await lease.renew()
    await eventually(lambda: worker_of(lease)._work.number > before, "another channel")


async def test_a_message_that_was_lost_on_its_way_comes_again(place: Place, cluster: str) -> None:
    broker = place.broker(cluster)
    lease = await lease_on(broker)
    assert await receive(lease) == []  # its consumer has begun
    lost: list[Content] = []
    lose_one(worker_of(lease)._work.channel, lost)
    broker.publish([sent := message()])
    await eventually(lambda: bool(lost), "the message")
    assert await receive(lease) == [], "the server believes that the worker has it"
    await renewed(lease)
    found = await one(lease)
    assert (found.message.id, found.again) == (sent.id, True)


async def test_what_is_held_stays_held_while_channels_change(place: Place, cluster: str) -> None:
    broker = place.broker(cluster)
    lease = await lease_on(broker)
    broker.publish([held := message()])
    held_one = await one(lease)
    for _ in range(3):
        await renewed(lease)
        broker.publish([message()])
        assert await lease.settle([Settlement(delivery=await one(lease))]) == [True]
    await eventually(lambda: channels_of(lease) == [0, 3], "an end of those that hold nothing")
    assert await lease.settle([Settlement(delivery=held_one)]) == [True]
    assert channels_of(lease) == [3]
    await lease.end()
    assert held_one.message.id == held.id
    assert await receive(await lease_on(broker)) == [], "all of them are settled"


async def test_a_message_that_comes_late_in_an_earlier_channel_is_not_settled_with_another(
    place: Place, cluster: str
) -> None:
    broker = place.broker(cluster)
    lease = await lease_on(broker)
    broker.publish([message()])
    [first] = await several(lease, 1)  # with room for more
    channel, late = worker_of(lease)._work.channel, list[Content]()
    taken = channel.on_content
    assert taken is not None
    channel.on_content = late.append
    broker.publish([message(id="2"), message(id="3")])
    await eventually(lambda: len(late) == 2, "both")
    await renewed(lease)
    broker.publish([message(id="4")])
    fourth = await one(lease)
    for content in late:
        taken(content)
    second, third = await several(lease, 2)
    for delivery in (first, third, second, fourth):
        assert await lease.settle([Settlement(delivery=delivery)]) == [True]
    await receive(lease)  # the server has refused none of them
    assert ids([second, third, fourth]) == ["2", "3", "4"]
    assert channels_of(lease) == [1]


async def test_channels_that_change_under_load_cost_no_message(place: Place, cluster: str) -> None:
    broker, order = place.broker(cluster), random.Random(1)
    lease = await lease_on(broker)
    sent = [message() for _ in range(400)]
    found: list[str] = []
    holding = []
    for start in range(0, len(sent), 20):
        broker.publish(sent[start : start + 20])
        await lease.renew()
        holding += await several(lease, 20)
        order.shuffle(holding)
        done, holding = holding[5:], holding[:5]
        assert all(await lease.settle([Settlement(delivery=delivery) for delivery in done]))
        found += ids(done)
    assert all(await lease.settle([Settlement(delivery=delivery) for delivery in holding]))
    found += ids(holding)
    assert sorted(found) == sorted(ids(sent)), "each once"
    assert worker_of(lease)._work.number > 2
    await lease.end()
    assert await receive(await lease_on(broker)) == []


async def test_a_worker_of_one_node_keeps_its_channel(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "FRESH_SECONDS", 0.0)
    lease = await lease_on(place.broker())
    await lease.renew()
    await receive(lease)
    assert channels_of(lease) == [0]
    assert worker_of(lease)._tasks == set()


def test_a_reply_that_was_lost_on_its_way_comes_again(place: Place, cluster: str) -> None:
    backend = RpcBackend(place.server(cluster), Clock())
    outcome, lost = success(message()), list[Content]()
    outcome.reply_to = backend.reply_to
    channel, _ = backend._consumer
    lose_one(channel, lost)
    asyncio.run(backend.store([outcome]))
    wait_for(lambda: bool(lost), "the reply")
    backend.server.thread().run(backend.renew(channel.connection, outcome.reply_to))
    assert backend.fetch([outcome.id], wait=LONG) == {outcome.id: outcome}
    backend.close()


def test_a_caller_of_a_cluster_changes_its_channel(
    place: Place, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "FRESH_SECONDS", 0.01)
    backend = RpcBackend(place.server(cluster), Clock())
    backend.listen()
    first, _ = backend._consumer
    wait_for(lambda: backend._consumer[0] is not first, "another channel")
    wait_for(lambda: first.failed is not None, "the end of the first")
    outcome = success(message())
    outcome.reply_to = backend.reply_to
    asyncio.run(backend.store([outcome]))
    assert backend.fetch([outcome.id], wait=LONG) == {outcome.id: outcome}
    backend.close()


def test_tags_are_parted_by_their_channels() -> None:
    tags = [1, 5, SPAN + 1, 3 * SPAN + 2, 3 * SPAN + 9]
    assert list(parted(tags)) == [(0, [1, 5]), (1, [SPAN + 1]), (3, [3 * SPAN + 2, 3 * SPAN + 9])]
    assert list(parted([])) == []

