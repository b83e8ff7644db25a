"""AMQP 1.0: addresses, bytes, refusals, failures, counts; on RabbitMQ's plugin and on the double."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import re
import shlex
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import proton
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.backends.amqp10 import Amqp10RpcBackend
from celeriac.brokers.amqp10 import Amqp10Broker
from celeriac.brokers.amqp10.connections import Amqp10WorkerConnection
from celeriac.brokers.queue_server.lease import QueueServerLease
from celeriac.drivers.amqp10.address import Address
from celeriac.drivers.amqp10.connection import Item
from celeriac.drivers.amqp10.dialect import dialect_of
from celeriac.drivers.amqp10.engine import Engine
from celeriac.drivers.amqp10.flows import Frames
from celeriac.drivers.amqp10.links import Node
from celeriac.drivers.amqp10.messages import Received, decode, encode
from celeriac.drivers.amqp10.server import Server
from celeriac.errors import (
    AccessRefused,
    BrokerError,
    BrokerMisconfigured,
    BrokerUnavailable,
    ImproperlyConfigured,
    LeaseLost,
    NotSupported,
)
from celeriac.model.clock import Clock
from celeriac.model.message import PLAIN
from celeriac.ports.broker import Action, Settlement
from celeriac.ports.operations import WorkerInfo
from tests.amqp10_server import AMQP10_VARIABLE, Double, die, empty, running_double
from tests.conformance.broker import LONG, PROMPTLY, ids, message, one, receive, success
from tests.patience import PATIENCE, eventually, in_time
from tests.rabbitmq_server import Place

Make = Callable[..., Amqp10Broker]
PAGE = (Path(__file__).parent.parent / "docs" / "brokers-amqp10.md").read_text()


@pytest.fixture
def make() -> Iterator[Make]:
    """Return brokers of URLs."""
    servers: list[Server] = []

    def made(url: str, **options: Any) -> Amqp10Broker:
        servers.append(Server(url, **{"timeout": PATIENCE, **options}))
        return Amqp10Broker(servers[-1], Clock())

    yield made
    for server in servers:
        server.close()


async def lease_on(broker: Amqp10Broker, seconds: float = 15.0) -> QueueServerLease:
    lease = await broker.lease(WorkerInfo(name="w"), seconds, 3)
    assert isinstance(lease, QueueServerLease)
    return lease


def url_on(place: Place, credentials: str = "guest:guest", vhost: str | None = None) -> str:
    return place.rabbit.url(vhost or place.vhost, credentials).replace("amqp://", "amqp10://")


# --- Addresses, bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hosts", "vhost", "mechanism"),
    [
        ("amqp10://", (("localhost", 5672),), "", "ANONYMOUS"),
        ("amqps10://u:p%40@h/", (("h", 5671),), "", "PLAIN"),
        ("amqp10://a,[::1]:5,b:6/x%2Fy", (("a", 5672), ("::1", 5), ("b", 6)), "x/y", "ANONYMOUS"),
        ("amqps10://h?ssl_certfile=c.pem", (("h", 5671),), "", "EXTERNAL"),
    ],
)
def test_urls_are_read(url: str, hosts: Any, vhost: str, mechanism: str) -> None:
    address = Address.of(url)
    assert (address.hosts, address.vhost, address.mechanism) == (hosts, vhost, mechanism)


@pytest.mark.parametrize(
    ("url", "why"), [("amqp10://h:port", "port 'port' is not a number"), ("amqp10://h?speed=1", "no option 'speed'")]
)
def test_urls_that_cannot_be_read_are_refused(url: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"AMQP 1.0 URL .*{why}"):
        Address.of(url)


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (proton.Message(b"x" * 300, inferred=True), b"x" * 300),
        (proton.Message("text", subject="s", annotations={proton.symbol("a"): [1, {"b": 2.5}]}), b"text"),
        (proton.Message(b"binary", properties={"p": None}, id=7, durable=True, priority=9), b"binary"),
    ],
)
def test_messages_of_other_programs_are_read(sent: proton.Message, received: bytes) -> None:
    sent.first_acquirer, sent.delivery_count = False, 3
    assert decode(sent.encode()) == Received(received, False, 3)


def test_other_programs_can_read_our_messages() -> None:
    seen = proton.Message()
    seen.decode(encode(b"body" * 100, priority=9, id="i", subject="mail.send", at=12.5))
    assert (seen.body, seen.priority, seen.durable, seen.id, seen.subject) == (b"body" * 100, 9, True, "i", "mail.send")
    assert seen.annotations == {proton.symbol("x-opt-delivery-time"): 12500}
    seen.decode(encode(b"", delay=0.25))
    assert seen.annotations == {proton.symbol("x-opt-delivery-delay"): 250}


@given(st.binary(max_size=60), st.integers(0, 40))
def test_bytes_that_are_no_message_are_refused(junk: bytes, cut: int) -> None:
    for data in (junk, encode(b"body", id="i")[:cut] + junk):
        with contextlib.suppress(ValueError):
            decode(data)


@given(st.lists(st.integers(0, 40), max_size=20))
def test_flows_are_found_however_the_bytes_arrive(sizes: list[int]) -> None:
    flow = bytes.fromhex("00000020 02000001 005313 c0 12 08 43 52ff 43 52ff 43 43 43 7000000102".replace(" ", ""))
    flow = (len(flow)).to_bytes(4, "big") + flow[4:]
    other = bytes.fromhex("0000000802000000")
    stream = b"AMQP\x00\x01\x00\x00" + other + flow + other + other + flow
    frames, parts, place = Frames(4096), [], 0
    for size in [*sizes, len(stream)]:
        parts += frames.split(stream[place : place + size])
        place += size
    assert b"".join(part for part, _ in parts) == stream
    assert [told for part, told in parts if part == flow] == [258, 258]
    assert all(told is None for part, told in parts if part != flow)


@pytest.mark.parametrize(
    ("properties", "offered", "expected"),
    [
        ({"product": "RabbitMQ", "version": "3.10.8"}, "", ("rabbitmq", False, False, False, True)),
        ({"product": "RabbitMQ", "version": "4.0.2"}, "", ("rabbitmq", False, False, True, True)),
        ({"product": "qpid", "version": "9.0.0"}, "DELAYED_DELIVERY", ("qpid", True, True, True, False)),
        ({"product": "apache-activemq-artemis"}, "DELAYED_DELIVERY", ("", True, True, True, False)),
        ({}, "", ("", False, True, True, False)),
    ],
)
def test_a_dialect_follows_what_the_server_says_of_itself(properties: Any, offered: str, expected: Any) -> None:
    found = dialect_of(properties, frozenset(offered.split()))
    assert (found.kind, found.delays, found.counts, found.drains, found.leaves) == expected


@pytest.mark.parametrize(
    ("name", "why"),
    [("ä", "use only ASCII"), ("a#", "use only ASCII"), ("a::b", "use only ASCII"), ("x" * 250, "too long by 63"),
     ("amq.mine", "belong to the server"), ("celeriac.journal", "to Celeriac"), ("mail/dead", "of the queue 'mail'"),
     ("mail/p9", "of the queue 'mail'"), ("mail/coroutine", "of the queue 'mail'")],
)  # fmt: skip
def test_an_invalid_name_of_a_queue_is_refused(amqp10_double: Double, make: Make, name: str, why: str) -> None:
    with pytest.raises(BrokerError, match=why):
        make(amqp10_double.url).publish([message(name)])


@given(st.binary(max_size=200), st.integers(0, 3000))
def test_a_server_that_sends_junk_ends_the_connection_and_nothing_else(junk: bytes, cut: int) -> None:
    """The bytes of a real session, up to a place, and junk after it."""
    engine = Engine("us", "", "ANONYMOUS", "", "", 60.0)
    server, connection = proton.Transport(proton.Transport.SERVER), proton.Connection()
    server.sasl().allowed_mechs("ANONYMOUS")
    server.bind(connection)
    connection.open()
    receiver = engine.session().receiver(Node("q"))
    seen: list[Received] = []
    receiver.take = lambda _, received: seen.append(received)
    receiver.allow(1)
    sent = b""
    for _ in range(6):
        if ours := engine.output():
            server.push(ours)
        session = connection.session_head(0)
        if session is not None and session.state & proton.Endpoint.LOCAL_UNINIT:
            session.open()
            link = connection.link_head(0)
            link.source.copy(link.remote_source)
            link.open()
            link.delivery("1")
            link.send(encode(b"body"))
            link.advance()
        theirs = b""
        while (size := server.pending()) > 0:
            theirs += bytes(server.peek(size))
            server.pop(size)
        if len(sent) + len(theirs) >= cut:
            engine.receive(theirs[: cut - len(sent)] + junk)
            break
        sent += theirs
        if theirs:
            engine.receive(theirs)
    engine.output()
    engine.receive(b"")
    assert engine.lost is not None
    assert all(isinstance(received.body, bytes) for received in seen)


# --- Connecting ---------------------------------------------------------------------------------------


def test_a_wrong_password_is_reported(place: Place, make: Make) -> None:
    with pytest.raises(BrokerMisconfigured, match="refuses the user 'guest': wrong name or password"):
        make(url_on(place, "guest:wrong")).publish([message()])


async def test_a_worker_does_not_retry_with_a_virtual_host_that_is_missing(place: Place, make: Make) -> None:
    with pytest.raises(BrokerMisconfigured, match="Check the virtual host"):
        await lease_on(make(url_on(place, vhost="nowhere")))


def test_a_virtual_host_that_the_server_refuses_is_reported(amqp10_double: Double, make: Make) -> None:
    with pytest.raises(BrokerMisconfigured, match="no such virtual host"):
        make(f"{amqp10_double.url}/nowhere").publish([message()])


def test_an_unreachable_server_is_reported_at_once(make: Make) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"cannot be reached.*nc -vz 127\.0\.0\.1"):
            make(f"amqp10://127.0.0.1:{probe.getsockname()[1]}").publish([message()])
    assert in_time(time.monotonic() - started, 1)


def test_a_server_that_does_not_answer_is_reported_within_the_time_out(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        broker = make(f"amqp10://127.0.0.1:{mute.getsockname()[1]}", timeout=0.3)
        with pytest.raises(BrokerUnavailable, match=r"did not answer within 0\.3 s"):
            broker.publish([message()])


def test_a_server_of_another_protocol_is_reported(redis: Any, make: Make) -> None:
    broker = make(redis.url.replace("redis://", "amqp10://").partition("?")[0].rstrip("/0"), timeout=3.0)
    with pytest.raises(BrokerUnavailable, match="AMQP"):
        broker.publish([message()])


async def test_the_next_host_is_tried_when_one_does_not_answer(amqp10_double: Double, make: Make) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        broker = make(f"amqp10://127.0.0.1:{probe.getsockname()[1]},127.0.0.1:{amqp10_double.port}")
        await asyncio.to_thread(broker.publish, [message()])
        await broker.apublish([message()])
        assert len(await receive(await lease_on(broker))) == 2


async def test_a_lease_is_lost_when_a_frozen_server_misses_its_heartbeats(make: Make) -> None:
    with running_double() as double:
        broker = make(double.url)
        for seconds in (2.0, 8.0, 32.0):  # on a busy machine, a short one may be lost at once
            lease = await lease_on(broker, seconds)
            with contextlib.suppress(LeaseLost):
                assert await receive(lease) == []
                break
        double.send(signal.SIGSTOP)
        async with asyncio.timeout(PROMPTLY):
            with pytest.raises(LeaseLost):
                await receive(lease, wait=LONG)


def test_a_forked_child_opens_its_own_connection(amqp10_double: Double, make: Make) -> None:
    broker = make(amqp10_double.url)
    broker.publish([message()])
    pid = os.fork()
    if not pid:
        try:
            broker.publish([message()])
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    broker.publish([message()])
    [counts] = broker.complete(broker.operations().queues())
    assert counts.ready == 3


# --- What is refused ----------------------------------------------------------------------------------


def test_what_is_due_later_is_refused_at_the_call_where_the_server_holds_nothing(place: Place, make: Make) -> None:
    with pytest.raises(NotSupported, match="holds no delayed messages"):
        make(url_on(place)).publish([message(due_at=time.time() + 60)])


def test_a_server_that_accepts_no_messages_is_reported(amqp10_double: Double, make: Make) -> None:
    amqp10_double.control("block")
    for timeout in (1.0, 5.0, 25.0):  # on a busy machine a short one may pass before the server has said so
        broker = make(amqp10_double.url, timeout=timeout)
        with pytest.raises(BrokerUnavailable, match=r"accepts no messages at present|did not answer") as error:
            broker.publish([message()])
        if "accepts no messages at present: it gives no credit" in str(error.value):
            return
    pytest.fail(f"the server does not say that it accepts no messages: {error.value}")


def test_a_message_that_is_too_large_is_refused(amqp10_double: Double, make: Make) -> None:
    broker = make(amqp10_double.url)
    with pytest.raises(BrokerError, match=r"takes 1000000 .*Send less"):
        broker.publish([message(body=b"x" * 1_100_000)])
    broker.publish([message(body=b"x" * 900_000)])


def test_queues_that_another_protocol_has_declared_are_refused_with_what_to_do(place: Place, make: Make) -> None:
    place.broker().publish([message()])
    with pytest.raises(BrokerError, match=r"PRECONDITION_FAILED.*use another virtual host \(docs/brokers-amqp10.md\)"):
        make(url_on(place)).publish([message()])


async def test_missing_rights_are_reported_and_end_the_lease(amqp10_double: Double, make: Make) -> None:
    broker = make(amqp10_double.url)
    with pytest.raises(AccessRefused, match=r"'forbidden': not for you .*Give the user the right"):
        await broker.apublish([message("forbidden")])
    with pytest.raises(AccessRefused):
        await receive(await lease_on(broker), queues=["forbidden"], wait=PROMPTLY)


@pytest.mark.parametrize("queue", ["celeriac.turn", "celeriac.journal", "celeriac.workers.left", "default",
                                   "default/dead"])  # fmt: skip
async def test_a_fault_of_the_server_costs_another_connection(amqp10_double: Double, make: Make, queue: str) -> None:
    broker = make(amqp10_double.url)
    amqp10_double.control(f"fault {queue}")
    await broker.apublish([message()])
    lease = await lease_on(broker)
    assert len(await receive(lease)) == 1
    operations = broker.operations()
    for look in (operations.workers, operations.queues, partial(operations.peek, "default", 10),
                 partial(operations.dead, "default", 10), partial(operations.revoked, ["1"])):  # fmt: skip
        amqp10_double.control(f"fault {queue}")
        await look()


async def test_a_fault_that_stays_is_reported(amqp10_double: Double, make: Make) -> None:
    broker = make(amqp10_double.url)
    amqp10_double.control("faults default")
    with pytest.raises(BrokerUnavailable, match=r"told to fail \(amqp:internal-error\)"):
        await broker.apublish([message()])


async def test_a_message_of_another_program_becomes_a_dead_letter(amqp10_double: Double, make: Make) -> None:
    broker = make(amqp10_double.url)
    await broker.apublish([message()])
    strange = Item(Node("default", ("queue",)), proton.Message("hello").encode())
    await broker.server.ado(lambda: (yield [strange]))
    lease = await lease_on(broker)
    assert len(await receive(lease)) == 1
    async with asyncio.timeout(PROMPTLY):
        while not (letters := await broker.operations().dead("default", 10)):
            await receive(lease, wait=0.1)
    assert (letters[0].message.task, letters[0].message.body) == ("(unreadable)", b"hello")


def subscriptions(place: Place) -> list[str]:
    """Return the names of the queues that the server has made for subscribers."""
    found = place.rabbit.ask("GET", f"/api/queues/{quote(place.vhost)}")
    return [queue["name"] for queue in found if queue["name"].startswith("amq.gen-")]


async def test_the_policy_of_the_page_deletes_queues_of_subscribers_that_have_gone(place: Place, make: Make) -> None:
    (line,) = re.findall(r"^rabbitmqctl set_policy -p .*", PAGE, re.MULTILINE)
    _, _, _, _, name, pattern, definition, _, kind = shlex.split(line)
    broker, heard = make(url_on(place)), asyncio.Event()
    await broker.transport.subscribe("news", lambda _: heard.set(), lambda: None)
    gone = await broker.transport.subscribe("news", lambda _: None, lambda: None)
    await eventually(lambda: len(subscriptions(place)) == 2, "two queues")
    gone.close()
    policy = {"pattern": pattern, "definition": {**json.loads(definition), "expires": 1}, "apply-to": kind}
    assert place.rabbit.ask("PUT", f"/api/policies/{quote(place.vhost)}/{name}", policy) is not None
    await eventually(lambda: len(subscriptions(place)) == 1, "one queue")
    await broker.broadcast("news", [b"x"])
    async with asyncio.timeout(PATIENCE):
        await heard.wait()


async def test_a_worker_says_once_that_the_server_keeps_queues(
    place: Place, amqp10_double: Double, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "celeriac.brokers")
    broker = make(url_on(place))
    for _ in range(2):
        await lease_on(broker)
    await lease_on(make(amqp10_double.url))
    said = [record.getMessage() for record in caplog.records if "amq.gen-" in record.getMessage()]
    assert len(said) == 1
    assert "docs/brokers-amqp10.md" in said[0]


# --- Counts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["rabbitmq", "amqp10_double"])
async def test_looking_does_not_count_as_a_delivery_and_a_death_does(
    request: pytest.FixtureRequest, make: Make, where: str
) -> None:
    url = request.getfixturevalue("amqp10_rabbit") if where == "rabbitmq" else request.getfixturevalue(where).url
    broker = make(url)
    await broker.apublish([message(id="once", acks_late=False), message(id="a")])
    for _ in range(3):
        assert ids(await broker.operations().peek("default", 10)) == ["once", "a"]
    lease = await lease_on(broker)
    got = await receive(lease)
    assert [delivery.deliveries for delivery in got] == [1, 1]
    await die(lease)
    lease = await lease_on(broker)
    again = await receive(lease)
    assert [(delivery.message.id, delivery.deliveries) for delivery in again] == [("a", 2)]
    assert ids(await lease.sweep()) == ["once"]


@pytest.mark.parametrize("where", ["rabbitmq", "amqp10_double"])
async def test_the_credit_is_the_free_slots(request: pytest.FixtureRequest, make: Make, where: str) -> None:
    url = request.getfixturevalue("amqp10_rabbit") if where == "rabbitmq" else request.getfixturevalue(where).url
    broker = make(url)
    await broker.apublish([message() for _ in range(20)])
    lease = await lease_on(broker)
    assert isinstance(lease.connection, Amqp10WorkerConnection)
    held = lease.connection._held
    got = await lease.receive(["default"], {PLAIN: 3}, PROMPTLY)
    await eventually(lambda: len(held) == 3, "three messages")
    for _ in range(3):
        assert await lease.settle([Settlement(delivery=delivery) for delivery in got]) == [True] * len(got)
        got = await lease.receive(["default"], {PLAIN: 3}, PROMPTLY)
        await lease.connection.sync()
        assert len(held) <= 3


async def test_delayed_messages_come_when_they_are_due(amqp10_double: Double, make: Make) -> None:
    broker = make(amqp10_double.url)
    due = time.time() + 0.4
    await broker.apublish([message(id="later", due_at=due), message(id="now")])
    lease = await lease_on(broker)
    came: dict[str, float] = {}
    while len(came) < 2:
        came |= dict.fromkeys(ids(await receive(lease, wait=LONG)), time.time())
    assert came.keys() == {"now", "later"}
    assert came["later"] >= due - 0.1


# --- The turn -----------------------------------------------------------------------------------------


async def test_a_second_turn_is_removed_and_workers_read_the_journal_again(amqp10_double: Double, make: Make) -> None:
    broker = make(amqp10_double.url)
    lease = await lease_on(broker)
    await broker.server.ado(lambda: (yield [Item(Node("celeriac.turn", ("queue",)), encode(b"turn"))]))
    unheard = Item(Node("celeriac.journal", ("queue",)), _entry(broker))
    await broker.server.ado(lambda: (yield [unheard]))
    assert not lease.journal.paused
    await broker.operations().queues()  # finds both
    await eventually(lambda: lease.journal.paused == {"q"}, "another reading")
    async with broker.transport.inspecting() as inspection:
        assert await inspection.size("celeriac.turn") == 1


def _entry(broker: Amqp10Broker) -> bytes:
    from celeriac.brokers.queue_server.journal import Paused, writing

    work = writing(broker.transport, [Paused("q", paused=True)])
    items: list[Item] = next(work)
    return items[0].data


async def test_a_turn_that_was_never_made_is_made(amqp10_double: Double, make: Make) -> None:
    taker = make(amqp10_double.url)
    async with taker.transport.inspecting() as inspection, inspection.taking("celeriac.turn", 1) as taken:
        taken.acknowledge([one.tag for one in taken.messages])
    lease = await lease_on(make(amqp10_double.url))
    assert await receive(lease) == []


async def test_the_loss_of_a_connection_is_not_told_to_callers_that_are_gone(amqp10_double: Double) -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    connection = await Server(amqp10_double.url, timeout=PATIENCE).open(60.0)
    caller = asyncio.create_task(connection.sender(Node("q")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it attaches
    caller.cancel()
    connection.abandon()
    await asyncio.gather(caller, return_exceptions=True)
    del caller, connection
    await asyncio.sleep(0)  # what attached has failed
    gc.collect()
    await asyncio.sleep(0)
    assert told == []


async def test_a_connection_that_has_ended_leaves_nothing_of_what_it_received(amqp10_double: Double) -> None:
    server, node = Server(amqp10_double.url, timeout=PATIENCE), Node("q", ("queue",), copy=True)
    await server.ado(lambda: (yield [Item(node._replace(copy=False), encode(b"x" * 200)) for _ in range(400)]))

    async def look() -> None:
        connection = await server.open(60.0)
        receiver = await connection.attached(connection.session().receiver(node))
        seen: list[Received] = []
        receiver.take = lambda _, received: seen.append(received)
        await connection.drained(receiver, 1_000)
        assert len(seen) == 400
        connection.close()

    async def look_often() -> int:
        for _ in range(30):
            await look()
        gc.collect()
        return psutil.Process().memory_info().rss

    before = await look_often()
    assert await look_often() - before < 5_000_000  # 9 million, if 12,000 deliveries stay
    server.close()


# --- Replies ------------------------------------------------------------------------------------------


def test_replies_arrive_after_connections_were_cut(place: Place) -> None:
    backend = Amqp10RpcBackend(Server(url_on(place), timeout=PATIENCE), Clock())
    outcome = success(message())
    outcome.reply_to = backend.reply_to
    place.rabbit.cut_connections()
    deadline = time.monotonic() + PROMPTLY
    while not (found := backend.fetch([outcome.id], wait=0.2)):  # what is sent while nobody listens is lost
        assert time.monotonic() < deadline
        asyncio.run(backend.store([outcome]))
    assert found == {outcome.id: outcome}
    backend.close()


def test_a_result_that_is_too_large_is_a_failure_that_says_so(amqp10_double: Double) -> None:
    backend = Amqp10RpcBackend(Server(amqp10_double.url, timeout=PATIENCE), Clock())
    outcome = success(message())
    outcome.reply_to, outcome.value = backend.reply_to, b"1" * 1_100_000
    asyncio.run(backend.store([outcome]))
    found = backend.fetch([outcome.id], wait=LONG)[outcome.id]
    assert found.failure is not None
    assert "Send less" in str(found.failure)
    backend.close()


async def test_a_dead_letter_is_sent_and_acknowledged(amqp10_double: Double, make: Make) -> None:
    broker = make(amqp10_double.url)
    await broker.apublish([message(id="m")])
    lease = await lease_on(broker)
    delivery = await one(lease)
    assert await lease.settle([Settlement(delivery=delivery, action=Action.BURY, reason="r")]) == [True]
    assert ids(await broker.operations().dead("default", 10)) == ["m"]
    await lease.end()
    assert await receive(await lease_on(broker)) == []


# --- Elsewhere ----------------------------------------------------------------------------------------


@pytest.mark.skipif(AMQP10_VARIABLE not in os.environ, reason=f"set {AMQP10_VARIABLE} to the URL of a server that has "
                                                              "nothing else to do")  # fmt: skip
async def test_a_worker_receives_and_settles_on_another_server(make: Make) -> None:
    """There, the conformance suite runs too (`tests/test_brokers.py`)."""
    await asyncio.to_thread(empty, os.environ[AMQP10_VARIABLE])
    broker = make(os.environ[AMQP10_VARIABLE])
    await broker.apublish([message()])
    lease = await lease_on(broker)
    assert await lease.settle([Settlement(delivery=await one(lease))]) == [True]
