"""Tests of the hub's own: keys, repeated requests, restarts, frames that are none, clients that are slow or gone.

`test_brokers.py` has the tests that all brokers and backends share; `promises/` what it is like when a hub is away.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from celeriac import Celeriac
from celeriac.backends.zmq import HubBackend
from celeriac.brokers.sqlite.rows import DUE
from celeriac.brokers.zmq import HubBroker
from celeriac.drivers.zmq.address import Address, hex_of, read_key_file
from celeriac.drivers.zmq.conversation import Ask, Conversation
from celeriac.drivers.zmq.frames import (
    START,
    VERSION,
    Request,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from celeriac.drivers.zmq.server import Server
from celeriac.drivers.zmq.verbs import VERBS, Settled
from celeriac.errors import (
    AccessRefused,
    BrokerError,
    BrokerMisconfigured,
    BrokerUnavailable,
    ImproperlyConfigured,
    LeaseLost,
)
from celeriac.hub.carrier import Carrier
from celeriac.hub.clients import Clients
from celeriac.hub.database import HubDatabase
from celeriac.hub.keys import make_client
from celeriac.hub.lookout import Lookout
from celeriac.hub.parts.leases import HubLease
from celeriac.hub.sessions import ALL_BYTES, IDLE_SECONDS, SESSIONS, Job, Session, Sessions
from celeriac.hub.turns import Turns
from celeriac.model.clock import Clock
from celeriac.model.codec import Codec
from celeriac.model.message import PLAIN, encode, new_id
from celeriac.ports.broker import Action, Delivery, Settlement
from celeriac.ports.operations import WorkerInfo
from celeriac.testing import running_worker
from tests.clock import FakeClock
from tests.conformance.backend import node_end, plan
from tests.conformance.broker import LONG, ids, leases_end_with_their_file, message, receive, success
from tests.hub_server import HubServer, running_hub
from tests.patience import FOR_EVER, PATIENCE, in_time, wait_for

_encode = msgspec.msgpack.encode


def broker_on(hub: HubServer, url: str = "") -> HubBroker:
    return HubBroker(client(url or hub.url), Clock())


MADE: list[Server] = []


def client(url: str, timeout: float = PATIENCE) -> Server:
    MADE.append(Server(url, timeout=timeout))
    return MADE[-1]


@pytest.fixture(autouse=True)
def close_clients() -> Iterator[None]:
    yield
    while MADE:
        MADE.pop().close()


@pytest.fixture
def hub(hub_on_time: HubServer) -> HubServer:
    hub_on_time.emptied()
    return hub_on_time


@pytest.fixture
def own_hub(tmp_path: Path) -> Iterator[HubServer]:
    with running_hub(tmp_path) as server:
        yield server


@pytest.fixture
def broker(hub: HubServer) -> Iterator[HubBroker]:
    made = broker_on(hub)
    yield made
    made.close()


@contextmanager
def dealer(hub: HubServer, unread: int = 1000) -> Iterator[zmq.Socket[bytes]]:
    """A client that says what it wants. It takes in so many frames before they are read."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger, socket.rcvhwm = 0, unread
    socket.rcvtimeo = int(PATIENCE * 1000)
    socket.connect(hub.bind)
    yield socket
    socket.close()
    context.term()


SESSION = bytearray(16)


@pytest.fixture(autouse=True)
def new_session() -> None:
    SESSION[:] = os.urandom(16)


def say(socket: zmq.Socket[bytes], number: int, verb: str, *arguments: Any, repeated: bool = False,
        oldest: int = 0) -> None:  # fmt: skip
    raw = msgspec.Raw(_encode(arguments))
    socket.send(encode_request(Request(bytes(SESSION), number, oldest, repeated, verb, raw)))


def heard(socket: zmq.Socket[bytes], verb: str) -> tuple[int, Any]:
    reply = decode_reply(socket.recv())
    if reply.kind:
        return reply.number, reply.kind
    return reply.number, VERBS[verb].result(reply.body)


# --- Addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [("zmq://hub", "tcp://hub:5557"), ("zmq://hub:7000", "tcp://hub:7000"), ("zmq://[::1]:7", "tcp://[::1]:7"),
     ("zmq://[::1]", "tcp://[::1]:5557"), ("zmq+ipc:///run/a%20hub.sock", "ipc:///run/a hub.sock")],
)  # fmt: skip
def test_urls_are_parsed(url: str, endpoint: str) -> None:
    assert Address.of(url) == Address(endpoint)


@pytest.mark.parametrize(
    ("url", "words"),
    [("zmq://", "no host"), ("zmq://hub:x", "port 'x' is not a number"), ("zmq://hub:0", "no port 0"),
     ("zmq://hub/1", "no databases"), ("zmq://u:p@hub", "no users"), ("zmq+ipc://", "no path"),
     ("zmq://hub?key=1", "no option 'key'"), ("zmq://hub?server_key=00", "needs both"),
     ("zmq://hub?server_key=00&key_file=/nowhere", "No such file")],
)  # fmt: skip
def test_invalid_urls_are_refused(url: str, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        Address.of(url)


# --- Keys ---------------------------------------------------------------------------------------------


def with_keys(hub: HubServer, name: str, server_key: str = "") -> str:
    keys = hub.folder / "keys"
    public = server_key or hex_of(read_key_file(keys / "hub.key")[0])
    return f"{hub.url}?server_key={public}&key_file={keys / f'{name}.key_secret'}"


def test_a_client_with_a_key_is_let_in_under_its_name_and_listed(locked: HubServer) -> None:
    broker = broker_on(locked, with_keys(locked, "web"))
    broker.publish([message()])
    assert "web" in [one.name for one in asyncio.run(broker.clients())]  # other tests have other clients
    broker.close()


def test_secret_keys_are_for_their_owner_alone(locked: HubServer) -> None:
    for name in ("hub", "web"):
        assert (locked.folder / "keys" / f"{name}.key_secret").stat().st_mode & 0o777 == 0o600
    assert (locked.folder / "keys").stat().st_mode & 0o777 == 0o700


def test_a_client_whose_key_is_not_known_is_told_so_at_once(locked: HubServer) -> None:
    make_client(locked.folder / "keys", "stranger")
    (locked.folder / "keys" / "clients" / "stranger.key").unlink()
    server = client(with_keys(locked, "stranger"))
    begun = time.monotonic()
    with pytest.raises(AccessRefused, match=r"celeriac hub keys NAME"):
        server.do("broker.last_broadcast")
    with pytest.raises(AccessRefused, match=r"celeriac hub keys NAME"):
        asyncio.run(server.ado("broker.last_broadcast"))
    assert time.monotonic() - begun < PATIENCE
    assert "was not let in" in locked.text()


def test_a_client_is_shut_out_and_let_in_again_while_the_hub_runs(locked: HubServer) -> None:
    keys = locked.folder / "keys"
    make_client(keys, "worker")
    server = client(with_keys(locked, "worker"))
    server.do("broker.last_broadcast")
    (keys / "clients" / "worker.key").rename(keys / "worker.key")

    def is_refused() -> bool:
        try:
            server.do("broker.last_broadcast")
        except AccessRefused:
            return True
        return False

    wait_for(is_refused, "being shut out")
    (keys / "worker.key").rename(keys / "clients" / "worker.key")
    wait_for(lambda: not is_refused(), "being let in")
    server.close()


async def test_what_a_client_waits_for_is_refused_when_it_is_shut_out(locked: HubServer) -> None:
    keys = locked.folder / "keys"
    make_client(keys, "idle")
    theirs, ours = (broker_on(locked, with_keys(locked, name)) for name in ("idle", "web"))
    lease = await theirs.lease(WorkerInfo(name="theirs"), LONG, 3)
    waiting = asyncio.ensure_future(receive(lease, wait=LONG, queues=["confidential"]))
    heard = await theirs.listen("news")
    await theirs.operations().workers()  # an answer: the hub has what was asked before
    (keys / "clients" / "idle.key").unlink()
    with pytest.raises(AccessRefused, match="shut out"):
        await waiting
    with pytest.raises(AccessRefused, match="shut out"):
        await anext(heard)
    ours.publish([sent := message("confidential")])
    found = await receive(await ours.lease(WorkerInfo(name="ours"), LONG, 3), wait=LONG, queues=["confidential"])
    assert ids(found) == [sent.id]


def test_a_client_with_another_key_is_let_in_and_whoever_has_the_earlier_one_is_shut_out(locked: HubServer) -> None:
    keys = locked.folder / "keys"
    make_client(keys, "moved")
    url = with_keys(locked, "moved")
    earlier, silent = client(url), client(url)
    earlier.do("broker.last_broadcast")
    (keys / "moved.key_secret").unlink()
    (keys / "clients" / "moved.key").unlink()
    make_client(keys, "moved")
    client(with_keys(locked, "moved")).do("broker.last_broadcast")
    with pytest.raises(AccessRefused, match="shut out"):
        earlier.do("broker.last_broadcast")
    with pytest.raises(AccessRefused, match="does not know"):
        silent.do("broker.last_broadcast")


def test_a_client_without_keys_gets_no_answer_from_a_hub_that_wants_some(locked: HubServer) -> None:
    with pytest.raises(BrokerUnavailable, match="this URL has none: `celeriac hub keys NAME` makes one"):
        client(locked.url, 0.5).do("broker.last_broadcast")


def test_a_hub_with_another_key_is_not_believed(locked: HubServer) -> None:
    with pytest.raises(BrokerUnavailable, match="compare `server_key`"):
        client(with_keys(locked, "web", "0" * 64), 0.5).do("broker.last_broadcast")


def hub_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "celeriac", "hub", *arguments], cwd=folder, text=True,
                          capture_output=True, timeout=PATIENCE, check=False)  # fmt: skip


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:5557", "tcp://*:5557", "tcp://[::]:5557", "tcp://10.0.0.1:5557"])
def test_a_hub_that_others_reach_and_that_has_no_keys_does_not_start(tmp_path: Path, bind: str) -> None:
    from click.testing import CliRunner

    from celeriac.cli.root import main

    done = CliRunner().invoke(main, ["hub", "--bind", bind, "--data", str(tmp_path / "q.db")])
    assert done.exit_code == 2
    assert "celeriac hub keys" in done.output
    assert not (tmp_path / "q.db").exists()


def test_insecure_is_said_and_warned_of(tmp_path: Path) -> None:
    with running_hub(tmp_path, "--insecure", bind="tcp://0.0.0.0:*") as hub:
        assert "Everybody who reaches" in hub.text()


def test_the_command_makes_keys_and_says_what_a_client_needs(tmp_path: Path) -> None:
    made = hub_command(tmp_path, "keys", "web")
    assert "broker_url = zmq://HOST:5557?server_key=" in made.stdout
    assert sorted(path.name for path in (tmp_path / "hub-keys").rglob("*.key*")) == [
        "hub.key", "hub.key_secret", "web.key", "web.key_secret",
    ]  # fmt: skip
    secret = tmp_path / "hub-keys" / "web.key_secret"
    for _ in range(2):
        again = hub_command(tmp_path, "keys", "web")
        assert again.returncode == 2
        assert "There are keys of web already" in again.stderr
        was_there = secret.exists()
        secret.unlink(missing_ok=True)  # it was moved to the client
    assert not was_there, "a secret that the hub does not know"


def test_what_is_wrong_with_keys_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (("keys", "--folder", "file/keys"), "Keys cannot be written to file/keys"),
        (("keys", "web", "--folder", "/proc/no/keys"), "Keys cannot be written to /proc/no/keys"),
        (("--keys", "empty"), "celeriac hub keys --folder empty"),
    ):
        done = hub_command(tmp_path, *arguments)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr


# --- Where it listens ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bind", "words"),
    [("tcp://127.0.0.1:99999", "no port 99999"), ("udp://127.0.0.1:1", "neither tcp"), ("tcp://127.0.0.1", "neither"),
     ("ipc://@hub", "neither tcp"), ("tcp://none.such:5557", "no such address"), ("ipc:///none/hub", "no such folder"),
     (f"ipc:///tmp/{'x' * 120}", "at most 107 bytes"), ("tcp://192.0.2.1:5557", "no such address")],
)  # fmt: skip
def test_an_endpoint_that_cannot_be_is_refused_with_the_reason(tmp_path: Path, bind: str, words: str) -> None:
    done = hub_command(tmp_path, "--bind", bind, "--insecure")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_where_a_hub_listens_no_other_hub_can(tmp_path: Path, scheme: str) -> None:
    with running_hub(tmp_path, bind=f"ipc://{tmp_path}/s" if scheme == "ipc" else "") as hub:
        done = hub_command(tmp_path, "--bind", hub.bind, "--data", str(tmp_path / "other.db"))
        assert done.returncode == 2
        assert "another process listens there" in done.stderr
        broker = broker_on(hub)
        broker.publish([message()])
        broker.close()


def test_a_file_is_not_replaced_by_a_socket(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("important")
    done = hub_command(tmp_path, "--bind", f"ipc://{tmp_path}/notes")
    assert "a file is there that is no socket" in done.stderr
    assert (tmp_path / "notes").read_text() == "important"


def test_a_socket_that_a_killed_hub_has_left_is_replaced(tmp_path: Path) -> None:
    with running_hub(tmp_path, bind=f"ipc://{tmp_path}/s") as hub:
        hub.kill()
        assert (tmp_path / "s").is_socket()
        hub.start()
        broker = broker_on(hub)
        broker.publish([message()])
        broker.close()


def test_a_socket_has_the_mode_that_it_is_given(tmp_path: Path) -> None:
    with running_hub(tmp_path, "--socket-mode", "660", bind=f"ipc://{tmp_path}/s"):
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o660
    assert "three digits" in hub_command(tmp_path, "--socket-mode", "0x").stderr


@pytest.mark.parametrize("url", ["zmq://a b", f"zmq+ipc:///{'x' * 200}", "zmq://[::1"])
def test_a_url_that_no_hub_can_have_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="zmq://host:5557"):
        client(url).do("broker.last_broadcast")


def test_a_socket_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    with running_hub(tmp_path, bind=f"ipc://{tmp_path}/s") as hub:
        broker = broker_on(hub)
        broker.publish([message()])
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        broker.close()


def test_a_client_that_is_gone_before_the_hub_knows_its_address_is_met() -> None:
    found = Clients(None).meet(b"\0abcd", zmq.Frame(b"x"), 0.0)
    assert found is not None
    assert found.address == ""


# --- Requests that are repeated ------------------------------------------------------------------------


def test_a_request_is_answered_once_more_and_not_carried_out_again(hub: HubServer) -> None:
    with dealer(hub) as socket:
        numbers = set()
        for _ in range(2):
            say(socket, 7, "broker.lease", b"{}", 60.0)
            numbers.add(heard(socket, "broker.lease"))
        assert len(numbers) == 1


def test_a_waiting_request_that_is_repeated_is_answered_on_the_new_connection(hub: HubServer) -> None:
    with dealer(hub) as old, dealer(hub) as new:
        say(old, 1, "broker.lease", b"{}", 60.0)
        _, lease = heard(old, "broker.lease")
        say(old, 2, "leases.receive", lease, 1, [], ["default"], {PLAIN: 5}, 600.0)
        say(old, 3, "broker.last_broadcast")
        heard(old, "broker.last_broadcast")
        say(new, 2, "leases.receive", lease, 1, [], ["default"], {PLAIN: 5}, 600.0, repeated=True)
        say(new, 4, "broker.publish", [encode(message(id="m"))])
        answers = dict(heard(new, verb) for verb in ("broker.publish", "leases.receive"))
        assert len(answers[2]) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_after_a_restart_a_repeated_receive_gives_the_same_messages_and_a_repeated_settlement_is_true(
    own_hub: HubServer, number: int
) -> None:
    with dealer(own_hub) as socket:
        say(socket, 1, "broker.publish", [encode(message()) for _ in range(3)])
        say(socket, 2, "broker.lease", b"{}", 600.0)
        _, lease = [heard(socket, verb) for verb in ("broker.publish", "broker.lease")][-1]
        say(socket, 3, "leases.receive", lease, 1, [], ["default"], {PLAIN: 2}, 0.0)
        _, given = heard(socket, "leases.receive")
        items = [Settled(one.token, Action.ACKNOWLEDGE) for one in given]
        say(socket, 4, "leases.settle", lease, items[:1])
        assert heard(socket, "leases.settle") == (4, [True])
    own_hub.kill(number)
    own_hub.start()
    with dealer(own_hub) as socket:
        say(socket, 3, "leases.receive", lease, 1, [], ["default"], {PLAIN: 2}, 0.0, repeated=True)
        assert heard(socket, "leases.receive") == (3, given[1:])
        say(socket, 4, "leases.settle", lease, items, repeated=True)
        assert heard(socket, "leases.settle") == (4, [True, True])
        say(socket, 5, "leases.settle", lease, items)
        assert heard(socket, "leases.settle") == (5, [False, False])


async def test_a_receive_that_is_cancelled_has_taken_nothing(broker: HubBroker) -> None:
    lease = await broker.lease(WorkerInfo(name="w"), 60.0, 3)
    for _ in range(20):
        waiting = asyncio.ensure_future(lease.receive(["default"], {PLAIN: 5}, PATIENCE))
        await asyncio.sleep(0)
        await broker.apublish([message()])
        waiting.cancel()
        await asyncio.wait([waiting])
        if not waiting.cancelled():
            await lease.settle([Settlement(delivery=one) for one in waiting.result()])
    left = await lease.receive(["default"], {PLAIN: 50}, 0.0)
    assert all(one.deliveries == 1 for one in left)
    await lease.settle([Settlement(delivery=one) for one in left])
    assert await broker.operations().queues() == []


async def test_a_call_goes_on_when_the_hub_is_restarted_meanwhile(own_hub: HubServer) -> None:
    broker = broker_on(own_hub)
    backend = HubBackend(broker.server, broker.clock)
    lease = await broker.lease(WorkerInfo(name="w"), 600.0, 3)
    receiving = asyncio.ensure_future(lease.receive(["default"], {PLAIN: 5}, PATIENCE))
    awaiting = asyncio.ensure_future(backend.afetch(["nobody"], PATIENCE))
    await broker.apublish([message("elsewhere")])
    own_hub.kill()
    sending = asyncio.ensure_future(broker.apublish([sent := message()]))
    await asyncio.to_thread(own_hub.start)
    await sending
    [delivery] = await receiving
    assert delivery.message.id == sent.id
    end = success(message(id="nobody"))
    await lease.settle([Settlement(delivery=delivery, outcome=end)])
    assert await awaiting == {"nobody": end}
    broker.close()


def test_what_was_published_before_a_restart_is_published_again_with_that_said(own_hub: HubServer) -> None:
    """The first publication may have run to its end meanwhile: then a worker looks for the outcome first."""
    broker = broker_on(own_hub)
    broker.publish([message()])
    (channel,) = broker.server._idle
    own_hub.send(signal.SIGSTOP)
    sent = message()
    thread = threading.Thread(target=broker.publish, args=([sent],))
    thread.start()
    wait_for(lambda: any(ask.sent for ask in list(channel._conversation.pending.values())), "a request under way")
    own_hub.kill()
    own_hub.start()
    thread.join(PATIENCE)
    found = asyncio.run(broker.operations().find([sent.id]))
    assert found[sent.id][1].again
    broker.close()


# --- Group commit ---------------------------------------------------------------------------------------


async def test_what_comes_from_many_clients_at_one_time_is_one_transaction(own_hub: HubServer) -> None:
    brokers = [broker_on(own_hub) for _ in range(4)]
    for broker in brokers:
        broker.server._local = type(broker.server._local)()
    await asyncio.gather(*(broker.apublish([message()]) for broker in brokers))
    watching = sqlite3.connect(own_hub.data)

    def version() -> int:
        return int(watching.execute("PRAGMA data_version").fetchone()[0])

    def count() -> int:
        return int(watching.execute("SELECT count(*) FROM ready").fetchone()[0])

    before, had = version(), count()
    own_hub.send(signal.SIGSTOP)
    sending = [asyncio.ensure_future(broker.apublish([message()])) for broker in brokers for _ in range(25)]
    await asyncio.sleep(0.3)
    own_hub.send(signal.SIGCONT)
    versions = set()
    while not all(task.done() for task in sending):
        versions.add(version())
        await asyncio.sleep(0)
    assert count() == had + 100
    assert version() - before <= 20
    watching.close()
    for broker in brokers:
        broker.close()


# --- What a client should not send ----------------------------------------------------------------------


JUNK = [b"", b"x", b"CLR", b"\0" * 100, START, START + b"\xc1", START + _encode([1, 2]), START + _encode(["s"] * 6),
        START + _encode([b"s" * 16, -1, 0, False, "broker.publish", []]), os.urandom(1000)]  # fmt: skip


def test_frames_that_are_none_do_no_harm(hub: HubServer) -> None:
    with dealer(hub) as socket:
        for frame in JUNK:
            socket.send(frame)
            socket.send_multipart([b"", frame])
        say(socket, 1, "broker.last_broadcast")
        assert heard(socket, "broker.last_broadcast") == (1, 0)


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [("no.verb", ()), ("broker.publish", ()), ("broker.publish", (1,)), ("broker.publish", ([b"junk"],)),
     ("broker.publish", ([b"\xc1\x03\xff\xff\xff\xff"],)), ("leases.receive", (1, 1, [], ["q"], {"plain": "x"}, 0.0)),
     ("leases.settle", (1, [["x"]])), ("leases.settle", (1 << 62, [["1:2:3:4:5"]])), ("leases.renew", (1 << 63, 1.0)),
     ("operations.remove", ("q", [[[1, 2]]])), ("backend.store", ([b"\x80"],)), ("history.swap", ([[]], {}))],
)  # fmt: skip
def test_requests_that_make_no_sense_are_told_so_and_do_no_harm(hub: HubServer, verb: str, arguments: Any) -> None:
    with dealer(hub) as socket:
        say(socket, 1, verb, *arguments)
        reply = decode_reply(socket.recv())
        assert reply.number == 1
        assert reply.kind in ("BrokerError", "LeaseLost") or msgspec.msgpack.decode(reply.body) == [False]
        say(socket, 2, "broker.lease", b"{}", 60.0)
        assert heard(socket, "broker.lease")[0] == 2


def test_a_client_with_too_many_sessions_is_refused_another_one_and_keeps_those_that_it_has(own_hub: HubServer) -> None:
    def ask(socket: zmq.Socket[bytes], session: int, number: int) -> None:
        socket.send(encode_request(Request(session.to_bytes(16), number, number, False, "broker.last_broadcast",
                                           msgspec.Raw(_encode(())))))  # fmt: skip

    with dealer(own_hub) as socket:
        for begin in range(0, SESSIONS, 50):  # fewer than ZeroMQ keeps for one connection
            for session in range(begin, begin + 50):
                ask(socket, session, 1)
            assert {decode_reply(socket.recv()).kind for _ in range(50)} == {""}
        ask(socket, SESSIONS, 1)
        reply = decode_reply(socket.recv())
        assert reply.kind == "BrokerError"
        assert "10,000 sessions, the most that one client may have" in msgspec.msgpack.decode(reply.body)
        ask(socket, 0, 2)
        assert heard(socket, "broker.last_broadcast") == (2, 0)


def test_what_the_sessions_keep_together_is_bounded_and_those_heard_of_last_keep_theirs() -> None:
    sessions, answer = Sessions(), bytes(1 << 20)
    made = [sessions.of(number.to_bytes(16), "ann", 1000.0 + number) for number in range(ALL_BYTES // len(answer))]
    for session in made:
        session.keep(1, answer)
    sessions.bound()
    assert all(session.answers for session in made)
    sessions.of(bytes(16), "ann", 5000.0).keep(2, answer)
    sessions.bound()
    assert [session for session in made if not session.answers] == [made[1]]
    assert list(made[0].answers) == [1, 2]
    assert sum(session.size for session in made) == ALL_BYTES


def test_a_client_may_have_new_sessions_once_its_idle_ones_are_forgotten_and_others_are_not_counted() -> None:
    sessions = Sessions()
    for number in range(SESSIONS):
        sessions.of(number.to_bytes(16), "many", 1000.0)
    sessions.of(os.urandom(16), "other", 1000.0)
    with pytest.raises(BrokerError, match="many has 10,000 sessions"):
        sessions.of(os.urandom(16), "many", 1000.0)
    sessions.of(bytes(16), "many", 1000.0 + IDLE_SECONDS)
    sessions.forget_idle(1001.0 + IDLE_SECONDS)
    assert sessions.counts == {"many": 1}
    assert sessions.of(os.urandom(16), "many", 1001.0 + IDLE_SECONDS) is not sessions.known[bytes(16)]


def test_another_version_is_told_and_the_error_says_who_is_older(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from celeriac.drivers.zmq import conversation

    def newer(request: Request) -> bytes:
        frame = bytearray(encode_request(request))
        frame[len(START) - 1] = VERSION + 1
        return bytes(frame)

    def as_newer(frame: bytes) -> Any:
        assert frame == START
        raise conversation.OtherVersion(VERSION - 1)

    monkeypatch.setattr(conversation, "encode_request", newer)
    monkeypatch.setattr(conversation, "decode_reply", as_newer)
    with pytest.raises(BrokerMisconfigured, match="upgrade the hub"):
        client(hub.url).do("broker.last_broadcast")


def test_a_client_that_reads_no_answers_keeps_no_other_from_its_work(hub: HubServer, broker: HubBroker) -> None:
    with dealer(hub) as socket:
        big = [encode(message(body=b"x" * 100_000)) for _ in range(20)]
        say(socket, 1, "broker.publish", big)
        for number in range(2, 500):
            say(socket, number, "operations.peek", "default", 20, 0, oldest=number)
        broker.publish([message("other")])
        assert ids(asyncio.run(broker.operations().peek("other", 5)))


def test_a_hub_with_answers_for_a_client_that_reads_none_sleeps(own_hub: HubServer) -> None:
    assert own_hub.process is not None
    process = psutil.Process(own_hub.process.pid)
    with dealer(own_hub, unread=1) as socket:
        say(socket, 1, "broker.publish", [encode(message(body=b"x" * 500_000))])
        for number in range(2, 200):
            say(socket, number, "operations.peek", "default", 1, 0, oldest=number)
        server = client(own_hub.url)

        def sleeps() -> bool:
            before = sum(process.cpu_times()[:2])
            server.do("broker.heard", "nothing", 0, 1.0, wait=1.0)  # one second passes
            return sum(process.cpu_times()[:2]) - before < 0.2

        wait_for(sleeps, "the end of all requests")


async def test_a_lease_that_is_gone_is_lost(broker: HubBroker) -> None:
    lease = await broker.lease(WorkerInfo(name="w"), 60.0, 3)
    await lease.end()
    with pytest.raises(LeaseLost):
        await lease.renew()
    await broker.apublish([message()])
    with pytest.raises(LeaseLost):
        await lease.receive(["default"], {PLAIN: 1}, 0.0)


# --- Idle workers ---------------------------------------------------------------------------------------


def job(number: int) -> Job:
    session = Session("", 0.0)
    return Job(b"", "", session, Request(bytes(16), number, number, False, "leases.overdue", msgspec.Raw()))


def test_one_of_those_who_wait_is_woken_and_the_others_if_that_does_not_help() -> None:
    there = False
    lookout = Lookout(lambda job: there)
    first, second, third = job(1), job(2), job(3)
    for one in (first, second, third):
        lookout.begin(one, deadline=60.0)
    assert lookout.look(0.0) == []
    there = True
    assert lookout.look(0.1) == []  # too early
    assert lookout.look(1.0) == [second]  # the first was asked for before
    assert lookout.look(1.1) == []
    assert lookout.look(2.0) == [first, third]
    assert [one.body for one in (first, second, third)] == [True] * 3
    assert lookout.next_at() == float("inf")


def test_who_waits_in_vain_is_answered_at_the_end_of_the_time() -> None:
    lookout = Lookout(lambda job: False)
    one = job(1)
    lookout.begin(one, deadline=60.0)
    assert lookout.look(59.0) == []
    assert lookout.look(60.0) == [one]
    assert one.body is False


async def test_a_worker_is_told_when_the_lease_of_another_has_expired(broker: HubBroker) -> None:
    lease = await broker.lease(WorkerInfo(name="w"), FOR_EVER, 3)
    dead = await broker.lease(WorkerInfo(name="dead"), 0.1, 3)
    begun = time.monotonic()
    while True:
        await lease.until_sweep(1.0)
        await lease.sweep()
        try:
            await dead.renew()
        except LeaseLost:
            break
    assert in_time(time.monotonic() - begun, 2.0)


async def test_a_worker_is_told_of_a_node_that_its_worker_has_left(broker: HubBroker) -> None:
    backend = HubBackend(broker.server, Clock())
    workflow = new_id()
    await backend.aplant(plan(workflow))
    await backend.conclude([node_end(workflow, 0, leaves_pending=True)])
    begun = time.monotonic()
    while not await backend.claim_pending(5, 60.0):
        await backend.until_pending(1.0)
    assert in_time(time.monotonic() - begun, 2.0)


def test_a_client_tells_what_it_has_and_the_hub_forgets_that() -> None:
    conversation, session = Conversation("here"), Session("", 0.0)
    long, short, last = (Ask("hub.clients", ()) for _ in range(3))
    for ask in (long, short):
        conversation.begin(ask)
        conversation.frame(ask)
        session.keep(ask.number, b"answer")
    assert conversation.hear(encode_reply(short.number, "", _encode([]))) == [short]
    conversation.begin(last)
    request = decode_request(conversation.frame(last))
    assert (request.oldest, request.over) == (long.number, [short.number])
    session.forget(request.oldest, request.over)
    assert list(session.answers) == [long.number]
    assert decode_request(conversation.frame(last)).over == []


def asker() -> Callable[..., Job]:
    """Return what makes requests of one client, for turns without a hub."""

    def asked(verb: str, *arguments: Any) -> Job:
        ask = Ask(verb, arguments)
        conversation.begin(ask)
        return Job(b"", "ann", session, decode_request(conversation.frame(ask)))

    conversation, session = Conversation("here"), Session("", 0.0)
    return asked


def test_a_request_at_which_the_hub_fails_is_told_so_and_logged_and_the_others_are_carried_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    asked = asker()
    turns = Turns(str(tmp_path / "celeriac.db"), "normal", 10.0, Clock(), {"hub.clients": fail})
    sent = message()
    before, faulty = asked("broker.publish", [encode(sent)]), asked("hub.clients")
    after = asked("operations.find", [sent.id])
    turns.run([before, faulty, after])
    turns.close()
    assert (before.kind, after.kind) == ("", "")
    assert [found.id for found in after.body] == [sent.id]
    assert faulty.kind == "BrokerError"
    assert "failed at `hub.clients` (ZeroDivisionError): see its log" in faulty.body
    assert "A request for `hub.clients` by ann has failed." in caplog.text
    assert "Traceback" in caplog.text


def test_a_request_that_fails_is_undone_alone_whether_it_is_the_first_of_its_turn_or_not(tmp_path: Path) -> None:
    def revoke(id: str, error: type[Exception] | None = None) -> Callable[[sqlite3.Connection], None]:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO revoked (id, until) VALUES (?, 1.0)", (id,))
            if error is not None:
                raise error

        return work

    database = HubDatabase(str(tmp_path / "celeriac.db"), codec=Carrier())
    with pytest.raises(ZeroDivisionError):
        database.write(revoke("first", ZeroDivisionError))
    database.write(revoke("second"))
    with pytest.raises(ZeroDivisionError):
        database.write(revoke("third", ZeroDivisionError))
    database.write(revoke("fourth"))
    assert database.commit()
    with sqlite3.connect(database.path) as reader:
        assert reader.execute("SELECT id FROM revoked ORDER BY id").fetchall() == [("fourth",), ("second",)]
    reader.close()
    database.close()


def test_of_those_who_wait_nobody_looks_into_a_paused_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def take(lease: HubLease, *arguments: Any) -> list[Delivery]:
        looks.append(lease.name)
        return took(lease, *arguments)

    looks: list[str] = []
    took = HubLease.take
    monkeypatch.setattr(HubLease, "take", take)
    asked, sent = asker(), [message() for _ in range(4)]
    turns = Turns(str(tmp_path / "celeriac.db"), "normal", 10.0, Clock(), {"hub.clients": list})
    turns.run([asked("broker.publish", [encode(message())]), asked("operations.pause", "default")])
    leases = [asked("broker.lease", b"{}", 60.0) for _ in range(5)]
    turns.run(leases)
    waiting = [asked("leases.receive", lease.body, 1, [], ["default"], {PLAIN: 1}, 60.0) for lease in leases]
    assert turns.run(waiting) == []
    for one in sent:
        turns.run([asked("broker.publish", [encode(one)])])
    assert looks == []
    answered = turns.run([asked("operations.resume", "default")])
    turns.close()
    assert len([job for job in answered if job in waiting and len(job.body) == 1]) == len(waiting)


def test_of_many_messages_that_are_due_together_a_turn_moves_a_part_and_the_next_follows_at_once(
    tmp_path: Path, clock: FakeClock
) -> None:
    asked, count = asker(), 5
    turns = Turns(str(tmp_path / "celeriac.db"), "normal", 10.0, clock, {"hub.clients": list})
    leases = [asked("broker.lease", b"{}", 600.0) for _ in range(count)]
    turns.run(leases)
    waiting = [asked("leases.receive", lease.body, 1, [], ["default"], {PLAIN: 1}, 600.0) for lease in leases]
    elsewhere = asked("leases.receive", leases[0].body, 2, [], ["elsewhere"], {PLAIN: 1}, 600.0)
    turns.run([*waiting, elsewhere])
    for queue in ["default"] * count + ["elsewhere"]:
        due = [message(queue, due_at=clock.now() + 60.0) for _ in range(DUE)]
        turns.run([asked("broker.publish", [encode(one) for one in due])])
    clock.advance(60.0)
    assert set(turns.run(())) == set(waiting)
    left = "SELECT count(*) FROM scheduled"
    assert turns.database.read(lambda connection: connection.execute(left).fetchone()) == (count * DUE,)
    for _ in range(count):
        assert turns.polls.next_at() <= clock.monotonic()
        assert not elsewhere.is_answered
        turns.run(())
    turns.close()
    assert len(elsewhere.body) == 1


async def test_scheduled_messages_are_given_when_they_are_due_the_soonest_first(broker: HubBroker) -> None:
    """The hub reads when the next one is due only after it may have become another."""
    lease = await broker.lease(WorkerInfo(name="w"), 600.0, 3)
    soon, late = (message(countdown=seconds, due_at=time.time() + seconds) for seconds in (0.3, 0.6))
    given = []
    for some in ([late, soon], []):
        receiving = asyncio.ensure_future(lease.receive(["default"], {PLAIN: 1}, PATIENCE))
        await asyncio.sleep(0)
        if some:
            await broker.apublish(some)
        given += ids(await receiving)
    assert given == [soon.id, late.id]


async def test_what_a_sweep_took_over_is_given_by_the_next_if_the_answer_about_an_unreadable_message_was_lost(
    broker: HubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = await broker.lease(WorkerInfo(name="dead"), 0.0, 3)
    good, large = message(acks_late=False), message(acks_late=False, body=b"x" * 2000)
    await broker.apublish([good, large])
    await dead.receive(["default"], {PLAIN: 5}, 0.0)
    monkeypatch.setattr(broker.server, "codec", Codec(largest=1000))
    ask = broker.server.ado

    async def ask_and_lose(verb: str, *arguments: Any, **options: Any) -> Any:
        answer = await ask(verb, *arguments, **options)
        if verb == "leases.put_aside":
            monkeypatch.setattr(broker.server, "ado", ask)
            raise BrokerUnavailable
        return answer

    monkeypatch.setattr(broker.server, "ado", ask_and_lose)
    heir = await broker.lease(WorkerInfo(name="heir"), 60.0, 3)
    with pytest.raises(BrokerUnavailable):
        await heir.sweep()
    assert ids(await heir.sweep()) == [good.id]
    assert await heir.sweep() == []
    assert len(await broker.operations().dead("default", 5)) == 1


# --- The file -------------------------------------------------------------------------------------------


async def test_the_embedded_broker_s_file_can_be_served_and_taken_back(tmp_path: Path) -> None:
    """It is one format; and what another process writes to it meanwhile is seen."""
    url = f"sqlite:///{tmp_path}/celeriac.db"
    embedded = Celeriac("a", environ={}, broker_url=url).broker
    embedded.publish([first := message(priority=9)])
    with running_hub(tmp_path) as hub:
        broker = broker_on(hub)
        lease = await broker.lease(WorkerInfo(name="w"), 60.0, 3)
        [delivery] = await lease.receive(["default"], {PLAIN: 5}, 0.0)
        assert delivery.message == first
        for queue in ("default", "new"):
            receiving = asyncio.ensure_future(lease.receive(["default", "new"], {PLAIN: 5}, PATIENCE))
            await asyncio.sleep(0)
            await broker.operations().queues()  # asked after it, and answered: it waits
            embedded.publish([second := message(queue)])  # as `delay()` does
            assert ids(await receiving) == [second.id]
        await broker.apublish([third := message("third")])
        broker.close()
    assert ids(await embedded.operations().peek("third", 5)) == [third.id]
    embedded.close()


async def test_leases_in_a_new_file_are_not_those_of_workers_that_had_the_old_one(
    hub: HubServer, broker: HubBroker
) -> None:
    await leases_end_with_their_file(broker, hub.emptied)


def test_a_child_of_a_fork_has_a_line_of_its_own(broker: HubBroker) -> None:
    broker.publish([message()])
    pid = os.fork()
    if pid == 0:
        try:
            broker.publish([message()])
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    assert os.waitpid(pid, 0)[1] == 0
    broker.publish([message()])
    assert len(asyncio.run(broker.operations().peek("default", 5))) == 3


async def test_a_worker_works_over_the_hub(hub: HubServer) -> None:
    app = Celeriac("w", environ={}, broker_url=hub.url)

    @app.task(name="w.add")
    def add(x: int, y: int) -> int:
        return x + y

    with running_worker(app):
        results = add.delay_many([(number, 1) for number in range(50)])
        assert [await result.aget(timeout=PATIENCE) for result in results] == list(range(1, 51))
    app.close()
