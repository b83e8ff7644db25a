"""Tokyo Tyrant as a result backend, by its own protocol and by Memcached's; on a double (tests/tyrant_server.py).

`CELERIAC_TEST_TYRANT_URL=tyrant://host:1978` names a real server, on which the promises of the port are tested too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac import Celeriac, states
from celeriac.backends import tyrant, tyrant_memcached
from celeriac.backends.stamped_values import StampedValues
from celeriac.backends.tyrant import SLICE, SPAN, TyrantBackend
from celeriac.brokers.memory import MemoryBroker
from celeriac.drivers.memory import Store
from celeriac.drivers.peer import Peer, Stream
from celeriac.drivers.tyrant import protocol
from celeriac.errors import BackendError, ImproperlyConfigured
from celeriac.model.clock import Clock
from celeriac.model.message import new_id
from celeriac.model.outcome import Outcome
from celeriac.testing import running_worker
from tests.clock import FakeClock
from tests.conformance.backend import BackendConformance
from tests.conformance.broker import LONG, Ports
from tests.key_value import check_that_the_first_thread_wins
from tests.memcached_server import Replies, answering
from tests.pairs import check_calls
from tests.patience import PATIENCE
from tests.test_docs import DOCS, WORKER, Reader, blocks
from tests.tyrant_server import TyrantServer, running_tyrant

SHORT = 0.5  # seconds; of time-outs that a test waits for
KINDS: dict[str, Callable[..., StampedValues]] = {
    "tyrant": tyrant.connect, "tyrant+memcached": tyrant_memcached.connect,
}  # fmt: skip
REAL = ("real tyrant", "real tyrant+memcached")
URL = "CELERIAC_TEST_TYRANT_URL"

made: list[StampedValues] = []


@pytest.fixture(autouse=True)
def close_backends() -> Iterator[None]:
    yield
    while made:
        made.pop().close()


@pytest.fixture(scope="module")
def server() -> Iterator[TyrantServer]:
    with running_tyrant() as server:
        yield server


@pytest.fixture
def own() -> Iterator[TyrantServer]:
    """A server for a test that ends it."""
    with running_tyrant() as server:
        yield server


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def backend_of(kind: str, port: int, clock: Clock | None = None, *, expires: float | None = 86400.0,
               timeout: float = PATIENCE, prefix: str = "", host: str = "127.0.0.1") -> Any:  # fmt: skip
    found = KINDS[kind](f"{kind}://{host}:{port}", clock=clock or FakeClock(), timeout=timeout, result_expires=expires,
                        prefix=prefix or new_id())  # fmt: skip
    made.append(found)
    return found


def binary(port: int, clock: FakeClock | None = None, **options: Any) -> TyrantBackend:
    found = backend_of("tyrant", port, clock, **options)
    assert isinstance(found, TyrantBackend)
    return found


def outcome(state: str = states.SUCCESS, **fields: Any) -> Outcome:
    return Outcome(id=fields.pop("id", None) or new_id(), task="t", state=state, **fields)


def store(backend: StampedValues, *outcomes: Outcome) -> list[bool]:
    return asyncio.run(backend.store(outcomes))


def keys(backend: TyrantBackend, prefix: str = "") -> list[str]:
    """Return the keys on the server, without the app's prefix."""
    found = protocol.keys_with(backend.peer, backend.prefix + prefix.encode(), 10_000)
    return [key.removeprefix(backend.prefix).decode() for key in found]


def swept(backend: TyrantBackend) -> None:
    """Wait until the thread has swept that the first `store` has started."""
    assert backend._sweeper is not None
    backend._sweeper.join(PATIENCE)


# --- The promises of the port -------------------------------------------------------------------------


@pytest.fixture(params=[*KINDS, *(REAL if URL in os.environ else ())])
def ports(request: pytest.FixtureRequest, clock: FakeClock) -> Ports:
    real, _, kind = request.param.rpartition(" ")
    if real:
        host, _, port = os.environ[URL].removeprefix("tyrant://").partition(":")
        backend = backend_of(kind, int(port or 1978), clock, host=host)
    else:
        backend = backend_of(kind, request.getfixturevalue("server").port, clock)
    messages = Store()
    return Ports(MemoryBroker(messages, clock), backend, clock, lambda: MemoryBroker(messages, clock))


class TestBackend(BackendConformance):
    pass


def test_a_real_server_is_tested_too() -> None:
    if URL not in os.environ:
        pytest.skip(f"no distribution has Tokyo Tyrant: {URL}=tyrant://host:1978 names a server, for `TestBackend`")


def test_of_two_threads_that_store_a_final_outcome_one_is_first(server: TyrantServer, kind: str) -> None:
    backend = backend_of(kind, server.port)
    check_that_the_first_thread_wins(backend)


def test_both_protocols_read_what_the_other_has_stored(server: TyrantServer) -> None:
    one, other = (backend_of(kind, server.port, prefix="both") for kind in KINDS)
    first, second = outcome(), outcome(value=b"\r\nEND\r\n")
    store(one, first)
    store(other, second)
    assert store(one, second) == [False]
    assert store(other, first) == [False]
    for backend in (one, other):
        assert backend.fetch([first.id, second.id]) == {first.id: first, second.id: second}


def test_a_batch_is_one_request(server: TyrantServer, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(kind, server.port, expires=None)
    store(backend, outcome())
    if kind == "tyrant":
        swept(backend)
    asked: list[Peer] = []
    ask = Peer.ask

    def count(peer: Peer, request: bytes, read: Callable[[Stream], Any]) -> Any:
        asked.append(peer)
        return ask(peer, request, read)

    monkeypatch.setattr(Peer, "ask", count)
    assert store(backend, *[outcome() for _ in range(500)]) == [True] * 500
    assert len(asked) == 1


def test_all_outcomes_of_a_large_batch_arrive(server: TyrantServer, kind: str) -> None:
    backend = backend_of(kind, server.port)
    sent = [outcome(value=b"1" * 3000) for _ in range(3000)]  # more than what one request has
    assert store(backend, *sent) == [True] * 3000
    assert store(backend, *sent[::100]) == [False] * 30
    assert backend.fetch([item.id for item in sent]) == {item.id: item for item in sent}


def test_a_value_that_is_too_large_becomes_a_failure_and_holds_up_nothing(server: TyrantServer) -> None:
    backend = binary(server.port)
    small, large = outcome(), outcome(value=b"1" * protocol.LARGEST)
    assert store(backend, large, small) == [True, True]
    found = backend.fetch([small.id, large.id])
    assert found[small.id] == small
    assert found[large.id].state == states.FAILURE
    assert "larger than the server of the result backend allows" in str(found[large.id].exception())


# --- The end of values --------------------------------------------------------------------------------


def test_an_expired_outcome_gives_way_to_a_new_one(server: TyrantServer, kind: str, clock: FakeClock) -> None:
    backend = backend_of(kind, server.port, clock, expires=60.0)
    old, new, other = outcome(value=b"1"), outcome(value=b"2"), outcome()
    assert store(backend, old, outcome(states.STARTED, id=new.id)) == [True, True]
    clock.advance(30.0)
    assert store(backend, other, outcome(id=old.id)) == [True, False]
    clock.advance(31.0)
    assert backend.fetch([old.id, new.id, other.id]) == {other.id: other}
    again = outcome(id=old.id, value=b"3")
    assert store(backend, again, new, outcome(id=other.id)) == [True, True, False]
    assert store(backend, outcome(id=old.id)) == [False]
    assert backend.fetch([old.id, new.id]) == {old.id: again, new.id: new}


def test_outcomes_without_an_end_stay(server: TyrantServer, kind: str, clock: FakeClock) -> None:
    backend = backend_of(kind, server.port, clock, expires=None)
    item = outcome()
    store(backend, item)
    clock.advance(1e9)
    assert store(backend, item) == [False]
    assert backend.fetch([item.id]) == {item.id: item}


@pytest.mark.parametrize("value", [b"", b"junk", b"\x7f\xf8" + bytes(6)])
def test_what_no_adapter_has_written_does_not_block_an_outcome(server: TyrantServer, value: bytes) -> None:
    backend, item = binary(server.port), outcome()
    protocol.put_all(backend.peer, [protocol.Put(backend.prefix + f"f:{item.id}".encode(), value, new=False)])
    assert backend.fetch([item.id]) == {}
    assert store(backend, item) == [True]


def test_a_sweep_deletes_what_is_over_and_nothing_else(server: TyrantServer, clock: FakeClock) -> None:
    backend = binary(server.port, clock, expires=3600.0)
    old = [outcome() for _ in range(SLICE + 10)]
    renewed, ended, early = outcome(states.STARTED), outcome(states.STARTED), outcome(states.STARTED)
    store(backend, *old, renewed, ended, early)
    swept(backend)
    clock.advance(3000.0)
    final, late = outcome(id=ended.id), outcome(states.RETRY, id=renewed.id)
    store(backend, final, late)
    clock.advance(2 * SPAN + 1)
    assert backend.sweep() == 0  # over, but the clocks of other machines may be slow
    clock.advance(SPAN)
    assert backend.sweep() == len(old) + 2  # with the states of two tasks
    assert sorted(keys(backend, "s:") + keys(backend, "f:")) == sorted([f"s:{late.id}", f"f:{final.id}"])
    assert len(keys(backend, "e:")) == 2
    assert backend.fetch([final.id, late.id]) == {final.id: final, late.id: late}
    assert backend.sweep() == 0
    clock.advance(86400.0)
    assert backend.sweep() == 2
    assert keys(backend) == ["swept"]


def test_a_sweep_that_breaks_off_is_continued_by_another_process(
    server: TyrantServer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = binary(server.port, clock, expires=60.0, prefix="two")
    store(backend, *[outcome() for _ in range(SLICE + 1)])
    swept(backend)
    clock.advance(86400.0)

    def delete_all(peer: Peer, found: Sequence[bytes]) -> int:
        if b":e:" in found[0]:  # the values are deleted, and then it breaks off
            raise KeyboardInterrupt
        return protocol.delete_all(peer, found)

    monkeypatch.setattr(tyrant, "delete_all", delete_all)
    with pytest.raises(KeyboardInterrupt):
        backend.sweep()
    monkeypatch.undo()
    assert (len(keys(backend, "f:")), len(keys(backend, "e:"))) == (1, SLICE + 1)
    assert binary(server.port, clock, prefix="two").sweep() == 1
    assert keys(backend) == ["swept"]


def test_whoever_stores_sweeps_now_and_then(server: TyrantServer, clock: FakeClock) -> None:
    backend = binary(server.port, clock, expires=60.0)
    store(backend, outcome())
    first = backend._sweeper
    swept(backend)
    clock.advance(86400.0)
    store(backend, outcome())
    assert backend._sweeper is first  # `monotonic` stands for ten minutes
    assert len(keys(backend, "f:")) == 2
    backend._sweep_at = 0.0
    store(backend, outcome())
    assert backend._sweeper is not first
    swept(backend)
    assert len(keys(backend, "f:")) == 2


def test_a_sweep_that_fails_fails_nothing_else(own: TyrantServer, clock: FakeClock) -> None:
    backend = binary(own.port, clock, timeout=SHORT)
    store(backend, outcome())
    swept(backend)
    own.kill()
    backend._try_to_sweep()
    own.start()
    assert store(backend, outcome()) == [True]


# --- Servers that fail --------------------------------------------------------------------------------


def test_a_server_that_is_down_is_an_outage_and_comes_back_empty(own: TyrantServer, kind: str) -> None:
    backend = backend_of(kind, own.port)
    item = outcome()
    store(backend, item)
    own.kill()
    for _ in range(2):
        with pytest.raises(BackendError, match=rf"Tokyo Tyrant at 127.0.0.1:{own.port} cannot be reached: .*nc -vz"):
            store(backend, item)
    with pytest.raises(BackendError, match="cannot be reached"):
        backend.fetch([item.id], wait=LONG)
    own.start()
    assert backend.fetch([item.id]) == {}
    assert store(backend, item) == [True]


def test_calls_to_a_frozen_server_fail_after_the_timeout(own: TyrantServer, kind: str) -> None:
    backend, item = backend_of(kind, own.port, timeout=SHORT), outcome()
    backend.fetch([item.id])  # opens a connection
    own.send(signal.SIGSTOP)
    try:
        calls: list[Callable[[], Any]] = [
            lambda: store(backend, outcome()), lambda: backend.fetch([item.id]), lambda: backend.forget([item.id])
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(BackendError, match=r"did not answer within 0\.5 s \(`broker_publish_timeout`\)"):
                call()
    finally:
        own.send(signal.SIGCONT)
    peer = backend.peer if isinstance(backend, TyrantBackend) else backend.servers.peers[0]
    peer.timeout = PATIENCE
    assert store(backend, outcome()) == [True]


def test_a_server_that_only_reads_is_an_error(kind: str) -> None:
    with running_tyrant("read-only") as server:
        backend = backend_of(kind, server.port)
        with pytest.raises(BackendError, match="refuse"):
            store(backend, outcome())
        with pytest.raises(BackendError, match="refuse"):
            store(backend, outcome(states.STARTED))
        assert backend.fetch(["x"]) == {}


def test_a_server_that_refuses_to_add_is_not_taken_for_one_that_has_the_outcome() -> None:
    with answering([b"\1", b"\0\0\0\0\0"] * 9) as port:  # it exists, says `putkeep`, and it does not, says `mget`
        with pytest.raises(BackendError, match="refuses to store outcomes, and has none of these tasks"):
            store(binary(port, expires=None), outcome())


SIZE = struct.pack(">I", 2**31)
GARBAGE = [
    b"ERROR\r\n",
    b"\2",
    b"\0\0",
    b"\0" + SIZE,
    b"\0\0\0\0\1" + SIZE + SIZE,
    b"\0\0\0\0\1\0\0\0\1\0\0\0\1ab",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
]


@pytest.mark.parametrize("reply", GARBAGE)
def test_a_server_that_answers_something_else_is_named(reply: bytes) -> None:
    with answering([reply]) as port:
        backend = binary(port, timeout=SHORT)
        with pytest.raises(BackendError, match=r"does not speak the protocol of Tokyo Tyrant|did not answer"):
            backend.fetch(["x"])


PARTS = [b"\0", b"\1", b"\0\0\0\1", b"\0\0\0\0\1", b"x", b"\xff" * 4, b"\0\0\0\2"]


@given(st.lists(st.sampled_from(PARTS) | st.binary(max_size=8)).map(b"".join))
def test_whatever_a_server_sends_is_a_reply_or_an_error_of_the_backend(data: bytes) -> None:
    peer = Replies("Tokyo Tyrant")
    peer.data = data
    calls: list[Callable[[], Any]] = [
        lambda: protocol.get_all(peer, [b"x", b"y"]), lambda: protocol.keys_with(peer, b"x", 5),
        lambda: protocol.put_all(peer, [protocol.Put(b"x", b"1", new=False)] * 2),
        lambda: protocol.delete_all(peer, [b"x"]),
    ]  # fmt: skip
    for call in calls:
        with suppress(BackendError):
            call()
        peer.close()


def test_a_sweep_believes_no_list_of_other_keys() -> None:
    reply = b"\0\0\0\0\1\0\0\0\5other"
    with answering([reply]) as port:
        peer = Peer("Tokyo Tyrant", "127.0.0.1", port, PATIENCE)
        with pytest.raises(BackendError, match="it lists keys that it was not asked for"):
            protocol.keys_with(peer, b"mine:", 10)
        peer.close()


# --- With an app --------------------------------------------------------------------------------------


def test_a_url_names_one_server(kind: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="URL names one server"):
        backend_of(kind, 1, host="a,b")
    with pytest.raises(ImproperlyConfigured, match="user or a password") as caught:
        backend_of(kind, 1, host="me:secret@a")
    assert "secret" not in str(caught.value)


def test_an_app_uses_it_by_its_url_and_signs(
    make_app: Callable[..., Celeriac], server: TyrantServer, kind: str
) -> None:
    url = f"{kind}://127.0.0.1:{server.port}"
    app = make_app(result_backend=url, security_keys=["k" * 40], tyrant_prefix="signed")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert not app.sends_outcomes
    with running_worker(app):
        result = add.delay(1, 2)
        assert result.get(timeout=LONG) == 3
    reader = backend_of(kind, server.port, Clock(), prefix="signed")
    assert reader.read_many([f"f:{result.id}"])
    assert reader.fetch([result.id])[result.id].task == "(unreadable)"  # without the key


def test_calls_come_back_from_a_worker(server: TyrantServer, kind: str, tmp_path: Path) -> None:
    urls = {
        "CELERIAC_BROKER_URL": f"sqlite:///{tmp_path}/celeriac.db", "CELERIAC_TYRANT_PREFIX": new_id(),
        "CELERIAC_RESULT_BACKEND": f"{kind}://127.0.0.1:{server.port}",
    }  # fmt: skip
    assert check_calls(tmp_path, urls) == []


def test_what_the_page_says_can_be_done(server: TyrantServer, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    reader.environment["CELERIAC_RESULT_BACKEND"] = server.url  # in place of the one that the page names
    try:
        for block in blocks(DOCS / "backends" / "tyrant.md"):
            reader.read(block)
        assert reader.code == 0
        reader.stop(WORKER)
    finally:
        reader.leave()
