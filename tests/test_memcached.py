"""Memcached as a result backend: the promises of the port, and what happens when servers fail."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from celeriac import Celeriac, states
from celeriac.backends.memcached import MemcachedBackend, connect
from celeriac.brokers.memory import MemoryBroker
from celeriac.drivers.memcached import protocol
from celeriac.drivers.memory import Store
from celeriac.drivers.peer import Peer, Stream, hosts_of
from celeriac.errors import BackendError, ImproperlyConfigured, Unstorable
from celeriac.model.clock import Clock
from celeriac.model.message import new_id
from celeriac.model.outcome import Call, Outcome
from celeriac.testing import running_worker
from tests.conformance.backend import BackendConformance
from tests.conformance.broker import LONG, Ports
from tests.key_value import check_that_the_first_thread_wins
from tests.memcached_server import MemcachedClock, MemcachedServer, Replies, answering, running_memcached
from tests.pairs import CALLER, check_calls
from tests.patience import PATIENCE, wait_for
from tests.test_docs import DOCS, WORKER, Reader, blocks

SHORT = 0.5  # seconds; of time-outs that a test waits for


@pytest.fixture(scope="module")
def shared_servers() -> Iterator[list[MemcachedServer]]:
    with running_memcached() as one, running_memcached() as two:
        yield [one, two]


@pytest.fixture
def servers(shared_servers: list[MemcachedServer]) -> list[MemcachedServer]:
    for server in shared_servers:
        server.ask("flush_all")
    return shared_servers


@pytest.fixture
def server(servers: list[MemcachedServer]) -> MemcachedServer:
    return servers[0]


@pytest.fixture
def own() -> Iterator[MemcachedServer]:
    """A server for a test that ends it."""
    with running_memcached() as server:
        yield server


def backend_of(*servers: MemcachedServer | int, timeout: float = PATIENCE, expires: float | None = 86400.0,
               clock: Clock | None = None) -> MemcachedBackend:  # fmt: skip
    ports = [server if isinstance(server, int) else server.port for server in servers]
    url = "memcached://" + ",".join(f"127.0.0.1:{port}" for port in ports)
    found = connect(url, clock=clock or Clock(), timeout=timeout, result_expires=expires)
    assert isinstance(found, MemcachedBackend)
    made.append(found)
    return found


made: list[MemcachedBackend] = []


@pytest.fixture(autouse=True)
def close_backends() -> Iterator[None]:
    yield
    while made:
        made.pop().close()


def outcome(state: str = states.SUCCESS, **fields: Any) -> Outcome:
    return Outcome(id=fields.pop("id", None) or new_id(), task="t", state=state, **fields)


def store(backend: MemcachedBackend, *outcomes: Outcome) -> list[bool]:
    return asyncio.run(backend.store(outcomes))


# --- The promises of the port -------------------------------------------------------------------------


@pytest.fixture(params=[1, 2])
def ports(request: pytest.FixtureRequest, servers: list[MemcachedServer]) -> Ports:
    used = servers[: request.param]
    clock, messages = MemcachedClock(*used), Store()
    backend = backend_of(*used, clock=clock)
    return Ports(MemoryBroker(messages, clock), backend, clock, lambda: MemoryBroker(messages, clock))


class TestBackend(BackendConformance):
    pass


def test_of_two_threads_that_store_a_final_outcome_one_is_first(servers: list[MemcachedServer]) -> None:
    backend = backend_of(*servers)
    check_that_the_first_thread_wins(backend)


def test_a_batch_is_one_request_for_each_server(
    servers: list[MemcachedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(*servers)
    asked: list[Peer] = []
    ask = Peer.ask

    def count(peer: Peer, request: bytes, read: Callable[[Stream], Any]) -> Any:
        asked.append(peer)
        return ask(peer, request, read)

    monkeypatch.setattr(Peer, "ask", count)
    assert store(backend, *[outcome() for _ in range(500)]) == [True] * 500
    assert len(asked) == 2
    assert store(backend, *[outcome(states.STARTED) for _ in range(50)]) == [True] * 50
    assert len(asked) == 6  # whether they have ended, and then the states


def test_outcomes_are_spread_over_the_servers(servers: list[MemcachedServer]) -> None:
    backend = backend_of(*servers)
    store(backend, *[outcome() for _ in range(1000)])
    assert all(300 < len(server.keys()) < 700 for server in servers)
    turned = backend_of(*servers[::-1])
    key = next(iter(servers[0].keys())).removeprefix("celeriac:")
    assert turned.servers.server_of(key).port == servers[0].port  # whatever the order of the URL


def test_all_outcomes_of_a_large_batch_arrive(server: MemcachedServer) -> None:
    backend = backend_of(server)
    sent = [outcome(value=b"1" * 3000) for _ in range(3000)]  # more than what one request has
    assert store(backend, *sent) == [True] * 3000
    assert store(backend, *sent[::100]) == [False] * 30
    assert backend.fetch([item.id for item in sent]) == {item.id: item for item in sent}


# --- What a value may be ------------------------------------------------------------------------------


def test_a_value_that_is_too_large_becomes_a_failure_and_holds_up_nothing(server: MemcachedServer) -> None:
    backend = backend_of(server)
    small, large, last = outcome(), outcome(value=b"1" * 2_000_000), outcome()
    assert store(backend, small, large, last) == [True, True, True]
    assert store(backend, large) == [False]
    found = backend.fetch([small.id, large.id, last.id])
    assert found[small.id] == small
    assert found[last.id] == last
    error = found[large.id].exception()
    assert found[large.id].state == states.FAILURE
    assert isinstance(error, BackendError)
    why = "cannot be stored: it is larger than the server of the result backend allows."
    assert str(error) == f"The result of t[{large.id}] {why}"


def test_arguments_that_are_too_large_beside_a_result_are_left_out(server: MemcachedServer) -> None:
    backend = backend_of(server)
    call = Call(body=b"2" * 900_000)
    fits, large, larger = (outcome(value=b"1" * size, call=call) for size in (1, 400_000, 2_000_000))
    assert store(backend, fits, large, larger) == [True, True, True]
    found = backend.fetch([fits.id, large.id, larger.id])
    assert found[fits.id] == fits
    assert found[large.id] == replace(large, call=Call())
    assert (found[larger.id].state, found[larger.id].call) == (states.FAILURE, Call())


def test_progress_that_is_too_large_is_stored_without_its_value(server: MemcachedServer) -> None:
    backend = backend_of(server)
    large = outcome("PROGRESS", value=b"1" * 2_000_000)
    assert store(backend, outcome("PROGRESS", id=large.id, value=b"1"), large) == [True, True]
    found = backend.fetch([large.id])[large.id]
    assert (found.state, found.value) == ("PROGRESS", None)


def test_an_outcome_that_never_fits_is_no_outage() -> None:
    with answering([b"SERVER_ERROR object too large for cache\r\n"]) as port:
        with pytest.raises(Unstorable, match="not even the failure of x can be stored"):
            store(backend_of(port), outcome(id="x"))


@pytest.mark.parametrize(
    ("expires", "left"),
    [(0.2, 1), (3600.0, 3600), (30 * 86400.0, 30 * 86400), (60 * 86400.0, 60 * 86400), (None, -1), (1e10, -1)],
)
def test_outcomes_expire_when_they_should(server: MemcachedServer, expires: float | None, left: int) -> None:
    store(backend_of(server, expires=expires), outcome(), outcome(states.STARTED))
    found = server.keys()
    assert sorted(key[:11] for key in found) == ["celeriac:f:", "celeriac:s:"]
    assert all(left - PATIENCE <= seconds <= left + 1 for seconds in found.values())


def test_an_expired_outcome_is_gone(server: MemcachedServer) -> None:
    backend = backend_of(server, expires=1.0)
    item = outcome()
    assert store(backend, item) == [True]
    deadline = time.monotonic() + PATIENCE
    while backend.fetch([item.id]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert store(backend, item) == [True]


# --- Servers that fail --------------------------------------------------------------------------------


def test_a_server_that_is_down_is_an_outage_and_comes_back_empty(own: MemcachedServer) -> None:
    backend = backend_of(own)
    item = outcome()
    store(backend, item)
    own.kill()
    for _ in range(2):
        with pytest.raises(BackendError, match=rf"Memcached at 127.0.0.1:{own.port} cannot be reached: .*nc -vz"):
            store(backend, item)
    with pytest.raises(BackendError, match="cannot be reached"):
        backend.fetch([item.id], wait=LONG)
    own.start()
    assert backend.fetch([item.id]) == {}
    assert store(backend, item) == [True]


def test_a_restart_between_two_calls_is_not_noticed(own: MemcachedServer) -> None:
    backend = backend_of(own)
    store(backend, outcome())
    own.kill()
    own.start()
    assert store(backend, outcome()) == [True]


def test_a_connection_that_is_lost_during_a_request_is_opened_again() -> None:
    with answering([b"STORED\r\n", None, b"NOT_STORED\r\n"]) as port:
        backend = backend_of(port)
        assert store(backend, outcome()) == [True]
        assert store(backend, outcome()) == [False]  # it may have been stored by the request that was lost
    with answering([None]) as port:  # a server that closes every connection
        with pytest.raises(BackendError, match="cannot be reached: the server closed the connection"):
            store(backend_of(port), outcome())


def test_calls_to_a_frozen_server_fail_after_the_timeout(own: MemcachedServer) -> None:
    backend, item = backend_of(own, timeout=SHORT), outcome()
    store(backend_of(own), item)
    backend.fetch([item.id])  # opens a connection
    own.send(signal.SIGSTOP)
    try:
        calls: list[Callable[[], Any]] = [
            lambda: store(backend, outcome()), lambda: backend.fetch([item.id]), lambda: backend.forget([item.id])
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(BackendError, match=r"did not answer within 0.5 s \(`broker_publish_timeout`\)"):
                call()
    finally:
        own.send(signal.SIGCONT)
    backend.servers.peers[0].timeout = PATIENCE
    assert store(backend, outcome()) == [True]


def test_no_other_server_takes_the_outcomes_of_one_that_is_down(own: MemcachedServer, server: MemcachedServer) -> None:
    backend = backend_of(own, server)
    items = [outcome() for _ in range(50)]
    mine = [item for item in items if backend.servers.server_of(f"f:{item.id}").port == own.port]
    others = [item for item in items if item not in mine]
    assert mine
    assert others
    store(backend, *mine)
    own.kill()
    for _ in range(3):  # however often it is tried
        for item in mine:
            with pytest.raises(BackendError, match=f"127.0.0.1:{own.port} cannot be reached"):
                store(backend, outcome(states.FAILURE, id=item.id))
    assert server.keys() == {}
    assert store(backend, *others) == [True] * len(others)
    assert backend.fetch([item.id for item in others]) == {item.id: item for item in others}
    with pytest.raises(BackendError, match=f"127.0.0.1:{own.port} cannot be reached"):
        backend.fetch([mine[0].id, others[0].id])


GARBAGE = [
    b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n",
    b"-ERR unknown command\r\n",
    b"\r\n",
    b"\0" * 10_000,
    b"VALUE celeriac:f:x 0 -5\r\n",
    b"VALUE celeriac:f:x 0 " + b"9" * 5000 + b"\r\n",
    b"VALUE celeriac:f:x 0 1 1 1\r\n",
    b"VALUE celeriac:f:other 0 1\r\n1\r\nEND\r\n",
    b"VALUE celeriac:f:x 0 1\r\n123END\r\n",
    b"VALUE \xff 0 1\r\n1\r\nEND\r\n",
    b"END\r\nEND\r\n",
    b"STORED\r\nSTORED\r\n",
]


@pytest.mark.parametrize("reply", GARBAGE)
def test_a_server_that_answers_something_else_is_named(reply: bytes) -> None:
    with answering([reply]) as port:
        backend = backend_of(port)
        for call in (lambda: backend.fetch(["x"]), lambda: store(backend, outcome(id="x"))):
            with pytest.raises(BackendError, match=f"at 127.0.0.1:{port} does not speak the protocol of Memcached"):
                call()


PARTS = [b"VALUE ", b"x", b" ", b"0 ", b"1", b"9" * 5000, b"\r\n", b"END\r\n", b"STORED\r\n", b"NOT_", b"ERROR"]


@given(st.lists(st.sampled_from(PARTS) | st.binary(max_size=20)).map(b"".join))
def test_whatever_a_server_sends_is_a_reply_or_an_error_of_the_backend(data: bytes) -> None:
    peer = Replies("Memcached")
    peer.data = data
    calls: list[Callable[[], Any]] = [
        lambda: protocol.get_all(peer, ["x", "y"]), lambda: protocol.store_all(peer, "add", [("x", b"1")] * 2, 0),
        lambda: protocol.delete_all(peer, ["x"]),
    ]  # fmt: skip
    for call in calls:
        with suppress(BackendError):
            call()
        peer.close()


def test_half_a_reply_is_waited_for_until_the_timeout() -> None:
    with answering([b"VALUE celeriac:f:x 0 9999999999\r\n123"]) as port:
        with pytest.raises(BackendError, match=r"did not answer within 0\.5 s"):
            backend_of(port, timeout=SHORT).fetch(["x"])


REFUSALS = [b"SERVER_ERROR out of memory storing object", b"CLIENT_ERROR unauthenticated", b"ERROR"]


@pytest.mark.parametrize("reply", REFUSALS)
def test_what_a_server_says_against_a_request_is_told(reply: bytes) -> None:
    with answering([reply + b"\r\n"]) as port:
        backend = backend_of(port)
        for call in (lambda: backend.fetch(["x"]), lambda: store(backend, outcome(id="x"))):
            with pytest.raises(BackendError, match=f"refused a request: {reply.decode()}"):
                call()


def test_a_connection_is_not_used_again_after_an_exception_between_request_and_reply(server: MemcachedServer) -> None:
    peer = Peer("Memcached", "127.0.0.1", server.port, PATIENCE)
    assert peer.ask(b"version\r\n", Stream.line).startswith(b"VERSION")

    def interrupted(stream: Stream) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        peer.ask(b"get x\r\n", interrupted)
    assert peer.ask(b"version\r\n", Stream.line).startswith(b"VERSION")
    peer.close()


def test_a_reply_counts_even_if_the_server_ends_the_connection_after_it() -> None:
    peer = Replies("Memcached")
    peer.data = b"STORED\r\n"
    for _ in range(2):
        assert protocol.store_all(peer, "add", [("x", b"1")], 0) == [True]
    peer.close()


def test_a_large_reply_has_more_time() -> None:
    class Slow(Peer):
        def _connect(self, deadline: float) -> Stream:
            self.here, self.there = socket.socketpair()
            return Stream(self.here)

    def send() -> None:
        slow.there.sendall(b"VALUE x 0 3000000\r\n" + b"1" * 2_000_000)
        time.sleep(2 * SHORT)  # longer than the time-out: two megabytes have two seconds more
        slow.there.sendall(b"1" * 1_000_000 + b"\r\nEND\r\n")
        slow.there.close()

    slow = Slow("Memcached", "nowhere", 1, SHORT)
    thread = threading.Thread(target=send)

    def read(stream: Stream) -> bytes:
        thread.start()
        stream.line()
        return stream.take(3_000_002)

    assert len(slow.ask(b"get x\r\n", lambda stream: (read(stream), stream.line()))[0]) == 3_000_002
    thread.join()
    slow.close()


def test_a_connection_on_which_something_has_come_is_not_used_again() -> None:
    opened: list[socket.socket] = []

    class Late(Peer):
        def _connect(self, deadline: float) -> Stream:
            here, there = socket.socketpair()
            there.sendall(b"STORED\r\n")
            opened.append(there)
            return Stream(here)

    peer = Late("Memcached", "nowhere", 1, PATIENCE)
    item = ("x", b"1")
    for _ in range(2):
        assert protocol.store_all(peer, "add", [item], 0) == [True]
        opened[-1].sendall(b"NOT_STORED\r\n")  # late, or of somebody else
    assert len(opened) == 2
    peer.close()
    for there in opened:
        there.close()


def test_a_fork_opens_connections_of_its_own(server: MemcachedServer, tmp_path: Path) -> None:
    script = f"""
import asyncio, os
from celeriac.backends.memcached import connect
from celeriac.model.clock import Clock
from celeriac.model.outcome import Outcome

backend = connect("{server.url}", clock=Clock(), timeout={PATIENCE}, result_expires=60)

def store(id):
    backend.save([Outcome(id=id, task="t", state="SUCCESS")])
    assert set(backend.fetch([id])) == {{id}}

store("before")
[parents] = backend.servers.peers[0]._idle
pid = os.fork()
if not pid:
    assert backend.servers.peers[0]._idle == []
    for number in range(500):
        store(f"child-{{number}}")
    os._exit(0)
for number in range(500):
    store(f"parent-{{number}}")
assert os.waitpid(pid, 0)[1] == 0
assert backend.servers.peers[0]._idle == [parents]
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE, cwd=tmp_path)
    assert len(server.keys()) == 1001


def test_a_worker_keeps_what_it_cannot_store(
    make_app: Callable[..., Celeriac], own: MemcachedServer, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(result_backend=own.url)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with running_worker(app):
        assert add.delay(1, 2).get(timeout=LONG) == 3
        own.kill()
        results = [add.delay(number, 1) for number in range(20)]
        wait_for(lambda: "The result backend is unavailable" in caplog.text, "the outage in the log")
        own.start()
        assert [result.get(timeout=LONG) for result in results] == list(range(1, 21))
        wait_for(lambda: "The result backend is back" in caplog.text, "the end of the outage in the log")


# --- URLs and settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("memcached://", None),
        ("memcached://a", [("a", 11211)]),
        ("memcached://A,b:1/", [("a", 11211), ("b", 1)]),
        ("cache+memcached://a:1;b/", [("a", 1), ("b", 11211)]),
        ("memcached://[::1]:5,[fe80::1]", [("::1", 5), ("fe80::1", 11211)]),
        ("memcached://a,", None),
        ("memcached://a:x", None),
        ("memcached://a:1,a:1", None),
        ("memcached://a/path", None),
        ("memcached://a?x=1", None),
        ("memcached://[a", None),
    ],
)
def test_urls(url: str, servers: Sequence[tuple[str, int]] | None) -> None:
    if servers is None:
        with pytest.raises(ImproperlyConfigured, match="The Memcached URL"):
            hosts_of(url, "Memcached", 11211)
    else:
        assert hosts_of(url, "Memcached", 11211) == servers


def test_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(ImproperlyConfigured, match="user or a password") as caught:
        hosts_of("memcached://me:secret@a", "Memcached", 11211)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "a b", "ä", "x" * 151, "a\nb"])
def test_a_prefix_that_no_key_can_have_is_refused(make_app: Callable[..., Celeriac], prefix: str) -> None:
    app = make_app(result_backend="memcached://localhost", memcached_prefix=prefix)
    with pytest.raises(ImproperlyConfigured, match="Keys of Memcached cannot begin with"):
        _ = app.backend


def test_the_longest_prefix_and_the_longest_id_fit(server: MemcachedServer) -> None:
    backend = connect(server.url, clock=Clock(), timeout=PATIENCE, result_expires=60, prefix="x" * 150)
    item = outcome(id="ä" * 300)
    assert asyncio.run(backend.store([item])) == [True]
    assert backend.fetch([item.id]) == {item.id: item}
    backend.close()


def test_expiry_times_that_the_server_does_not_know_are_left_out() -> None:
    assert protocol.expiry(protocol.LAST - time.time() + 100) == 0
    assert protocol.expiry(protocol.DAYS_30 + 1) > time.time()


# --- With an app --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["memcached", "cache+memcached"])
def test_an_app_uses_it_by_its_url_and_signs(
    make_app: Callable[..., Celeriac], server: MemcachedServer, scheme: str
) -> None:
    app = make_app(result_backend=f"{scheme}://127.0.0.1:{server.port}", security_keys=["k" * 40], memcached_prefix="p")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert not app.sends_outcomes
    with running_worker(app):
        assert add.delay(1, 2).get(timeout=LONG) == 3
        assert (add.s(1, 2) | add.s(3)).delay().get(timeout=LONG) == 6
    [first, *_] = server.keys()
    assert first.startswith("p:f:")
    server.ask(f"set {first} 0 0 4\r\njunk")
    id = first.removeprefix("p:f:")
    assert app.backend.fetch([id])[id].state == states.FAILURE


REFUSED = """
from celeriac.errors import WorkflowError

step = add.s(1)
for flow in (chord([add.s(1, 1)], total.s()), add.s(1, 1) | group([step, step]), group([add.s(1, 1) | step])):
    try:
        flow.delay()
    except WorkflowError as error:
        print(ascii(str(error)))
"""


@pytest.mark.parametrize("broker", ["sqlite", "redis"])
def test_calls_come_back_from_a_worker(
    request: pytest.FixtureRequest, servers: list[MemcachedServer], tmp_path: Path, broker: str
) -> None:
    url = f"sqlite:///{tmp_path}/celeriac.db" if broker == "sqlite" else request.getfixturevalue("redis").url
    named = f"memcached://127.0.0.1:{servers[0].port},127.0.0.1:{servers[1].port}"
    urls = {"CELERIAC_BROKER_URL": url, "CELERIAC_RESULT_BACKEND": named}
    refused = check_calls(tmp_path, urls, CALLER + REFUSED)
    assert len(refused) == 3
    keepers = ascii("set `result_backend` to one of sqlite://, redis://, zmq://, db+…://, mongodb://.")
    assert all(keepers.strip("'") in line for line in refused)


def test_what_the_page_says_can_be_done(server: MemcachedServer, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    reader.environment["CELERIAC_RESULT_BACKEND"] = server.url  # in place of the one that the page names
    try:
        for block in blocks(DOCS / "backends" / "memcached.md"):
            reader.read(block)
        assert reader.code == 0
        reader.stop(WORKER)
    finally:
        reader.leave()
