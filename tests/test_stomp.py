"""STOMP: frames, addresses, what a server refuses, what it is not set up for, windows, and results."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac import Celeriac
from celeriac.backends.stomp import StompReplyBackend
from celeriac.brokers.queue_server import lease as lease_module
from celeriac.brokers.stomp import StompBroker
from celeriac.brokers.stomp.windows import Pushed, Window
from celeriac.drivers.server_errors import ConnectionLost
from celeriac.drivers.stomp.address import Address
from celeriac.drivers.stomp.frames import Frame, Parser, Publication, escaped, headers
from celeriac.drivers.stomp.server import Server
from celeriac.errors import (
    BrokerError,
    BrokerMisconfigured,
    BrokerUnavailable,
    ImproperlyConfigured,
    NotSupported,
    WorkerLost,
)
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.keys import new_key, parse_key
from celeriac.model.message import PLAIN, Message, new_id
from celeriac.ports.broker import Action, Delivery, Lease, Settlement
from celeriac.ports.operations import WorkerInfo
from celeriac.testing import running_worker
from tests.activemq_server import ActiveMQServer, running_activemq
from tests.patience import PATIENCE, eventually, in_time
from tests.proxies import Listening
from tests.rabbitmq_server import RabbitServer

CODECS = pytest.mark.parametrize("codec", [PLAIN_CODEC, Codec([parse_key(new_key())])], ids=["plain", "signed"])


def message(**fields: Any) -> Message:
    return Message(id=new_id(), task="t", **fields)


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    made: list[Server] = []
    yield made
    for server in made:
        server.close()


def bare(activemq: ActiveMQServer, credentials: str = "me:se%3Acret@") -> str:
    """Return the URL of an ActiveMQ that is not set up for Celeriac, has a user, and takes small frames."""
    return activemq.url(credentials=credentials, port=activemq.bare_port)


def broker(servers: list[Server], url: str, **options: Any) -> StompBroker:
    servers.append(Server(url, **{"timeout": PATIENCE, **options}))
    return StompBroker(servers[-1], Clock())


# --- Frames -------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5), st.binary(max_size=20)), max_size=4), st.data())
@settings(deadline=None, max_examples=100)
def test_what_is_sent_is_read_as_it_was_wherever_it_is_cut(sent: list[tuple[str, str, bytes]], data: Any) -> None:
    stream = b"\n".join(Publication(to, headers({"x": value}), body).pack() for to, value, body in sent)
    parser, found, at = Parser(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream)))
        found += parser.feed(stream[at : at + size])
        at += size
    assert [(one.command, one.headers["destination"], one.headers["x"], one.body) for one in found] == [
        ("SEND", to, value, body) for to, value, body in sent
    ]


@given(st.binary(max_size=200) | st.sampled_from([b"MESSAGE\ncontent-length:1\n\nxyz\0", b"\xff\n\n\0", b"A\n\n" * 9]))
@settings(deadline=None, max_examples=200)
def test_bytes_that_are_no_frames_end_the_connection_or_are_read(data: bytes) -> None:
    with contextlib.suppress(ConnectionLost):
        assert all(isinstance(frame, Frame) for frame in Parser().feed(data))


@pytest.mark.parametrize("data", [
    b"x" * 70_000, b"M\ncontent-length:-1\n\n\0", b"M\ncontent-length:1\n\nxyz\0", b"\xff\n\n\0",
    b"M\ncontent-length:%b\n\n\0" % (b"9" * 5_000), b"M\ncontent-length:9999999999\n\n\0",
])  # fmt: skip
def test_a_server_that_sends_nonsense_loses_its_connection(data: bytes) -> None:
    with pytest.raises(ConnectionLost):
        Parser().feed(data)


def test_of_headers_with_the_same_name_the_first_counts_and_line_ends_may_have_a_carriage_return() -> None:
    found = Parser().feed(b"M\r\na:1\r\na:2\r\nb\\c:\\n\\\\\r\n\r\nbody\0")
    assert found == [Frame("M", {"a": "1", "b:": "\n\\"}, b"body")]
    assert escaped("a:b\n\\") == "a\\cb\\n\\\\"


# --- Addresses ----------------------------------------------------------------------------------------


def test_an_address_has_hosts_a_user_and_a_virtual_host() -> None:
    found = Address.of("stomps://me:p%3Aw@a,[::1]:7,b:8/my%20space?ssl_check_hostname=false")
    assert (found.hosts, found.tls, found.vhost) == ((("a", 61612), ("::1", 7), ("b", 8)), True, "my space")
    assert (found.username, found.password) == ("me", "p:w")
    assert "p:w" not in repr(found)


@pytest.mark.parametrize("url", ["stomp://h:port", "stomp://u:a/b@h", "stomp://h?x=1", "stomp://u%0a:p@h", "stomp://h?x"])
def test_an_address_that_cannot_be_read_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="STOMP URL"):
        Address.of(url)


# --- What a server refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize("credentials", ["", "me:wrong@", "nobody:x@"])
def test_wrong_credentials_are_named(activemq: ActiveMQServer, servers: list[Server], credentials: str) -> None:
    with pytest.raises(BrokerMisconfigured, match="refuses the user"):
        broker(servers, bare(activemq, credentials)).publish([message()])


def test_a_password_with_a_colon_is_right(activemq: ActiveMQServer, servers: list[Server]) -> None:
    broker(servers, bare(activemq)).publish([message()])


@pytest.mark.parametrize(("fields", "line"), [
    ({"due_at": time.time() + 3600}, 'schedulerSupport="true"'), ({"priority": 9}, 'prioritizedMessages="true"'),
])  # fmt: skip
async def test_what_activemq_is_not_set_up_for_is_refused_with_the_line_to_change(
    activemq: ActiveMQServer, servers: list[Server], fields: dict[str, Any], line: str
) -> None:
    unfit = broker(servers, bare(activemq))
    for _ in range(2):
        with pytest.raises(NotSupported, match=line):
            unfit.publish([message(**fields)])
        with pytest.raises(NotSupported, match=line):
            await unfit.apublish([message(**fields)])
    unfit.publish([message()])


@pytest.mark.parametrize("backend", ["memory://", "rpc://"])
def test_a_retry_that_activemq_is_not_set_up_for_becomes_a_dead_letter_and_its_neighbours_end(
    activemq: ActiveMQServer, caplog: pytest.LogCaptureFixture, backend: str
) -> None:
    app = Celeriac("shop", broker_url=bare(activemq), result_backend=backend, broker_publish_timeout=PATIENCE)

    @app.task(name="add")
    def add(x: int) -> int:
        return x + 1

    @app.task(name="fails", autoretry_for=(ValueError,), default_retry_delay=60)
    def fails() -> None:
        raise ValueError

    calls = [*(add.delay(x) for x in range(10)), failed := fails.delay(), *(add.delay(x) for x in range(10, 20))]
    with running_worker(app):
        with pytest.raises(WorkerLost, match=r'could not settle the task: .*schedulerSupport="true"'):
            failed.get(timeout=PATIENCE)
        assert [call.get(timeout=PATIENCE) for call in calls if call is not failed] == list(range(1, 21))
        (letter,) = app.broker.complete(app.broker.operations().dead(None, 100))
    app.close()
    assert letter.message.id == failed.id
    assert "schedulerSupport" in letter.reason
    assert not re.search(r"is unavailable|The lease is gone|is discarded", caplog.text)


async def test_a_message_that_is_too_large_is_refused(activemq: ActiveMQServer, servers: list[Server]) -> None:
    narrow = broker(servers, bare(activemq))
    with pytest.raises(BrokerError):
        narrow.publish([message(body=b"x" * 200_000)])
    narrow.publish([message()])


class Imposter(Listening):
    """Answers CONNECT with what a test says."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        super().__init__()

    def take(self, one: socket.socket) -> None:
        one.recv(4096)
        one.sendall(self._answer)
        one.close()


@pytest.mark.parametrize(("answer", "said"), [
    (b"CONNECTED\nversion:1.2\nserver:Other/1\n\n\0", "is Other/1"),
    (b"CONNECTED\nserver:ActiveMQ/4\n\n\0", "speaks STOMP 1.0"),
    (b"HTTP/1.1 400 Bad Request\n\n\0", "does not speak STOMP"),
    (b"CONNECTED\nversion:1.2\nserver:Other/1\nheart-beat:%b,1\n\n\0" % (b"9" * 5_000), "is Other/1"),
    (b"CONNECTED\nversion:%b\nserver:ActiveMQ/5\n\n\0" % (b"9" * 5_000), r"speaks STOMP 9{300},"),
])  # fmt: skip
def test_a_server_that_celeriac_does_not_know_is_refused(servers: list[Server], answer: bytes, said: str) -> None:
    imposter = Imposter(answer)
    with pytest.raises(BrokerUnavailable, match=said):
        broker(servers, f"stomp://127.0.0.1:{imposter.port}").publish([message()])
    imposter.close()


def test_an_unreachable_server_is_told_at_once_and_another_host_is_used(
    activemq: ActiveMQServer, servers: list[Server]
) -> None:
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        broker(servers, "stomp://127.0.0.1:1").publish([message()])
    assert in_time(time.monotonic() - begun, 1.0)
    for _ in range(4):  # each time in another order
        broker(servers, f"stomp://127.0.0.1:1,127.0.0.1:{activemq.port}/hosts").publish([message()])


@pytest.mark.parametrize(
    "name", ["", "a,b", "a*", "a>", "ü", " a", "a/dead", "a/coroutine", "celeriac.x", "ActiveMQ.x", "x" * 181]
)
async def test_names_that_a_server_would_not_take_are_refused(
    activemq: ActiveMQServer, servers: list[Server], name: str
) -> None:
    with pytest.raises(NotSupported, match="cannot be named"):
        await broker(servers, activemq.url()).apublish([message(queue=name)])


# --- TLS ----------------------------------------------------------------------------------------------


def test_over_tls_a_certificate_is_checked(activemq: ActiveMQServer, servers: list[Server]) -> None:
    url = activemq.url("tls", port=activemq.tls_port, scheme="stomps")
    with pytest.raises(BrokerMisconfigured, match=r"cannot be trusted.*stomps://…\?ssl_ca_certs"):
        broker(servers, url).publish([message()])
    broker(servers, f"{url}?ssl_ca_certs={activemq.certificates.authority}").publish([message()])


@pytest.mark.parametrize(("scheme", "answer", "said"), [
    ("stomps", b"ERROR\nmessage:what\n\n\0", "This port may speak no TLS, or another version of it: "),
    ("stomp", b"\x15\x03\x03\x00\x02\x02\x46", r"does it speak STOMP on this port \("),
])  # fmt: skip
def test_a_port_with_tls_is_told_apart_from_one_without(
    servers: list[Server], scheme: str, answer: bytes, said: str
) -> None:
    imposter = Imposter(answer)
    with pytest.raises(BrokerUnavailable, match=f"{said}stomps?:// is STOMP .* TLS, and stomps?:// is STOMP .* TLS"):
        broker(servers, f"{scheme}://127.0.0.1:{imposter.port}").publish([message()])
    imposter.close()


def test_a_port_of_another_protocol_that_does_not_answer_is_doubted(servers: list[Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"stomp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BrokerUnavailable, match="Or this port is for something else: stomp:// is STOMP without"):
            broker(servers, url, timeout=0.3).publish([message()])


async def test_over_tls_a_worker_receives_and_settles(activemq: ActiveMQServer, servers: list[Server]) -> None:
    url = activemq.url("tls-worker", port=activemq.tls_port, scheme="stomps")
    here = broker(servers, f"{url}?ssl_ca_certs={activemq.certificates.authority}")
    sent = message(body=b"x" * 1_000_000)  # of many records
    await here.apublish([sent])
    lease = await here.lease(WorkerInfo(name="w"), 15.0, 3)
    [found] = await lease.receive(["default"], {PLAIN: 1}, PATIENCE)
    assert found.message == sent
    assert await lease.settle([Settlement(delivery=found)]) == [True]
    await lease.end()


# --- A server that has no room ------------------------------------------------------------------------


async def test_while_a_server_blocks_who_sends_calls_fail_in_time_and_workers_make_room(
    activemq: ActiveMQServer, servers: list[Server]
) -> None:
    url = activemq.url(port=activemq.tight_port)
    here, impatient = broker(servers, url), broker(servers, url, timeout=5.0)
    lease = await here.lease(WorkerInfo(name="w"), 60.0, 3)  # of which the journal has to know
    sent = [message(body=b"x" * 100_000) for _ in range(100)]
    tried: list[Message] = []

    def fill() -> None:
        for one in sent:
            tried.append(one)
            impatient.publish([one])

    with pytest.raises(BrokerUnavailable, match="not answer"):
        await asyncio.to_thread(fill)
    assert len(tried) < len(sent)
    seen: set[str] = set()
    while len(seen) < len(tried) - 1:  # whether the last one is stored later is not known
        for one in await lease.receive(["default"], {PLAIN: 1}, PATIENCE):
            assert await lease.settle([Settlement(delivery=one)]) == [True]
            seen.add(one.message.id)
    assert seen <= {one.id for one in tried}
    last = message()
    await here.apublish([last])
    while last.id not in seen:
        for one in await lease.receive(["default"], {PLAIN: 1}, PATIENCE):
            assert await lease.settle([Settlement(delivery=one)]) == [True]
            seen.add(one.message.id)
    await lease.end()


# --- Delays, transactions, ends -----------------------------------------------------------------------


async def test_a_countdown_passes_in_the_server(activemq: ActiveMQServer, servers: list[Server]) -> None:
    here = broker(servers, activemq.url())
    sent = message(countdown=1.0, due_at=time.time() + 1.0)
    here.publish([sent])
    lease = await here.lease(WorkerInfo(name="w"), 15.0, 3)
    assert await lease.receive(["default"], {PLAIN: 1}, 0.0) == []
    [found] = await lease.receive(["default"], {PLAIN: 1}, PATIENCE)
    assert found.message.id == sent.id
    assert time.time() >= sent.due_at - 0.1
    await lease.end()


async def test_a_return_is_sent_and_acknowledged_in_one_transaction(
    activemq: ActiveMQServer, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = broker(servers, activemq.url())
    here.publish([message()])
    lease: Any = await here.lease(WorkerInfo(name="w"), 15.0, 3)
    [found] = await lease.receive(["default"], {PLAIN: 1}, PATIENCE)
    written: list[bytes] = []
    connection = lease.connection.connection
    write = connection.write
    monkeypatch.setattr(connection, "write", lambda data: (written.append(data), write(data)))
    assert await lease.settle([Settlement(delivery=found, action=Action.RETURN, deliveries=0)]) == [True]
    assert_one_step(written)
    [again] = await lease.receive(["default"], {PLAIN: 1}, PATIENCE)
    assert (again.message.id, again.deliveries) == (found.message.id, 1)
    await lease.end()


async def test_a_message_of_a_dead_worker_is_counted_in_one_transaction(
    activemq: ActiveMQServer, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker that it kills at once would leave two: the one that it has sent back, and the first."""
    here = broker(servers, activemq.url())
    here.publish([message()])
    first: Any = await here.lease(WorkerInfo(name="first"), 15.0, 3)
    assert len(await first.receive(["default"], {PLAIN: 1}, PATIENCE)) == 1
    lease: Any = await here.lease(WorkerInfo(name="w"), 15.0, 3)
    written: list[bytes] = []
    connection = lease.connection.connection
    write = connection.write
    monkeypatch.setattr(connection, "write", lambda data: (written.append(data), write(data)))
    first.connection.abandon()
    [found] = await lease.receive(["default"], {PLAIN: 1}, PATIENCE)
    assert found.deliveries == 2
    assert_one_step(written)
    await lease.end()


def assert_one_step(written: list[bytes]) -> None:
    """Say that a message was sent, and another one acknowledged, in one transaction."""
    [step] = [data for data in written if b"SEND" in data]
    frames = Parser().feed(step)
    assert [frame.command for frame in frames] == ["BEGIN", "SEND", "ACK", "COMMIT"]
    assert len({frame.headers["transaction"] for frame in frames}) == 1


@CODECS
async def test_messages_that_a_worker_leaves_when_it_ends_do_not_count_as_lost(
    activemq: ActiveMQServer, servers: list[Server], codec: Codec
) -> None:
    here = broker(servers, activemq.url(), codec=codec)
    here.publish([message() for _ in range(30)])
    for _ in range(3):
        lease = await here.lease(WorkerInfo(name="w"), 15.0, 3)
        found = await lease.receive(["default"], {PLAIN: 5}, PATIENCE)
        assert {one.deliveries for one in found} == {1}
        await lease.end()
    last = await here.lease(WorkerInfo(name="last"), 15.0, 3)
    seen: set[str] = set()
    while len(seen) < 30:
        found = await last.receive(["default"], {PLAIN: 10}, PATIENCE)
        assert {(one.deliveries, one.lost) for one in found} == {(1, False)}
        seen |= {one.message.id for one in found}
        await last.settle([Settlement(delivery=one) for one in found])
    await last.end()


# --- Windows ------------------------------------------------------------------------------------------


class Recorder:
    """A connection that keeps what it is told."""

    lost = None

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.begun = 0

    def subscribe(self, take: Any, destination: str, ack: str = "", more: Any = None) -> tuple[str, Any]:
        self.told.append(("subscribe", more["size"], more["before"]))
        self.begun += 1
        return f"s{self.begun}", None

    def unsubscribe(self, id: str) -> None:
        self.told.append(("unsubscribe", id))

    def acknowledge(self, ids: list[str]) -> None:
        self.told.append(("acknowledge", ids))

    def finish(self, pairs: list[tuple[str, str]]) -> None:
        self.told.append(("finish", pairs))

    def news(self) -> list[Any]:
        """Return what it was told since the last time."""
        told, self.told = self.told, []
        return told


def window(connection: Recorder, singly: bool) -> Window:
    def more(size: int, before: int) -> Any:
        return {"size": size, "before": before}

    return Window(connection, "q", more, lambda *_: None, singly)  # type: ignore[arg-type]


def push(window: Window, *subscriptions: str) -> list[Pushed]:
    made = [Pushed(Frame("MESSAGE", {"ack": f"a{number}", "subscription": one}, b""), number, window)
            for number, one in enumerate(subscriptions)]  # fmt: skip
    for pushed in made:
        window.received(pushed)
    return made


def test_a_window_is_widened_by_a_subscription_and_narrowed_by_acknowledgements_that_are_held_back() -> None:
    connection = Recorder()
    line = window(connection, singly=False)
    line.open("q#1", 3)
    first = push(line, "s1", "s1", "s1")
    line.open("q#2", 1)
    assert connection.news() == [("subscribe", 3, 0), ("subscribe", 1, 1)]
    line.acknowledge(first)  # of an earlier consumer: this one wants no more
    assert (connection.news(), len(line.held)) == ([], 3)
    line.open("q#3", 3)
    assert connection.news() == [("acknowledge", ["a0", "a1"])]
    assert not line.is_untidy  # something was pushed just now
    line._active_at = 0.0
    assert line.is_untidy  # one is held back, and nothing is unsettled
    [running] = push(line, "s1")
    assert not line.is_untidy
    line.close()
    line.acknowledge([running])
    line._active_at = 0.0
    line.is_idle()
    assert connection.news() == [
        ("acknowledge", ["a2", "a0"]), ("unsubscribe", "s1"), ("unsubscribe", "s2"), ("subscribe", 1, 0)
    ]  # fmt: skip


def test_where_a_subscription_takes_its_message_along_each_is_for_one_and_ends_without_those_of_running_tasks() -> None:
    connection = Recorder()
    line = window(connection, singly=True)
    line.open("q#1", 3)
    assert connection.news() == [("subscribe", 1, 0), ("subscribe", 1, 1), ("subscribe", 1, 2)]
    running, *others = push(line, "s1", "s2", "s3")
    line.close()
    line.put_back(others)
    assert (connection.news(), line.takes_more) == ([("unsubscribe", "s2"), ("unsubscribe", "s3")], False)
    line.acknowledge([running])
    assert connection.news() == []  # held back: no room is wanted
    line.open("q#2", 3)
    assert connection.news() == [("acknowledge", ["a0"]), ("subscribe", 1, 1), ("subscribe", 1, 2)]
    line.close()
    line._active_at = 0.0
    assert not line.is_untidy  # room that is not wanted stays: what comes goes back with it
    line.acknowledge(push(line, "s1"))
    line._active_at = 0.0
    line.is_idle()
    assert (connection.news(), line.held) == ([("finish", [("a0", "s1")])], [])


async def test_what_a_worker_took_over_and_leaves_when_it_ends_counts_as_lost(
    activemq: ActiveMQServer, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends its subscriptions one after the other, and may push what one had held to those that are left."""
    here = broker(servers, activemq.url())
    here.publish([message(acks_late=False)])
    first: Any = await here.lease(WorkerInfo(name="dies"), 15.0, 3)
    [found] = await first.receive(["default"], {PLAIN: 1}, PATIENCE)
    lease: Any = await here.lease(WorkerInfo(name="ends"), 15.0, 3)
    first.connection.abandon()
    assert (await taken_over(lease)).lost
    stomp = lease.connection.connection
    [pushed] = lease.connection._unacked.values()
    confirmed = stomp.confirmed

    async def pushing(command: str) -> None:
        pushed.window._took(Frame("MESSAGE", {"ack": "again", "redelivered": "true"}, pushed.body))
        await confirmed(command)

    monkeypatch.setattr(stomp, "confirmed", pushing)
    await lease.end()
    last = await here.lease(WorkerInfo(name="last"), 15.0, 3)
    again = await taken_over(last)
    assert (again.message.id, again.lost) == (found.message.id, True)
    await last.end()


async def taken_over(lease: Lease) -> Delivery:
    """Return what a worker takes over; it receives nothing."""
    while True:
        assert await lease.receive(["default"], {PLAIN: 10}, 0.0) == []
        if taken := await lease.sweep():
            [one] = taken
            return one


@CODECS
async def test_messages_that_a_worker_cannot_start_go_back_uncounted_and_no_others_come_in_their_place(
    activemq: ActiveMQServer, servers: list[Server], codec: Codec
) -> None:
    here = broker(servers, activemq.url(), codec=codec)
    lease: Any = await here.lease(WorkerInfo(name="full"), 15.0, 3)
    waiting = asyncio.ensure_future(lease.receive(["default"], {PLAIN: 6}, PATIENCE))
    await eventually(lambda: lease.connection._windows, "the worker's subscriptions")
    sent = [message(), *(message(acks_late=number % 2 == 0) for number in range(40))]
    here.publish(sent)
    running = await waiting
    [line] = lease.connection._windows.values()
    await eventually(lambda: not line.takes_more and line._unsettled == len(running), "the others to go back")
    other = await here.lease(WorkerInfo(name="free"), 15.0, 3)
    seen: list[str] = []
    while len(seen) < len(sent) - len(running):
        found = await other.receive(["default"], {PLAIN: 10}, PATIENCE)
        assert {(one.deliveries, one.lost) for one in found} == {(1, False)}
        seen += [one.message.id for one in found]
        await other.settle([Settlement(delivery=one) for one in found])
    assert sorted([*seen, *(one.message.id for one in running)]) == sorted(one.id for one in sent)
    assert await lease.settle([Settlement(delivery=one) for one in running]) == [True] * len(running)
    await lease.end()
    await other.end()


async def test_a_worker_with_more_queues_than_slots_finds_the_one_that_has_a_message(
    activemq: ActiveMQServer, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ActiveMQ does not count: a slot is given to a queue that may have messages, and then to the next one."""
    monkeypatch.setattr(lease_module, "LOOK_SECONDS", 10 * PATIENCE)
    here = broker(servers, activemq.url())
    lease: Any = await here.lease(WorkerInfo(name="narrow"), 15.0, 3)
    queues = ["first", "second", "third"]
    sent = [message(queue="first") for _ in range(2)]
    here.publish(sent)
    [running] = await lease.receive(queues, {PLAIN: 1}, PATIENCE)
    assert await lease.settle([Settlement(delivery=running)]) == [True]
    [first] = [one for one in lease._consumers if one.line.queue == "first"]
    await eventually(lambda: not first.tag, "the second message to go back, with the consumer")
    async with asyncio.timeout(PATIENCE):
        [second] = await lease.receive(queues, {PLAIN: 1}, 10 * PATIENCE)
    assert [running.message.id, second.message.id] == [one.id for one in sent]
    assert await lease.settle([Settlement(delivery=second)]) == [True]
    await lease.end()


# --- RabbitMQ -----------------------------------------------------------------------------------------


async def test_what_rabbitmq_cannot_do_by_stomp_is_refused_with_the_reason(
    rabbit: RabbitServer, servers: list[Server]
) -> None:
    vhost = rabbit.vhost()
    here = broker(servers, rabbit.stomp_url(vhost))
    with pytest.raises(NotSupported, match="holds no delayed messages"):
        here.publish([message(due_at=time.time() + 60)])
    here.publish([message(), message(due_at=time.time() - 60)])
    [counts] = await here.operations().queues()
    assert "does not count" in counts.uncounted
    assert (counts.ready, counts.shown(counts.ready), counts.shown(counts.dead)) == (0, "?", "?")
    with pytest.raises(BrokerMisconfigured, match="refuses the user 'nobody'"):
        broker(servers, rabbit.stomp_url(vhost, "nobody:x")).publish([message()])
    with pytest.raises(BrokerMisconfigured, match="refuses the virtual host 'nowhere'"):
        broker(servers, rabbit.stomp_url("nowhere")).publish([message()])
    rabbit.drop(vhost)


# --- Results ------------------------------------------------------------------------------------------


async def test_results_come_after_the_server_was_killed(servers: list[Server]) -> None:
    from celeriac import states
    from celeriac.model.outcome import Outcome

    with running_activemq() as server:
        servers.append(Server(server.url("results"), timeout=PATIENCE))
        backend = StompReplyBackend(servers[-1], Clock())
        outcome = Outcome(id=new_id(), task="t", state=states.SUCCESS, reply_to=backend.reply_to)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await backend.store([outcome])
        assert await backend.afetch([outcome.id], wait=PATIENCE) == {outcome.id: outcome}
        backend.close()
        servers[-1].close()
