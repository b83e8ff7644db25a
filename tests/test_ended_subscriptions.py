"""What a server ends alone, while the connection stands: a worker has it again, and says so in its log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from celeriac.backends.amqp import RpcBackend
from celeriac.backends.amqp10 import Amqp10RpcBackend
from celeriac.backends.reply_subscriptions import SubscribingBackend
from celeriac.backends.stomp import StompReplyBackend
from celeriac.brokers.amqp import AmqpBroker
from celeriac.brokers.amqp10 import Amqp10Broker
from celeriac.brokers.queue_server.background_jobs import BackgroundJobs
from celeriac.brokers.queue_server.broker import QueueServerBroker
from celeriac.brokers.queue_server.lease import QueueServerLease
from celeriac.brokers.stomp import StompBroker
from celeriac.drivers.amqp.server import Server as AmqpServer
from celeriac.drivers.amqp10.server import Server as Amqp10Server
from celeriac.drivers.stomp.server import Server as StompServer
from celeriac.errors import BrokerUnavailable, LeaseLost
from celeriac.model.clock import Clock
from celeriac.ports.broker import Delivery, Settlement
from celeriac.ports.operations import WorkerInfo
from tests.amqp10_server import Double
from tests.conformance.broker import LONG, ids, message, one, receive, success
from tests.patience import PATIENCE, eventually
from tests.proxies import Cutting
from tests.rabbitmq_server import Place

AGAIN = "The worker subscribes again"


@pytest.fixture
def here(amqp10_double: Double) -> Iterator[Amqp10Broker]:
    """A broker on the double."""
    server = Amqp10Server(amqp10_double.url, timeout=PATIENCE)
    yield Amqp10Broker(server, Clock())
    server.close()


async def lease_on(broker: QueueServerBroker) -> QueueServerLease:
    lease = await broker.lease(WorkerInfo(name="w"), 15.0, 3)
    assert isinstance(lease, QueueServerLease)
    return lease


async def waiting(lease: QueueServerLease) -> asyncio.Task[list[str]]:
    """Return a receive that waits, and whose consumers the server has confirmed."""

    async def received() -> list[str]:
        return ids(await receive(lease, wait=LONG))

    task = asyncio.create_task(received())
    await eventually(lambda: task.done() or any(consumer.tag for consumer in lease._consumers), "a consumer")
    for consumer in list(lease._consumers):
        await consumer.begun()
    return task


async def running(broker: Amqp10Broker) -> tuple[QueueServerLease, Delivery]:
    """Return a lease, and the message "m" that it has received."""
    await broker.apublish([message(id="m")])
    lease = await lease_on(broker)
    return lease, await one(lease)


async def control(double: Double, command: str) -> None:
    await asyncio.to_thread(double.control, command)


@pytest.mark.parametrize("what", ["detach", "end"])
async def test_a_channel_whose_link_the_server_ends_is_followed_again(
    amqp10_double: Double, here: Amqp10Broker, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """What was sent meanwhile is read, and the worker keeps its lease."""
    lease, held = await running(here)
    for times, queue in enumerate(("q", "r"), 1):
        await control(amqp10_double, f"{what} celeriac.channels.journal")
        await here.operations().pause(queue)
        await eventually(lambda queue=queue: queue in lease.journal.paused, "the worker hears of a pause")
        await eventually(lambda times=times: caplog.text.count(AGAIN) == times, "the log")
    assert "channel 'journal': told to" in caplog.text
    assert await lease.settle([Settlement(delivery=held)]) == [True]
    await lease.end()


async def test_a_lease_is_lost_when_a_channel_cannot_be_followed_again_for_a_reason_that_nobody_expects(
    amqp10_double: Double, here: Amqp10Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the worker would never hear of a pause again."""
    lease = await lease_on(here)

    async def read_again() -> None:
        raise ValueError("A fault.")

    monkeypatch.setattr(lease.connection, "read_again", read_again)
    await control(amqp10_double, "detach celeriac.channels.journal")
    await eventually(lambda: lease._lost, "the end of the lease")
    assert "ValueError: A fault." in caplog.text
    with pytest.raises(LeaseLost):
        await receive(lease)


@pytest.mark.parametrize("what", ["detach", "delete"])
async def test_a_queue_whose_link_the_server_ends_is_consumed_from_again(
    amqp10_double: Double, here: Amqp10Broker, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    lease = await lease_on(here)
    for number in range(3):  # each time a little later
        got = await waiting(lease)
        await control(amqp10_double, f"{what} default")
        await eventually(lambda number=number: caplog.text.count("has ended the consumer") == number + 1, "the log")
        await here.apublish([message(id=str(number))])
        async with asyncio.timeout(PATIENCE):
            assert await got == [str(number)]
        await lease.settle([Settlement(delivery=held.delivery) for held in lease._unacked.all()])
    assert lease._lost is None
    await lease.end()


async def test_a_running_task_whose_queue_is_deleted_goes_on(amqp10_double: Double, here: Amqp10Broker) -> None:
    lease, held = await running(here)
    await control(amqp10_double, "delete default")
    assert await receive(lease) == []
    assert await lease.settle([Settlement(delivery=held)]) == [True]
    await lease.end()


@pytest.mark.parametrize("what", ["detach", "end"])
async def test_a_lease_is_lost_when_the_server_takes_back_what_the_worker_runs(
    amqp10_double: Double, here: Amqp10Broker, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    lease, held = await running(here)
    await control(amqp10_double, f"{what} default")
    with pytest.raises(LeaseLost):
        await receive(lease, wait=PATIENCE)
    assert await lease.settle([Settlement(delivery=held)]) == [False]
    assert "The worker's connection has ended" in caplog.text
    assert f"told to {what}" in caplog.text
    again = await lease_on(here)
    assert ids([await one(again)]) == ["m"]
    await again.end()


async def test_a_lease_is_lost_when_the_server_ends_the_session_of_a_worker_that_consumes_nothing(
    amqp10_double: Double, here: Amqp10Broker
) -> None:
    lease = await lease_on(here)
    await control(amqp10_double, "end celeriac.workers.left")
    await eventually(lambda: lease._lost, "the end of the lease")
    with pytest.raises(LeaseLost):
        await receive(lease)


@pytest.mark.parametrize("protocol", ["amqp", "amqp10", "stomp"])
async def test_on_rabbitmq_a_worker_consumes_from_a_deleted_queue_again(
    place: Place, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    """By STOMP and by AMQP 1.0, its server ends the connection as well: the worker takes a new lease."""
    broker = on_rabbitmq(place, protocol)
    lease = await lease_on(broker)
    got = await waiting(lease)
    # By STOMP, the subscription makes the queue, and the server does not say when.
    path = f"/api/queues/{quote(place.vhost)}/default"
    await eventually(lambda: place.rabbit.ask("DELETE", path) is not None, "a queue to delete")
    await eventually(lambda: "has ended" in caplog.text, "the log")
    if protocol != "amqp":
        with pytest.raises(LeaseLost):
            await got
        lease = await lease_on(broker)
        got = await waiting(lease)
    await asyncio.to_thread(on_rabbitmq(place, protocol).publish, [message(id="m")])
    async with asyncio.timeout(PATIENCE):
        assert await got == ["m"]
    await lease.end()


def on_rabbitmq(place: Place, protocol: str) -> QueueServerBroker:
    if protocol == "amqp":
        return place.broker()
    if protocol == "amqp10":
        return broker_on(place.rabbit.url(place.vhost).replace("amqp://", "amqp10://"))
    return broker_on(place.rabbit.stomp_url(place.vhost))


def broker_on(url: str) -> QueueServerBroker:
    if url.startswith("amqp://"):
        return AmqpBroker(AmqpServer(url, timeout=PATIENCE), Clock())
    if url.startswith("amqp10://"):
        return Amqp10Broker(Amqp10Server(url, timeout=PATIENCE), Clock())
    return StompBroker(StompServer(url, timeout=PATIENCE), Clock())


def port_of(place: Place, protocol: str) -> int:
    return int(place.rabbit.stomp.rpartition(":")[2]) if protocol == "stomp" else place.rabbit.port


def url_through(proxy: Cutting, place: Place, protocol: str) -> str:
    return f"{protocol}://guest:guest@127.0.0.1:{proxy.port}/{quote(place.vhost)}"


def replies_through(proxy: Cutting, place: Place, protocol: str) -> SubscribingBackend[Any, Any]:
    url = url_through(proxy, place, protocol)
    if protocol == "amqp":
        return RpcBackend(AmqpServer(url, timeout=PATIENCE), Clock())
    if protocol == "amqp10":
        return Amqp10RpcBackend(Amqp10Server(url, timeout=PATIENCE), Clock())
    return StompReplyBackend(StompServer(url, timeout=PATIENCE), Clock())


async def test_a_worker_is_counted_again_when_the_queue_of_its_presence_was_deleted(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    broker = place.broker()
    lease = await lease_on(broker)
    assert place.rabbit.ask("DELETE", f"/api/queues/{quote(place.vhost)}/celeriac.workers") is not None
    await eventually(lambda: AGAIN in caplog.text, "the log")
    async with asyncio.timeout(PATIENCE):
        while [worker.name for worker in await broker.operations().workers()] != ["w"]:
            await asyncio.sleep(0.01)  # between two looks
    await lease.end()


# --- A connection that is lost while something begins -------------------------------------------------


@pytest.mark.parametrize("protocol", ["amqp", "amqp10", "stomp"])
def test_a_caller_that_begins_to_wait_is_not_told_of_a_connection_that_is_lost_meanwhile(
    place: Place, protocol: str
) -> None:
    """The first subscription to its replies is tried as often as any request."""
    outcome = success(message())
    for times in (2, 3):
        proxy = Cutting(port_of(place, protocol), b".reply.", times)
        backend = replies_through(proxy, place, protocol)
        if times == 2:
            outcome.reply_to = backend.reply_to
            asyncio.run(backend.store([outcome]))
            assert backend.fetch([outcome.id], wait=LONG) == {outcome.id: outcome}
        else:
            with pytest.raises(BrokerUnavailable, match="cannot be reached"):
                backend.fetch([outcome.id], wait=LONG)
        assert proxy.left == 0
        backend.close()
        proxy.close()


@pytest.mark.parametrize(("protocol", "word"), [("amqp", b"PLAIN"), ("amqp10", b"PLAIN"), ("stomp", b"CONNECT")])
def test_a_caller_is_not_told_that_the_server_hung_up_on_its_login(place: Place, protocol: str, word: bytes) -> None:
    for times in (2, 3):
        proxy = Cutting(port_of(place, protocol), word, times)
        broker = broker_on(url_through(proxy, place, protocol))
        if times == 2:
            broker.publish([message()])
        else:
            with pytest.raises(BrokerUnavailable, match="closed the connection"):
                broker.publish([message()])
        assert proxy.left == 0
        broker.close()
        proxy.close()


async def test_a_listener_is_not_told_of_a_connection_that_is_lost_while_it_begins(place: Place) -> None:
    proxy = Cutting(place.rabbit.port, b"news", 1)
    broker = place.broker(f"amqp://guest:guest@127.0.0.1:{proxy.port}/{quote(place.vhost)}")
    heard = await broker.listen("news")
    await broker.broadcast("news", [b"1"])
    async with asyncio.timeout(PATIENCE):
        assert await anext(heard) == b"1"
    assert proxy.left == 0
    await heard.aclose()
    broker.close()
    proxy.close()


async def test_a_job_with_an_error_that_nobody_expects_is_told_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []
    jobs = BackgroundJobs(lambda: True, lambda: ended.append("lease"), lambda: ended.append("job"))

    async def job() -> None:
        raise ZeroDivisionError

    jobs.start(job)
    await jobs.finished(PATIENCE)
    await eventually(lambda: ended == ["job"])
    assert "the worker holds them until its lease ends" in caplog.text
