"""STOMP: frames, addresses, what a server refuses, what it is not set up for, windows, and results."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.backends.stomp import StompReplyBackend
from celeriac.brokers.stomp import StompBroker
from celeriac.brokers.stomp.windows import Window
from celeriac.drivers.stomp.address import Address
from celeriac.drivers.stomp.error_translation import ConnectionLost
from celeriac.drivers.stomp.frames import Frame, Parser, Publication, escaped, headers
from celeriac.drivers.stomp.server import Server
from celeriac.errors import BrokerError, BrokerMisconfigured, BrokerUnavailable, ImproperlyConfigured, NotSupported
from celeriac.model.clock import Clock
from celeriac.model.message import PLAIN, Message, new_id
from celeriac.ports.broker import Action, Settlement
from celeriac.ports.operations import WorkerInfo
from tests.activemq_server import ActiveMQServer, running_activemq
from tests.certificates import Certificates
from tests.patience import PATIENCE, in_time
from tests.proxies import Listening
from tests.rabbitmq_server import RabbitServer

USERS = """<plugins><simpleAuthenticationPlugin><users>
  <authenticationUser username="me" password="se:cret" groups="all"/>
</users></simpleAuthenticationPlugin></plugins>"""


def message(**fields: Any) -> Message:
    return Message(id=new_id(), task="t", **fields)


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    made: list[Server] = []
    yield made
    for server in made:
        server.close()


@pytest.fixture(scope="module")
def bare() -> Iterator[ActiveMQServer]:
    """An ActiveMQ that is not set up for Celeriac, has a user, and takes small frames."""
    with running_activemq(broker="", policy="", plugins=USERS, options="?wireFormat.maxFrameSize=100000") as server:
        yield server


def broker(servers: list[Server], url: str, **options: Any) -> StompBroker:
    servers.append(Server(url, **options))
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
def test_wrong_credentials_are_named(bare: ActiveMQServer, servers: list[Server], credentials: str) -> None:
    with pytest.raises(BrokerMisconfigured, match="refuses the user"):
        broker(servers, bare.url(credentials=credentials)).publish([message()])


def test_a_password_with_a_colon_is_right(bare: ActiveMQServer, servers: list[Server]) -> None:
    broker(servers, bare.url(credentials="me:se%3Acret@")).publish([message()])


@pytest.mark.parametrize(("fields", "line"), [
    ({"due_at": time.time() + 3600}, 'schedulerSupport="true"'), ({"priority": 9}, 'prioritizedMessages="true"'),
])  # fmt: skip
async def test_what_activemq_is_not_set_up_for_is_refused_with_the_line_to_change(
    bare: ActiveMQServer, servers: list[Server], fields: dict[str, Any], line: str
) -> None:
    unfit = broker(servers, bare.url(credentials="me:se%3Acret@"))
    for _ in range(2):
        with pytest.raises(BrokerMisconfigured, match=line):
            unfit.publish([message(**fields)])
        with pytest.raises(BrokerMisconfigured, match=line):
            await unfit.apublish([message(**fields)])
    unfit.publish([message()])


async def test_a_message_that_is_too_large_is_refused(bare: ActiveMQServer, servers: list[Server]) -> None:
    narrow = broker(servers, bare.url(credentials="me:se%3Acret@"), timeout=5.0)
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


@pytest.mark.parametrize("name", ["", "a,b", "a*", "a>", "ü", " a", "a/dead", "celeriac.x", "ActiveMQ.x", "x" * 181])
async def test_names_that_a_server_would_not_take_are_refused(
    activemq: ActiveMQServer, servers: list[Server], name: str
) -> None:
    with pytest.raises(NotSupported, match="cannot be named"):
        await broker(servers, activemq.url()).apublish([message(queue=name)])


# --- TLS ----------------------------------------------------------------------------------------------


class Tunnel(Listening):
    """TLS in front of a server."""

    def __init__(self, to: int, certificate: Path, key: Path) -> None:
        self._to = to
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        super().__init__()

    def take(self, one: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(one, server_side=True) as safe:
            with socket.create_connection(("127.0.0.1", self._to)) as theirs:
                while data := safe.recv(65536):
                    theirs.sendall(data)
                    theirs.settimeout(0.3)
                    with contextlib.suppress(TimeoutError):
                        while answer := theirs.recv(65536):
                            safe.sendall(answer)


def test_over_tls_a_certificate_is_checked(activemq: ActiveMQServer, servers: list[Server], tmp_path: Path) -> None:
    authority = Certificates(tmp_path / "ca")
    tunnel = Tunnel(activemq.port, *authority.sign("server", "IP:127.0.0.1"))
    url = f"stomps://127.0.0.1:{tunnel.port}/tls"
    with pytest.raises(BrokerMisconfigured, match=r"cannot be trusted.*stomps://…\?ssl_ca_certs"):
        broker(servers, url).publish([message()])
    broker(servers, f"{url}?ssl_ca_certs={authority.authority}").publish([message()])
    tunnel.close()


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
    [step] = [data for data in written if b"SEND" in data]
    frames = Parser().feed(step)
    assert [frame.command for frame in frames] == ["BEGIN", "SEND", "ACK", "COMMIT"]
    assert len({frame.headers["transaction"] for frame in frames}) == 1
    [again] = await lease.receive(["default"], {PLAIN: 1}, PATIENCE)
    assert (again.message.id, again.deliveries) == (found.message.id, 1)
    await lease.end()


async def test_messages_that_a_worker_leaves_when_it_ends_do_not_count_as_lost(
    activemq: ActiveMQServer, servers: list[Server]
) -> None:
    here = broker(servers, activemq.url())
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

    def subscribe(self, take: Any, destination: str, ack: str = "", more: Any = None) -> tuple[str, Any]:
        self.told.append(("subscribe", more["window"]))
        return str(len(self.told)), None

    def unsubscribe(self, id: str) -> None:
        self.told.append("unsubscribe")

    def acknowledge(self, ids: list[str]) -> None:
        self.told.append(("acknowledge", len(ids)))


def test_a_window_is_widened_by_a_subscription_and_narrowed_by_acknowledgements_that_are_held_back() -> None:
    from celeriac.brokers.stomp.windows import Pushed

    connection = Recorder()
    window = Window(connection, "q", lambda size: {"window": size}, lambda *_: None)  # type: ignore[arg-type, return-value]

    def push(count: int) -> list[Pushed]:
        made = [Pushed(Frame("MESSAGE", {"ack": "a"}, b""), number, window) for number in range(count)]
        for _ in made:
            window.received()
        return made

    window.open("q#1", 3)
    first = push(3)
    window.open("q#2", 1)
    assert connection.told == [("subscribe", 3), ("subscribe", 1)]
    window.acknowledge(first)  # of an earlier consumer: this one wants no more
    assert (connection.told[2:], len(window.held)) == ([], 3)
    window.open("q#3", 3)
    assert connection.told[2:] == [("acknowledge", 2)]
    assert not window.is_untidy  # something was pushed just now
    window._active_at = 0.0
    assert window.is_untidy  # one is held back, and nothing is unsettled
    [running] = push(1)
    assert not window.is_untidy
    window.close()
    window.acknowledge([running])
    window._active_at = 0.0
    window.is_idle()
    assert connection.told[3:] == [("acknowledge", 2), "unsubscribe", "unsubscribe", ("subscribe", 1)]


# --- RabbitMQ -----------------------------------------------------------------------------------------


async def test_what_rabbitmq_cannot_do_by_stomp_is_refused_with_the_reason(
    rabbit: RabbitServer, servers: list[Server]
) -> None:
    vhost = rabbit.vhost()
    here = broker(servers, rabbit.stomp_url(vhost))
    with pytest.raises(NotSupported, match="holds no delayed messages"):
        here.publish([message(due_at=time.time() + 60)])
    here.publish([message(), message(due_at=time.time() - 60)])
    with pytest.raises(NotSupported, match="does not count"):
        await here.operations().queues()
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
