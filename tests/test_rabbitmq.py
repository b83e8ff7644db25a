"""The broker on RabbitMQ: failures, lines, counts, many queues, delays."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

import pytest
from pamqp import commands

from celeriac import Celeriac
from celeriac.backends.amqp import RpcBackend
from celeriac.brokers.amqp import AmqpBroker
from celeriac.brokers.amqp.topology import DIGITS, AmqpTopology
from celeriac.brokers.queue_server.envelope import Envelope
from celeriac.brokers.queue_server.journal import LOOKED_SECONDS
from celeriac.brokers.queue_server.lease import QueueServerLease
from celeriac.brokers.queue_server.operations import QueueServerOperations
from celeriac.brokers.queue_server.topology import Line
from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.error_translation import ChannelClosed
from celeriac.drivers.amqp.frames import DELIVER, Content, Publication, properties
from celeriac.drivers.amqp.opening import Facts
from celeriac.drivers.amqp.server import Server
from celeriac.errors import BrokerError, BrokerMisconfigured, BrokerUnavailable, ImproperlyConfigured, LeaseLost
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC
from celeriac.model.message import COROUTINE, PLAIN
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import MISSED, Action, Broker, Delivery, Settlement
from celeriac.ports.operations import WorkerInfo
from tests.clock import FakeClock
from tests.conformance.broker import LONG, PROMPTLY, ids, message, one, receive, success
from tests.patience import PATIENCE, eventually, in_time
from tests.ports import free_port
from tests.rabbitmq_server import Place, die, entries_of

TIMEOUT = 3.0  # seconds; of calls to a server that does not answer


async def lease_on(broker: Broker, seconds: float = 15.0) -> QueueServerLease:
    lease = await broker.lease(WorkerInfo(name="w"), seconds, 3)
    assert isinstance(lease, QueueServerLease)
    return lease


async def lease_that_lasts(broker: Broker) -> QueueServerLease:
    """Return a lease that is short, and yet not lost while a machine is busy."""
    for seconds in (2.0, 8.0, 32.0):
        lease = await lease_on(broker, seconds)
        with suppress(LeaseLost):
            assert await receive(lease) == []
            return lease
    pytest.fail("the lease was lost each time")


@contextmanager
def hurried(broker: AmqpBroker, timeout: float = TIMEOUT) -> Iterator[None]:
    """Wait no longer than so many seconds for a server."""
    usual = broker.server.timeout
    broker.server.timeout = broker.transport.timeout = timeout
    try:
        yield
    finally:
        broker.server.timeout = broker.transport.timeout = usual


async def refused(broker: AmqpBroker, send: Callable[[], Awaitable[None]]) -> None:
    """Send to a server that accepts no messages: the error says so.

    On a busy machine a time-out may pass before the server has said so.
    """
    for timeout in (TIMEOUT, 3 * TIMEOUT, 10 * TIMEOUT):
        with (
            hurried(broker, timeout),
            pytest.raises(BrokerUnavailable, match=r"accepts no messages at present|did not answer") as error,
        ):
            await send()
        if "accepts no messages" in str(error.value):
            return
    pytest.fail(f"the server does not say that it accepts no messages: {error.value}")


async def consuming(lease: QueueServerLease) -> None:
    """Wait until the server has confirmed the lease's consumers."""
    await eventually(lambda: any(consumer.tag for consumer in lease._consumers), "a consumer")
    async with asyncio.timeout(PROMPTLY):
        for consumer in list(lease._consumers):
            await consumer.begun()


# --- Connecting, names --------------------------------------------------------------------------------


def test_a_wrong_password_is_reported(place: Place) -> None:
    with pytest.raises(BrokerMisconfigured, match="refuses the user 'guest': wrong name or password"):
        place.broker(place.rabbit.url(place.vhost, "guest:wrong")).publish([message()])


def test_a_missing_vhost_is_reported_with_the_command_that_creates_it(place: Place) -> None:
    with pytest.raises(BrokerMisconfigured, match="rabbitmqctl add_vhost 'nowhere'"):
        place.broker(place.rabbit.url("nowhere")).publish([message()])


async def test_a_worker_does_not_retry_with_a_wrong_password(place: Place) -> None:
    with pytest.raises(BrokerMisconfigured):
        await lease_on(place.broker(place.rabbit.url(place.vhost, "guest:wrong")))


def test_an_unreachable_server_is_reported_at_once(place: Place) -> None:
    port = free_port()
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        place.broker(f"amqp://127.0.0.1:{port}").publish([message()])
    assert in_time(time.monotonic() - started, 1)


def test_a_server_that_does_not_answer_is_reported_within_the_time_out(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        broker = place.broker(f"amqp://127.0.0.1:{mute.getsockname()[1]}", timeout=0.3)
        started = time.monotonic()
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match=r"did not answer within 0\.3 s"):
                broker.publish([message()])
        assert in_time(time.monotonic() - started, 2)


async def test_the_next_host_is_tried_when_one_does_not_answer(place: Place) -> None:
    dead = free_port()
    broker = place.broker(f"amqp://guest:guest@127.0.0.1:{dead},127.0.0.1:{place.rabbit.port}/{quote(place.vhost)}")
    broker.publish([message()])
    await broker.apublish([message()])
    assert len(await receive(await lease_on(broker))) == 2


@pytest.mark.parametrize(
    ("url", "hosts", "vhost", "username"),
    [
        ("amqp://", (("localhost", 5672),), "/", "guest"),
        ("amqps://u:p%40@h/", (("h", 5671),), "/", "u"),
        ("amqp://a,[::1]:5,b:6/x%2Fy", (("a", 5672), ("::1", 5), ("b", 6)), "x/y", "guest"),
    ],
)
def test_urls_are_read(url: str, hosts: Any, vhost: str, username: str) -> None:
    address = Address.of(url)
    assert (address.hosts, address.vhost, address.username) == (hosts, vhost, username)


@pytest.mark.parametrize("url", ["amqp://h:port", "amqp://h?speed=1"])
def test_urls_that_cannot_be_read_are_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="AMQP URL"):
        Address.of(url)


@pytest.mark.parametrize("url", ["amqp://db:abc/x", "amqp://[::1]:abc/x"])
def test_a_port_that_is_not_a_number_is_named(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="port 'abc' is not a number"):
        Address.of(url)


def test_an_unreachable_server_is_named_with_the_command_that_pings_it() -> None:
    told = str(Server("amqp://db:7,other/x").unavailable(OSError("refused"), 1.0))
    assert "On db: `rabbitmq-diagnostics ping`" in told


def test_unreadable_certificates_are_named() -> None:
    address = Address.of("amqps://localhost?ssl_ca_certs=/nowhere/ca.pem")
    with pytest.raises(ImproperlyConfigured, match=r"the AMQP URL names .* ssl_ca_certs=/nowhere/ca.pem"):
        address.tls_context()


async def test_a_declaration_that_is_cancelled_does_not_pass_its_error_to_the_next_caller(place: Place) -> None:
    broker = place.broker()
    await broker.apublish([message()])

    def declaring(queue: str) -> Any:
        line = AmqpTopology.on(broker.server).usual(queue, PLAIN)
        return broker.server.ado(lambda: broker.sender.declare([line]))  # refused, then made

    for step in range(12):
        cancelled = asyncio.ensure_future(declaring(f"queue{step}"))
        await asyncio.sleep(step / 2000)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        await declaring(f"other{step}")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ä", "use only ASCII letters"),
        ("a\nb", "use only ASCII letters"),
        ("a*", "use only ASCII letters"),
        ("", "use only ASCII letters"),
        ("x" * 200, "too long by 14 characters"),
        ("." * 70, "too long by 24 characters"),
        ("amq.mine", "belong to the server"),
        ("celeriac.journal", "to Celeriac"),
        ("mail/dead", "dead letters of the queue 'mail'"),
        ("mail/coroutine", "a part of the messages of the queue 'mail'"),
    ],
)
async def test_an_invalid_name_of_a_queue_is_refused(place: Place, name: str, why: str) -> None:
    broker = place.broker()
    refused = pytest.raises(BrokerError, match=why)
    with refused:
        broker.publish([message(name)])
    lease = await lease_on(broker)
    with refused:
        await receive(lease, queues=[name])
    for look in (broker.operations().purge(name), broker.operations().dead(name, 1)):
        with refused:
            await look
    assert await receive(lease) == []  # it stands


@pytest.mark.parametrize("name", ["mail/p9", "mail/coroutine/p0"])
async def test_a_name_of_a_priority_of_a_queue_is_refused_where_it_has_queues_of_its_own(
    place: Place, name: str
) -> None:
    with pytest.raises(BrokerError, match="a part of the messages of the queue 'mail'"):
        place.broker(queue_type="quorum").publish([message(name)])
    place.broker(queue_type="classic").publish([message(name)])


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
@pytest.mark.parametrize("name", ["x" * 186, "a.b#c,d/e:f@g h+i", "q#1"])
async def test_unusual_names_of_queues_work(place: Place, name: str, queue_type: str) -> None:
    broker = place.broker(queue_type=queue_type)
    broker.publish([message(name, lane=lane, priority=9) for lane in (PLAIN, COROUTINE)])
    broker.publish([message(name, due_at=time.time() + 0.2)])
    lease = await lease_on(broker)
    assert len(await broker.operations().peek(name, 10)) >= 2
    got = 0
    async with asyncio.timeout(PROMPTLY):
        while got < 3:
            for delivery in await receive(lease, wait=1.0, queues=[name]):
                got += 1
                await lease.settle([Settlement(delivery=delivery, action=Action.BURY, reason="r")])
    assert len(await broker.operations().dead(name, 10)) == 3


# --- Deleted queues and exchanges ---------------------------------------------------------------------


async def test_publishing_declares_a_deleted_queue_again(place: Place) -> None:
    broker = place.broker()
    broker.publish([message()])
    assert place.rabbit.ask("DELETE", f"/api/queues/{quote(place.vhost)}/default") is not None
    broker.publish([message(id="sync")])
    await broker.apublish([message(id="async"), message("other")])
    assert ids(await receive(await lease_on(broker))) == ["sync", "async"]


async def test_receiving_declares_a_deleted_queue_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    broker = place.broker()
    lease = await lease_on(broker)
    waiting = asyncio.ensure_future(receive(lease, wait=LONG))
    await consuming(lease)
    assert place.rabbit.ask("DELETE", f"/api/queues/{quote(place.vhost)}/default") is not None
    await eventually(lambda: "has ended the consumer default#1" in caplog.text, "the end of the consumer")
    async with asyncio.timeout(PROMPTLY):
        await place.broker().apublish([message(id="x")])
        assert ids(await waiting) == ["x"]


@pytest.mark.parametrize("wait", [0.0, 0.5])
async def test_a_queue_that_was_deleted_without_a_consumer_does_not_end_the_lease(place: Place, wait: float) -> None:
    broker = place.broker()
    broker.publish([message("work"), message("mail")])
    lease = await lease_on(broker)
    assert len(await receive(lease, queues=["mail", "work"])) == 2
    assert await receive(lease, queues=["work"]) == []  # as after `pause`, or `cancel_consumer`
    assert place.rabbit.ask("DELETE", f"/api/queues/{quote(place.vhost)}/mail") is not None
    assert await receive(lease, plain=1, coroutine=0, queues=["mail"], wait=wait) == []
    await lease.renew()
    broker.publish([message("mail")])
    assert len(await receive(lease, queues=["mail"], wait=LONG)) == 1


async def test_deleted_delays_are_declared_again(place: Place) -> None:
    broker = place.broker()
    broker.publish([message(due_at=time.time() + 0.3)])
    assert place.rabbit.ask("DELETE", f"/api/exchanges/{quote(place.vhost)}/celeriac.delay.0") is not None
    broker.publish([message(id="x", due_at=time.time() + 0.2)])
    lease = await lease_on(broker)
    async with asyncio.timeout(PROMPTLY):
        found: list[str] = []
        while "x" not in found:
            found += ids(await receive(lease, wait=LONG))


async def test_messages_that_are_sent_again_because_an_exchange_was_deleted_are_marked(place: Place) -> None:
    broker = place.broker()
    broker.publish([message(id="before", due_at=time.time() + 0.2)])
    assert place.rabbit.ask("DELETE", f"/api/exchanges/{quote(place.vhost)}/celeriac.delay.0") is not None
    broker.publish([message(id="ready"), message(due_at=time.time() + 0.2)])
    lease = await lease_on(broker)
    got = [delivery for delivery in await receive(lease) if delivery.message.id == "ready"]
    assert [delivery.again for delivery in got] in ([True], [False, True])  # it had passed, or not


async def test_revoking_declares_the_deleted_exchange_of_broadcasts_again(place: Place) -> None:
    broker = place.broker()
    broker.publish([message(id="a")])
    await broker.revoke(["b"], time.time() + 100)
    assert place.rabbit.ask("DELETE", f"/api/exchanges/{quote(place.vhost)}/celeriac.channels") is not None
    await broker.revoke(["a"], time.time() + 100)
    broker.publish([message("new")])
    assert [delivery.revoked for delivery in await receive(await lease_on(broker))] == [True]


async def test_an_unreadable_message_becomes_a_dead_letter_and_does_not_stop_a_worker(place: Place) -> None:
    broker = place.broker()
    broker.publish([message()])
    body = {"properties": {}, "routing_key": "default", "payload": "hello", "payload_encoding": "string"}
    assert place.rabbit.ask("POST", f"/api/exchanges/{quote(place.vhost)}/amq.default/publish", body) is not None
    looked = await broker.operations().peek("default", 10)
    assert sorted(one.task for one in looked) == ["(unreadable)", "t"]
    lease = await lease_on(broker)
    assert len(await receive(lease)) == 1
    async with asyncio.timeout(PROMPTLY):
        while not (letters := await broker.operations().dead("default", 10)):
            await receive(lease, wait=0.1)
    assert (letters[0].message.task, letters[0].message.body) == ("(unreadable)", b"hello")


async def test_messages_that_are_being_returned_when_the_lease_ends_are_returned_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = place.broker()
    lease = await lease_on(broker)
    waiting = asyncio.create_task(lease.receive(["default"], {PLAIN: 5}, LONG))
    await consuming(lease)
    waiting.cancel()
    prepare, sending, go = broker.sender.sending, asyncio.Event(), asyncio.Event()

    async def held_up(*parcels: Any) -> Any:
        sending.set()
        await go.wait()
        return await prepare(*parcels)

    monkeypatch.setattr(broker.sender, "sending", held_up)
    await place.broker().apublish([message() for _ in range(2)])
    async with asyncio.timeout(PROMPTLY):
        await sending.wait()  # pushed to the lease, and not received
    ending = asyncio.create_task(lease.end())
    await asyncio.sleep(0.1)  # lets the end begin
    go.set()
    await ending
    (counts,) = await broker.operations().queues()
    assert (counts.ready, counts.active) == (2, 0)


# --- Lines --------------------------------------------------------------------------------------------


def test_a_line_is_written_to_the_journal_before_it_is_declared(place: Place) -> None:
    broker = place.broker(queue_type="quorum")
    broker.publish([message()])
    declaring = broker.sender.declare([Line("default", PLAIN, 9)])
    steps: list[Any] = [next(declaring)]
    steps.append(declaring.throw(ChannelClosed(404, "no queue")))
    with suppress(StopIteration):
        while True:
            steps.append(declaring.send(None))
    written = next(number for number, step in enumerate(steps) if isinstance(step, list))
    made = [step.queue for step in steps[:written] if isinstance(step, commands.Queue.Declare) and not step.passive]
    assert "default/p9" not in made


async def test_a_line_is_served_though_its_process_died_before_it_wrote_the_journal(place: Place) -> None:
    place.broker(queue_type="quorum").publish([message(id="usual")])
    orphan = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
    assert place.rabbit.ask("PUT", f"/api/queues/{quote(place.vhost)}/default%2Fp9", orphan) is not None
    lease = await lease_on(place.broker(queue_type="quorum"))
    assert ids(await receive(lease)) == ["usual"]
    place.broker(queue_type="quorum").publish([message(id="urgent", priority=9)])
    async with asyncio.timeout(PROMPTLY):
        assert ids(await receive(lease, wait=LONG)) == ["urgent"]
    assert ids(await receive(await lease_on(place.broker(queue_type="quorum")))) == []  # the journal has the line


async def test_a_queue_that_an_administrator_declared_is_counted_once_a_worker_has_served_it(place: Place) -> None:
    declared = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
    for name in ("default", "default%2Fcoroutine"):
        assert place.rabbit.ask("PUT", f"/api/queues/{quote(place.vhost)}/{name}", declared) is not None
    lease = await lease_on(place.broker(queue_type="quorum"))
    assert await receive(lease) == []
    await lease.end()
    operations = place.broker(queue_type="quorum").operations()
    place.broker(queue_type="quorum").publish([message(), message()])
    assert [(counts.queue, counts.ready) for counts in await operations.queues()] == [("default", 2)]


async def test_messages_that_a_lease_returns_at_its_end_are_marked_for_they_may_have_been_settled(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = place.broker()
    broker.publish([message(id="m")])
    lease = await lease_on(broker)
    delivery = await one(lease)
    stored = asyncio.Event()

    async def slow(*_: Any) -> None:
        """Answer as a slow server, after the outcome was stored."""
        stored.set()
        await asyncio.sleep(LONG)

    with monkeypatch.context() as patched:
        patched.setattr(broker.sender, "sending", slow)
        again = Settlement(delivery=delivery, action=Action.RETURN, message=message(id="m", attempt=2))
        settling = asyncio.ensure_future(lease.settle([again]))
        await stored.wait()
        settling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await settling
    await lease.end()
    assert (await one(await lease_on(broker))).again


async def test_a_return_that_is_sent_again_because_its_confirm_came_too_late_is_marked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = place.broker()
    broker.publish([message(id="m")])
    lease = await lease_on(broker)
    again = Settlement(delivery=await one(lease), action=Action.RETURN, message=message(id="m", attempt=2))
    send = lease._transport.ado

    async def late(sending: Any, within: float | None = None) -> None:
        await send(sending, within)
        raise BrokerUnavailable("It did not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(lease._transport, "ado", late)
        with pytest.raises(BrokerUnavailable):
            await lease.settle([again])
    assert await lease.settle([again]) == [True]
    first, second = await one(lease), await one(lease)
    assert [(found.message.attempt, found.again) for found in (first, second)] == [(2, False), (2, True)]
    assert await lease.settle([Settlement(delivery=found) for found in (first, second)]) == [True, True]


async def test_losing_the_connection_while_a_lease_ends_is_an_error(place: Place) -> None:
    lease = await lease_on(place.broker())
    waiting = asyncio.ensure_future(receive(lease, wait=LONG, queues=["c", "d"]))
    await consuming(lease)
    waiting.cancel()
    ending = asyncio.ensure_future(lease.end())
    await asyncio.sleep(0)
    lease.connection.abandon()
    with pytest.raises(BrokerUnavailable):
        await ending


# --- Failures of the server ---------------------------------------------------------------------------


async def test_messages_delays_and_outcomes_survive_a_server_that_is_killed(frail: Place) -> None:
    broker = frail.broker()
    backend = RpcBackend(frail.server(), Clock())
    broker.publish([message(id="ready"), message(id="later", due_at=time.time() + 8.0)])
    lease = await lease_on(broker)
    news = await broker.listen("news")
    heard = asyncio.ensure_future(anext(news))
    outcome = Outcome(id="r", task="t", state="SUCCESS", value=b"1", reply_to=backend.reply_to)
    assert ids([await one(lease)]) == ["ready"]
    frail.rabbit.kill()
    with pytest.raises(LeaseLost):
        await receive(lease, wait=LONG)
    with pytest.raises(BrokerUnavailable):
        broker.publish([message()])
    with pytest.raises(BrokerUnavailable):
        await broker.apublish([message()])
    await asyncio.to_thread(frail.rabbit.start)
    got: set[str] = set()
    async with asyncio.timeout(PROMPTLY):
        while len(got) < 2:
            with suppress(LeaseLost, BrokerUnavailable):
                lease = await lease_on(broker)
                while len(got) < 2:
                    got.update(ids(await receive(lease, wait=LONG)))
    assert got == {"later", "ready"}
    await backend.store([outcome])
    assert await backend.afetch(["r"], wait=LONG) == {"r": outcome}
    async with asyncio.timeout(PROMPTLY):
        while not heard.done():
            await broker.broadcast("news", [b"1"])
            await asyncio.wait([heard], timeout=0.1)
        assert heard.result() is MISSED
        await broker.broadcast("news", [b"1"])
        assert await anext(news) == b"1"
    backend.close()


async def test_a_server_that_accepts_no_messages_is_reported(frail: Place) -> None:
    broker = frail.broker()
    broker.publish([message()])
    lease = await lease_on(broker)
    delivery = await one(lease)
    await asyncio.to_thread(frail.rabbit.control, "set_vm_memory_high_watermark", "0.00001")
    try:
        for _ in range(2):
            await refused(broker, lambda: asyncio.to_thread(broker.publish, [message()]))
        await refused(broker, lambda: broker.apublish([message()]))
        # A worker can still say what it has done.
        assert await lease.settle([Settlement(delivery=delivery)]) == [True]
    finally:
        await asyncio.to_thread(frail.rabbit.control, "set_vm_memory_high_watermark", "absolute", "1GB")
    broker.publish([message()])


async def test_a_worker_starts_and_keeps_its_running_tasks_while_the_server_accepts_no_messages(frail: Place) -> None:
    broker, other = frail.broker(), frail.broker()
    broker.publish([message(id=name) for name in ("a", "b", "c")])
    first, standing = await lease_on(broker), await lease_on(other)
    assert ids(await receive(first, 1, 0)) == ["a"]
    running = await one(standing)
    await asyncio.to_thread(frail.rabbit.control, "set_vm_memory_high_watermark", "0.00001")
    try:
        await refused(broker, lambda: asyncio.to_thread(broker.publish, [message()]))
        with hurried(other):
            await die(first)  # its messages are counted, and so sent again
            waiting = asyncio.ensure_future(receive(standing, wait=LONG))
            late = await lease_on(frail.broker())
            assert await frail.broker().operations().purge("other") == 0
            await asyncio.sleep(TIMEOUT + 0.5)  # longer than the time-out
            await standing.renew()
    finally:
        await asyncio.to_thread(frail.rabbit.control, "set_vm_memory_high_watermark", "absolute", "1GB")
    async with asyncio.timeout(PROMPTLY):
        got = await waiting
        while "a" not in ids(got):
            got += await receive(standing, wait=1.0)
    assert [delivery.deliveries for delivery in got if delivery.message.id == "a"] == [2]
    assert await standing.settle([Settlement(delivery=running)]) == [True]
    await late.end()


async def test_a_task_beyond_the_consumer_timeout_ends_the_lease_and_the_log_says_why(
    frail: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(frail.rabbit.control, "eval", "application:set_env(rabbit, consumer_timeout, 3000).")
    broker = frail.broker()
    broker.publish([message()])
    lease = await lease_on(broker)
    await asyncio.to_thread(frail.rabbit.control, "eval", "application:unset_env(rabbit, consumer_timeout).")
    await one(lease)
    async with asyncio.timeout(PROMPTLY):
        with pytest.raises(LeaseLost):
            assert await receive(lease, wait=LONG) == []
    assert "Raise it in rabbitmq.conf: consumer_timeout" in caplog.text


async def test_a_lease_is_lost_when_a_frozen_server_misses_its_heartbeats(frail: Place) -> None:
    lease = await lease_that_lasts(frail.broker())
    frail.rabbit.send(signal.SIGSTOP)
    try:
        async with asyncio.timeout(PROMPTLY):
            with pytest.raises(LeaseLost):
                await receive(lease, wait=LONG)
    finally:
        frail.rabbit.send(signal.SIGCONT)


async def test_subscribing_and_inspecting_fail_in_time_when_the_server_goes_away_or_freezes(
    frail: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = frail.broker()
    await broker.server.learn()
    opened = broker.server.connect_loop

    async def lost(heartbeat: float, name: str) -> Any:
        connection = await opened(heartbeat, name)
        asyncio.get_running_loop().call_soon(connection.abandon)
        return connection

    async def frozen(heartbeat: float, name: str) -> Any:
        connection = await opened(heartbeat, name)
        frail.rabbit.send(signal.SIGSTOP)
        return connection

    ways = ((lost, PATIENCE, "cannot be reached"), (frozen, TIMEOUT, "did not answer within 3 s"))
    for what, timeout, why in ways:
        monkeypatch.setattr(broker.server, "connect_loop", what)
        for work in (broker.listen("news"), broker.operations().purge("default")):
            started = time.monotonic()
            try:
                with hurried(broker, timeout), pytest.raises(BrokerUnavailable, match=why):
                    await asyncio.wait_for(work, PROMPTLY)
            finally:
                frail.rabbit.send(signal.SIGCONT)
            assert in_time(time.monotonic() - started, TIMEOUT + 1)


# --- Counting -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_inspecting_messages_does_not_count_as_a_delivery(place: Place, queue_type: str) -> None:
    broker = place.broker(queue_type=queue_type)
    broker.publish([message(acks_late=False), message()])
    for _ in range(4):
        assert len(await broker.operations().peek("default", 10)) == 2
    lease = await lease_on(broker)
    got = await receive(lease)
    assert [delivery.deliveries for delivery in got] == [1, 1]
    assert await lease.sweep() == []


async def test_inspecting_drops_no_message_though_the_server_limits_deliveries(place: Place) -> None:
    limit = {"pattern": ".*", "definition": {"delivery-limit": 20}, "apply-to": "queues"}
    assert place.rabbit.ask("PUT", f"/api/policies/{quote(place.vhost)}/limit", limit) is not None
    broker = place.broker(queue_type="quorum")
    broker.publish([message(id="dead")])
    lease = await lease_on(broker)
    [delivery] = await receive(lease)
    await lease.settle([Settlement(delivery=delivery, action=Action.BURY, reason="r")])
    await lease.end()
    broker.publish([message(id="a", acks_late=False), message(id="b")])
    operations = broker.operations()
    for _ in range(25):
        assert ids(await operations.peek("default", 10)) == ["a", "b"]
        assert ids(await operations.dead("default", 10)) == ["dead"]
    lease = await lease_on(broker)
    assert [delivery.deliveries for delivery in await receive(lease)] == [1, 1]
    assert await lease.sweep() == []


@pytest.mark.parametrize(("version", "limit"), [("3.13.7", None), ("4.0.2", -1)])
def test_quorum_queues_are_declared_without_a_limit_of_deliveries_where_the_server_has_one_by_default(
    version: str, limit: int | None
) -> None:
    server = Server("amqp://", queue_type="quorum")
    server._know(Facts("RabbitMQ", version))
    line = AmqpTopology.on(server).declare(Line("q", PLAIN, 5))[0]
    assert line.arguments.get("x-delivery-limit") == limit
    assert AmqpTopology.on(server).declare_dead("q").arguments == line.arguments


async def test_losses_are_counted_by_the_actual_type_of_the_queue(place: Place) -> None:
    place.broker(queue_type="classic").publish([message(id="once", acks_late=False), message(id="poison")])
    broker = place.broker(queue_type="quorum")
    lost: list[str] = []
    for deliveries in (1, 2, 3, 4):
        lease = await lease_on(broker)
        got = await receive(lease)
        lost += ids(inherited := await lease.sweep())
        poison = [item.deliveries for item in got if item.message.id == "poison"]
        assert poison == ([deliveries] if deliveries < 4 else [])
        await lease.settle([Settlement(delivery=delivery) for delivery in inherited])
        await lease.connection.sync()  # the server has received its acknowledgements
        await die(lease)
    assert lost == ["once", "poison"]


@pytest.mark.parametrize("written", ["abc", -5, True, 1.5, ["a"], {"a": 1}])
async def test_a_count_of_deliveries_that_a_sender_has_written_ends_no_lease_and_hides_no_loss(
    place: Place, written: Any
) -> None:
    """A classic queue leaves the header as it is."""
    broker = place.broker(queue_type="classic")
    first = await lease_on(broker)
    assert await receive(first) == []  # its lines are declared
    body = Envelope(message(id="m")).pack(PLAIN_CODEC)
    connection = broker.server.connect_blocking(PROMPTLY)
    marks = properties(headers={"x-delivery-count": written})
    assert connection.publish([Publication("", "default", marks, body)], PROMPTLY) == []
    connection.close()
    assert (await one(first)).deliveries == 1
    await die(first)
    second = await lease_on(broker)
    assert (await one(second)).deliveries == 2
    assert second._lost is None


@pytest.mark.parametrize("table", [
    b"\x20\x00\xff\xff\xff", b"\x20\x00", b"", b"\x20\x00\x00\x00\x00\x04\x01aT\xff",
    b"\x20\x00" + b"".join(struct.pack(">I", 7 * left) + b"\x01aF" for left in range(5000, 0, -1)) + bytes(4),
], ids=["long", "none", "empty", "short", "deep"])  # fmt: skip
def test_headers_that_cannot_be_read_tell_no_count_of_deliveries(place: Place, table: bytes) -> None:
    pushed = Content(DELIVER, 1, "default", redelivered=True, properties=table)
    assert place.broker().sender.transport.losses(pushed) is None


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_an_inspected_message_is_lost_with_its_worker_like_any_other(place: Place, queue_type: str) -> None:
    broker = place.broker(queue_type=queue_type)
    broker.publish([message(id="once", acks_late=False)])
    for _ in range(2):
        assert len(await broker.operations().peek("default", 10)) == 1
    lease = await lease_on(broker)
    assert ids(await receive(lease)) == ["once"]
    await lease._jobs.finished()
    assert len(await broker.operations().peek("default", 10)) == 0
    await die(lease)
    lease = await lease_on(broker)
    assert ids(await receive(lease)) == []
    assert ids(await lease.sweep()) == ["once"]


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_the_journal_does_not_grow_by_inspecting(place: Place, queue_type: str) -> None:
    broker = place.broker(queue_type=queue_type)
    lease = await lease_on(broker)
    assert await receive(lease) == []  # its lines are declared
    await lease.end()
    broker.publish([message() for _ in range(5)])

    async def looked() -> tuple[int, int]:
        """Return how many entries the journal has, and how many messages it records as inspected."""
        operations = QueueServerOperations(broker.sender)
        async with operations._inspecting() as (inspection, journal):
            entries = await entries_of(inspection)
            return len(entries), sum(1 for looks in journal.looks.values() if looks)

    before = await looked()
    for _ in range(8):
        await broker.operations().peek("default", 10)
    assert await looked() == (before[0] + 1, 5)
    lease = await lease_on(broker)
    assert all(await lease.settle([Settlement(delivery=delivery) for delivery in await receive(lease)]))
    await lease._jobs.finished()
    assert await looked() == before


async def test_no_worker_remembers_what_was_inspected_once_it_was_received_or_a_week_has_passed(
    place: Place, clock: FakeClock
) -> None:
    broker = AmqpBroker(place.server(), clock)
    other, lease = await lease_on(broker), await lease_on(broker)
    for name in ("left", "received"):
        broker.publish([message(name, id=name)])
        assert len(await broker.operations().peek(name, 10)) == 1
    await eventually(lambda: other.journal.looks == {"left": 1, "received": 1})
    assert ids(await receive(lease, queues=["received"])) == ["received"]
    await eventually(lambda: other.journal.looks == {"left": 1})
    clock.advance(LOOKED_SECONDS + 1)
    broker.publish([message("new", id="new")])
    assert len(await broker.operations().peek("new", 10)) == 1
    await eventually(lambda: other.journal.looks == lease.journal.looks == {"new": 1})
    assert len(lease.journal._looked_until) == 1


async def test_messages_that_a_worker_does_not_receive_go_back_to_others(place: Place) -> None:
    broker = place.broker()
    hoarder, other = await lease_on(broker), await lease_on(broker)
    waiting = asyncio.ensure_future(receive(hoarder, 5, wait=LONG))
    await consuming(hoarder)
    broker.publish([message(id=name) for name in "abc"])
    mine = await waiting  # it leaves what else was pushed to it
    rest: list[str] = []
    async with asyncio.timeout(PROMPTLY):
        while len(mine) + len(rest) < 3:
            found = await receive(other, wait=1.0)
            assert all(delivery.deliveries == 1 for delivery in found)
            rest += ids(found)
    assert sorted([*ids(mine), *rest]) == ["a", "b", "c"]


async def test_a_window_of_one_leaves_all_others_in_the_broker(place: Place) -> None:
    broker = place.broker()
    broker.publish([message() for _ in range(5)])
    first, second = await lease_on(broker), await lease_on(broker)
    [held] = await receive(first, 1, 0)
    assert len(await receive(second)) == 4
    assert await first.settle([Settlement(delivery=held)]) == [True]


async def test_counts_of_another_worker_are_those_it_holds(place: Place) -> None:
    broker = place.broker()
    broker.publish([message(), message("b"), message("b", lane=COROUTINE)])
    lease = await lease_on(broker)
    await receive(lease, queues=["b"])
    found = {counts.queue: (counts.ready, counts.active) for counts in await place.broker().operations().queues()}
    assert found == {"default": (1, 0), "b": (0, 2)}


# --- Many queues --------------------------------------------------------------------------------------

MANY = [f"q{number}" for number in range(40)]  # more than are handled together


async def one_of_many(lease: QueueServerLease) -> Delivery:
    [delivery] = await receive(lease, 1, 0, wait=LONG, queues=MANY)
    return delivery


def counts_of(lease: QueueServerLease, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by how many queues the lease counts at a time."""
    counted: list[int] = []
    count = lease.connection.count

    async def counting(addresses: Sequence[str]) -> list[int]:
        counted.append(len(addresses))
        return await count(addresses)

    monkeypatch.setattr(lease.connection, "count", counting)
    return counted


async def test_a_receive_from_many_queues_counts_only_those_that_have_changed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = place.broker()
    lease = await lease_on(broker)
    assert await receive(lease, 2, wait=0.1, queues=MANY) == []
    counted = counts_of(lease, monkeypatch)
    for queue in random.sample(MANY, 10):
        await broker.apublish([message(queue)])
        delivery = await one_of_many(lease)
        assert delivery.message.queue == queue
        assert await lease.settle([Settlement(delivery=delivery)]) == [True]
    assert max(counted, default=0) <= 1


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_many_busy_queues_are_served_in_turn(place: Place, queue_type: str) -> None:
    broker = place.broker(queue_type=queue_type)
    broker.publish([message(queue) for queue in MANY for _ in range(9)])
    lease = await lease_on(broker)
    served: Counter[str] = Counter()
    for _ in range(3 * len(MANY)):
        delivery = await one_of_many(lease)
        served[delivery.message.queue] += 1
        assert await lease.settle([Settlement(delivery=delivery)]) == [True]
    print(sorted(served.values()))
    assert set(served) == set(MANY)


async def test_a_busy_queue_among_many_does_not_starve_another(place: Place) -> None:
    broker = place.broker()
    broker.publish([message("q0") for _ in range(100)])
    lease = await lease_on(broker)
    for number in range(20):
        if number == 5:
            await broker.apublish([message("q30", id="other")])
        delivery = await one_of_many(lease)
        assert await lease.settle([Settlement(delivery=delivery)]) == [True]
        if delivery.message.id == "other":
            return
    pytest.fail("the other queue was not served")


async def test_a_message_that_must_not_run_again_does_not_hold_up_its_queue(place: Place) -> None:
    broker = place.broker()
    broker.publish([message(id="once", acks_late=False), message(id="next")])
    lease = await lease_on(broker)
    queues = ["default", "other"]
    assert ids(await receive(lease, 1, 0, wait=LONG, queues=queues)) == ["once"]
    await die(lease)
    lease = await lease_on(broker)
    async with asyncio.timeout(PROMPTLY):
        assert ids(await receive(lease, 1, 0, wait=LONG, queues=queues)) == ["next"]
    assert ids(await lease.sweep()) == ["once"]


async def test_among_many_queues_higher_priorities_come_first(place: Place) -> None:
    broker = place.broker(queue_type="quorum")
    broker.publish([message(queue) for queue in MANY[:3]])
    lease = await lease_on(broker)
    assert len(await receive(lease, 10, wait=LONG, queues=MANY)) >= 1
    broker.publish([message("q0", priority=priority) for priority in (1, 5, 9) for _ in range(3)])
    got: list[int] = []
    async with asyncio.timeout(LONG):
        while len(got) < 8:
            for delivery in await receive(lease, 1, 0, wait=1.0, queues=MANY):
                if delivery.message.queue == "q0":
                    got.append(delivery.message.priority)
                assert await lease.settle([Settlement(delivery=delivery)]) == [True]
    assert got.index(9) <= 2


async def test_messages_that_many_idle_queues_push_to_a_busy_worker_go_back_to_others(place: Place) -> None:
    broker = place.broker()
    broker.publish([message("q0"), message("q0")])
    busy, other = await lease_on(broker), await lease_on(place.broker())
    held = await one_of_many(busy)
    await broker.apublish([message(queue) for queue in MANY[1:]])
    found: set[str] = set()
    async with asyncio.timeout(LONG):
        while len(found) < len(MANY):
            got = await receive(other, 100, wait=1.0, queues=MANY)
            found.update(delivery.message.queue for delivery in got)
            assert all(await other.settle([Settlement(delivery=delivery) for delivery in got]))
    assert await busy.settle([Settlement(delivery=held)]) == [True]


# --- Delays -------------------------------------------------------------------------------------------


def test_the_routing_key_of_a_delay_spells_its_binary_digits() -> None:
    topology = AmqpTopology("p", quorum=True)
    exchange, key = topology.delayed(1.5, Line("a.b*", PLAIN, 5))
    assert exchange == "p.delay.1"
    assert key.split(".") == [*"011", *"0" * (DIGITS - 3), "a%2Eb%2A"]
    assert topology.delayed(1e12, Line("q", PLAIN, 5))[1].startswith("1." * DIGITS)


def test_delays_need_as_many_queues_as_digits_however_many_there_are(place: Place) -> None:
    broker = place.broker()
    now = time.time()
    broker.publish([message(due_at=now + 1000 + 7.77 * i) for i in range(2000)])
    names = [queue["name"] for queue in place.rabbit.ask("GET", f"/api/queues/{quote(place.vhost)}?columns=name")]
    assert len([name for name in names if name.startswith("celeriac.delay.")]) == DIGITS


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_delayed_messages_come_when_they_are_due_and_none_waits_behind_another(
    place: Place, queue_type: str
) -> None:
    broker = place.broker(queue_type=queue_type)
    broker.publish([message(due_at=time.time() + 0.1)])  # declares the cascade
    now = time.time()
    due = {f"{i}": now + 0.5 + (i * 37 % 400) / 100 for i in range(400)}
    broker.publish([message(id=id, due_at=at) for id, at in due.items()])
    lease = await lease_on(broker)
    late: list[float] = []
    async with asyncio.timeout(PROMPTLY):
        while len(late) < len(due):
            got = await receive(lease, 100, wait=LONG)
            late += [time.time() - due[item.message.id] for item in got if item.message.id in due]
            assert all(await lease.settle([Settlement(delivery=delivery) for delivery in got]))
    late.sort()
    print(f"late: median {late[200]:.3f}, p99 {late[396]:.3f}, at most {late[-1]:.3f}; at least {late[0]:.3f}")
    assert late[0] > -0.5
    assert in_time(late[396], 1.0)


async def test_a_returned_message_waits_for_its_time(place: Place) -> None:
    broker = place.broker()
    broker.publish([message()])
    lease = await lease_on(broker)
    delivery = await one(lease)
    again = message(id=delivery.message.id, due_at=time.time() + 3.0, attempt=2)
    assert await lease.settle([Settlement(delivery=delivery, action=Action.RETURN, message=again)]) == [True]
    assert await receive(lease) == []
    assert [item.message.attempt for item in await receive(lease, wait=LONG)] == [2]


# --- Replies ------------------------------------------------------------------------------------------


def test_replies_arrive_after_connections_were_cut(place: Place) -> None:
    backend = RpcBackend(place.server(), Clock())
    outcome = success(message())
    outcome.reply_to = backend.reply_to
    place.rabbit.cut_connections()
    asyncio.run(backend.store([outcome]))
    assert backend.fetch([outcome.id], wait=LONG) == {outcome.id: outcome}
    backend.close()


def test_replies_that_arrive_while_nobody_reads_are_read_later(place: Place) -> None:
    backend = RpcBackend(place.server(), Clock())
    outcome = success(message())
    outcome.reply_to = backend.reply_to
    backend.close()
    asyncio.run(backend.store([outcome]))
    assert backend.fetch([outcome.id], wait=LONG) == {outcome.id: outcome}
    backend.close()


def test_an_outcome_for_a_caller_that_has_gone_is_dropped(place: Place) -> None:
    backend = RpcBackend(place.server(), Clock())
    outcome = success(message())
    outcome.reply_to = "celeriac.reply.nobody"
    assert asyncio.run(backend.store([outcome])) == [True]


def test_a_forked_child_has_its_own_reply_queue(place: Place) -> None:
    backend = RpcBackend(place.server(), Clock())
    mine = backend.reply_to
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            outcome = success(message())
            outcome.reply_to = theirs = backend.reply_to
            asyncio.run(backend.store([outcome]))
            heard = backend.fetch([outcome.id], wait=LONG) == {outcome.id: outcome}
            os.write(writing, b"ok" if heard and theirs != mine else b"no")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 2) == b"ok"
    os.close(reading)
    os.close(writing)
    backend.close()


def test_rpc_wants_an_amqp_broker(make_app: Callable[..., Celeriac]) -> None:
    with pytest.raises(ImproperlyConfigured, match="rpc:// sends results through an AMQP or STOMP broker"):
        _ = make_app(result_backend="rpc://").backend


def test_an_unknown_queue_type_is_refused(make_app: Callable[..., Celeriac]) -> None:
    with pytest.raises(ImproperlyConfigured, match="amqp_queue_type: one of auto, quorum, classic"):
        make_app(amqp_queue_type="lazy")


def test_the_error_for_a_missing_driver_names_the_extra_to_install() -> None:
    code = ("import sys; sys.modules['pamqp'] = None\nfrom celeriac import Celeriac\n"
            "try: Celeriac('x', broker_url='amqp://h', environ={}).broker\n"
            "except Exception as e: print(e)")  # fmt: skip
    told = subprocess.run([sys.executable, "-c", code],
                          capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert "pip install 'celeriac[amqp]'" in told

