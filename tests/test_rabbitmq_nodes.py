"""What Celeriac does where RabbitMQ is a cluster, tested on one node: several hosts, a journal that is read in turn.

`tests/promises/test_rabbitmq_cluster.py` has a cluster whose nodes are killed and frozen.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from functools import partial
from urllib.parse import quote

import pytest

from celeriac.brokers.amqp import AmqpBroker
from celeriac.brokers.amqp.connections import AmqpInspection
from celeriac.brokers.amqp.topology import AmqpTopology
from celeriac.brokers.queue_server.journal import CHANNEL
from celeriac.brokers.queue_server.marked_reading import MARK
from celeriac.drivers.amqp.frames import Publication, properties
from celeriac.drivers.hosts import Hosts
from celeriac.model.clock import Clock
from tests.conformance.broker import ids, message, receive
from tests.patience import PATIENCE, in_time
from tests.proxies import Listening, Proxy
from tests.rabbitmq_server import Place, entries_of
from tests.test_rabbitmq import lease_on

SILENCE = 1.0  # seconds


@pytest.fixture
def proxy(place: Place) -> Iterator[Proxy]:
    made = Proxy(place.rabbit.port)
    yield made
    made.close()


class Mute(Listening):
    """A node that accepts connections and says nothing, as a frozen one does for a while."""

    def __init__(self) -> None:
        self._taken: list[socket.socket] = []
        super().__init__()

    def take(self, one: socket.socket) -> None:
        self._taken.append(one)

    def close(self) -> None:
        super().close()
        for one in self._taken:
            one.close()


def two_hosts(place: Place, first: int) -> str:
    hosts = f"127.0.0.1:{first},127.0.0.1:{place.rabbit.port}"
    return f"amqp://guest:guest@{hosts}/{quote(place.vhost, safe='')}"


# --- Hosts --------------------------------------------------------------------------------------------


def test_a_host_that_has_failed_is_tried_last() -> None:
    hosts = Hosts([("a", 1), ("b", 2), ("c", 3)])
    first = hosts.in_turn()[0]
    hosts.failed(first)
    assert hosts.in_turn()[-1] == first
    assert sorted(hosts.in_turn()) == [("a", 1), ("b", 2), ("c", 3)]


def test_processes_begin_with_different_hosts() -> None:
    names = [("a", 1), ("b", 2), ("c", 3)]
    assert {Hosts(names).in_turn()[0] for _ in range(200)} == set(names)


async def test_several_hosts_are_a_cluster_and_get_quorum_queues(place: Place) -> None:
    server = place.server(two_hosts(place, place.rabbit.port))
    await server.learn()
    assert server.quorum
    alone = place.server()
    await alone.learn()
    assert not alone.quorum, "RabbitMQ 3.10 on one host"


@pytest.mark.parametrize("blocking", [True, False])
async def test_a_node_that_does_not_shake_hands_is_left_for_another(place: Place, blocking: bool) -> None:
    mute = Mute()
    server = place.server(two_hosts(place, mute.port), timeout=2 * SILENCE)
    server.hosts.failed(("127.0.0.1", place.rabbit.port))  # so that the mute one comes first
    if blocking:
        (await asyncio.to_thread(server.connect_blocking, 2 * SILENCE)).close()
    else:
        await server.learn()
    assert server.hosts.in_turn()[0] == ("127.0.0.1", place.rabbit.port), "the next call begins with this one"
    mute.close()


@pytest.mark.parametrize("blocking", [True, False])
async def test_a_request_that_a_node_leaves_unanswered_goes_to_another(
    place: Place, proxy: Proxy, blocking: bool
) -> None:
    server = place.server(two_hosts(place, proxy.port), timeout=PATIENCE)
    server._silence = SILENCE
    server.hosts.failed(("127.0.0.1", place.rabbit.port))
    broker = AmqpBroker(server, Clock())
    publish = partial(asyncio.to_thread, broker.publish) if blocking else broker.apublish
    await publish([message(id="before")])
    proxy.swallow()
    begun = time.monotonic()
    await publish([message(id="after")])
    assert in_time(time.monotonic() - begun, 3 * SILENCE)
    assert server.hosts.in_turn()[0] == ("127.0.0.1", place.rabbit.port)
    lease = await lease_on(place.broker(queue_type="quorum"))
    assert set(ids(await receive(lease))) == {"before", "after"}


# --- The journal --------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_each_of_many_readers_reads_the_whole_journal(place: Place, queue_type: str) -> None:
    broker = place.broker(queue_type=queue_type)
    await broker.transport.learn()
    names = [f"q{number}" for number in range(30)]
    for name in names:
        await broker.operations().pause(name)

    async def read() -> list[bytes]:
        async with broker.transport.inspecting() as inspection:
            return await entries_of(inspection)

    found = await asyncio.gather(*(read() for _ in range(8)))
    assert len(found[0]) == len(set(found[0])) == len(names)
    assert all(entries == found[0] for entries in found), "others, or in another order"
    assert await read() == found[0]


async def test_a_reader_that_dies_hands_the_journal_to_the_next_one(place: Place) -> None:
    broker = place.broker(queue_type="quorum")
    await broker.operations().pause("default")
    async with broker.transport.inspecting() as dying, broker.transport.inspecting() as waiting:
        assert isinstance(dying, AmqpInspection)
        reads: list[asyncio.Task[list[bytes]]] = []

        def die(bodies: list[bytes]) -> list[bool]:
            reads.append(asyncio.get_running_loop().create_task(entries_of(waiting)))
            dying._connection.abandon()
            return [False] * len(bodies)

        with suppress(OSError):
            await dying.read_journal(CHANNEL, die)
        assert len(await reads[0]) == 1


async def test_the_mark_of_a_reader_that_has_died_is_removed_when_nobody_can_wait_for_it(place: Place) -> None:
    broker = place.broker(queue_type="quorum")
    await broker.operations().pause("default")
    journal = AmqpTopology.on(broker.server).journal
    now = int(time.time())
    old, waited_for, absurd = (MARK + f"{until} x".encode() for until in (now - 1, now + 1000, now + 10**9))

    def write() -> Generator[list[Publication], None, None]:
        yield [Publication("", journal, properties(), body) for body in (old, waited_for, absurd, MARK)]

    await broker.transport.server.ado(write)
    async with broker.transport.inspecting() as inspection:
        assert len(await entries_of(inspection)) == 1
        while (left := await inspection.size(journal)) != 2:  # the entry, and the mark that is waited for
            assert left < 2, "marks are left"
            await asyncio.sleep(0.01)
