"""MongoDB that is away, frozen, restarted, or refuses: errors, times, and a worker that stores its results there."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    NotPrimaryError,
    OperationFailure,
    ServerSelectionTimeoutError,
    WTimeoutError,
)

from celeriac import states
from celeriac.backends.mongodb import MongoBackend
from celeriac.drivers.mongodb.address import Address
from celeriac.drivers.mongodb.error_translation import translated
from celeriac.drivers.mongodb.server import Server
from celeriac.errors import AccessRefused, BackendError, CeleriacError, Unstorable
from celeriac.model.clock import Clock
from celeriac.model.message import new_id
from celeriac.model.outcome import Outcome
from celeriac.ports.workflows import NodeEnd, PendingNode
from tests.conformance.backend import node_end, plan
from tests.environment import without_settings
from tests.mongodb_server import DIRECT, LEFT, MongoServer, database_on, running_mongodb
from tests.pairs import APP, check_calls, worker_on
from tests.patience import PATIENCE, in_time, wait_for

pytestmark = [pytest.mark.filterwarnings(LEFT), pytest.mark.usefixtures("collected")]

TIMEOUT = 2.0  # seconds; more than a server needs that answers


@pytest.fixture
def own(tmp_path: Path) -> Iterator[MongoServer]:
    """A server that the test may kill."""
    with running_mongodb(tmp_path, "--sync-on-commit") as server:
        yield server


@contextmanager
def backend_on(url: str, timeout: float = TIMEOUT) -> Iterator[MongoBackend]:
    backend = MongoBackend(Server(url, timeout=timeout), Clock())
    yield backend
    backend.close()


def outcome(id: str = "") -> Outcome:
    return Outcome(id=id or new_id(), task="t", state=states.SUCCESS, value=b"1")


def calls(backend: MongoBackend) -> list[Callable[[], Any]]:
    return [
        lambda: backend.fetch(["x"]),
        lambda: backend.fetch(["x"], wait=PATIENCE),
        lambda: asyncio.run(backend.afetch(["x"])),
        lambda: asyncio.run(backend.store([outcome()])),
        lambda: backend.forget(["x"]),
        lambda: backend.plant(plan("w")),
        lambda: asyncio.run(backend.conclude([node_end("w", 0)])),
        lambda: asyncio.run(backend.claim_pending(1, 1.0)),
    ]


def assert_each_raises(backend: MongoBackend, kind: type[CeleriacError], words: str) -> None:
    for call in calls(backend):
        begun = time.monotonic()
        with pytest.raises(kind, match=words) as caught:
            call()
        assert type(caught.value) is kind
        assert "sekret" not in str(caught.value)
        assert in_time(time.monotonic() - begun, TIMEOUT + 1)


# --- Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (AutoReconnect("one:1: connection closed"), BackendError, "cannot be reached: one:1: connection closed. Is it"),
        (NotPrimaryError("not primary", {"code": 10107}), BackendError, "no primary"),
        (AutoReconnect("No replica set members found yet"), BackendError, "`replicaSet`"),
        (AutoReconnect("SSL handshake failed: certificate verify failed"), BackendError, "tlsCAFile"),
        (WTimeoutError("waiting for replication timed out", 64), BackendError, "did not answer within 2 s"),
        (ServerSelectionTimeoutError("bad login, full error: {'code': 18}"), AccessRefused, "the password is wrong"),
        (ServerSelectionTimeoutError("No servers found yet, Timeout: 2s"), BackendError, "did not answer within 2 s"),
        (OperationFailure("Authentication failed.", 18), AccessRefused, "authSource=admin"),
        (OperationFailure("not authorized on r", 13), AccessRefused, "readWrite on the database r"),
        (OperationFailure("Resulting document is larger", 17419), Unstorable, "at most 16 MB"),
        (OperationFailure("no such command", 59), BackendError, "refused a request: no such command"),
        (BulkWriteError({"writeErrors": [{"code": 17420, "errmsg": "too large"}]}), Unstorable, "too large"),
        (BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64, "errmsg": "waited"}]}), BackendError,
         "did not answer"),
    ],
)  # fmt: skip
def test_an_outage_is_told_from_a_refusal(error: Any, kind: type[CeleriacError], words: str) -> None:
    found = translated(error, Address.of("mongodb://u:sekret@db/r"), TIMEOUT)
    assert type(found) is kind
    assert words in str(found)
    assert "sekret" not in str(found)


def test_a_server_that_is_not_there_is_an_outage() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with backend_on(f"mongodb://127.0.0.1:{port}/tests?{DIRECT}") as backend:
            assert_each_raises(backend, BackendError, f"127.0.0.1:{port} cannot be reached: .*Errno 111.*Is it running")


@pytest.mark.parametrize("reply", [b"", b"-ERR unknown command\r\n" * 9], ids=["silent", "another protocol"])
def test_another_server_at_the_port_is_told_in_time(reply: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                kept.append(connection)
                if reply:
                    connection.sendall(reply)

        threading.Thread(target=serve, daemon=True).start()
        with backend_on(f"mongodb://127.0.0.1:{listener.getsockname()[1]}/tests?{DIRECT}") as backend:
            assert_each_raises(backend, BackendError, "cannot be reached|did not answer")
        listener.shutdown(socket.SHUT_RDWR)
        for connection in kept:
            connection.close()


def test_a_wrong_password_is_refused(own: MongoServer) -> None:
    with own.client() as client:
        client["admin"].command("createUser", "u", pwd="right", roles=[{"role": "readWrite", "db": "tests"}])
    own.kill()
    own.arguments.append("--auth")
    own.start()
    options = f"{DIRECT}&authSource=admin"
    with backend_on(own.url(user="u:sekret", options=options)) as backend:
        assert_each_raises(backend, AccessRefused, "the user or the password is wrong")
    with backend_on(own.url(user="u:right", options=options)) as backend:
        assert asyncio.run(backend.store([outcome("x")])) == [True]
        assert set(backend.fetch(["x"])) == {"x"}
    with backend_on(own.url()) as backend:
        with pytest.raises(AccessRefused, match="readWrite on the database tests"):
            backend.fetch(["x"])


# --- Outages ------------------------------------------------------------------------------------------


def test_a_frozen_server_is_an_outage_and_what_was_refused_works_when_it_goes_on(own: MongoServer) -> None:
    with backend_on(own.url()) as backend:
        assert asyncio.run(backend.store([outcome("x")])) == [True]
        backend.fetch(["x"])
        own.freeze()
        try:
            assert_each_raises(backend, BackendError, "did not answer within 2 s|cannot be reached")
        finally:
            own.thaw()
        assert set(wait_for(lambda: _tried(lambda: backend.fetch(["x"])), "an answer")) == {"x"}
        assert asyncio.run(backend.store([outcome("y")])) == [True]


def _tried(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BackendError:
        return None


async def test_a_loop_finds_a_server_that_was_killed_and_is_back(own: MongoServer) -> None:
    with backend_on(own.url()) as backend:
        assert await backend.store([outcome("x")]) == [True]
        own.kill()
        for _ in range(2):
            with pytest.raises(BackendError):
                await backend.store([outcome("y")])
        await asyncio.to_thread(own.start)
        begun = time.monotonic()
        while True:
            try:
                assert await backend.store([outcome("y")]) == [True]
                break
            except BackendError:
                assert time.monotonic() - begun < PATIENCE
        assert set(await backend.afetch(["x", "y"])) == {"x", "y"}
        assert set(backend.fetch(["x", "y"])) == {"x", "y"}


def test_a_short_outage_is_waited_for(own: MongoServer) -> None:
    """A caller that waits for a result has it from the server that is back within the time-out."""
    with backend_on(own.url(), timeout=PATIENCE) as backend:
        backend.fetch(["x"])
        found: list[Any] = []
        waiting = threading.Thread(target=lambda: found.append(backend.fetch(["x"], wait=PATIENCE)))
        waiting.start()
        own.kill()
        own.start()
        asyncio.run(backend.store([outcome("x")]))
        waiting.join(PATIENCE)
        assert [list(one) for one in found] == [["x"]]


# --- Workers ------------------------------------------------------------------------------------------

DIES = """
import asyncio, os, signal, sys
from celeriac.backends.mongodb import MongoBackend
from celeriac.drivers.mongodb.server import Server
from celeriac.model.clock import Clock
from celeriac.ports.workflows import NodeEnd
from celeriac.model.outcome import Outcome
from celeriac.model.message import Place

class Dies(Server):
    async def ado(self, work):
        async def request(collections):
            os.kill(os.getpid(), signal.SIGKILL)

        def counted():
            request_, left = next(work), int(sys.argv[2])
            while left:
                left -= 1
                request_ = work.send((yield request_))
            yield lambda collections: request(collections)

        return await super().ado(counted())

backend = MongoBackend(Dies(sys.argv[1]), Clock())
backend.server._indexed_until["outcomes"] = float("inf")
outcome = Outcome(id="x", task="t", state="SUCCESS", place=Place("w", 0, 1))
asyncio.run(backend.conclude([NodeEnd(outcome)]))
"""


@pytest.mark.parametrize("requests", range(3))
async def test_a_worker_that_is_killed_between_the_steps_of_an_end_loses_none(mongodb: MongoServer, tmp_path: Path,
                                                                             requests: int) -> None:  # fmt: skip
    with database_on(mongodb) as url, backend_on(url, PATIENCE) as backend:
        await backend.aplant(plan("w", left=1, missing={1: 1}))
        (tmp_path / "dies.py").write_text(DIES)
        command = [sys.executable, "dies.py", url, str(requests)]
        killed = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, timeout=PATIENCE, check=False)
        assert killed.returncode == -signal.SIGKILL
        known = await backend.afetch(["x"])
        assert set(known) == ({"x"} if requests else set())
        end = node_end("w", 0, join=1)
        end.outcome.id = "x"
        assert await backend.conclude([NodeEnd(end.outcome)]) == [not requests]
        assert PendingNode("w", 1) in await backend.claim_pending(10, 5.0)


def test_calls_come_back_from_a_worker(mongodb: MongoServer, tmp_path: Path) -> None:
    """Results, failures, retries, groups and chords; the broker is SQLite."""
    with database_on(mongodb) as url:
        urls = {"CELERIAC_BROKER_URL": f"sqlite:///{tmp_path / 'celeriac.db'}", "CELERIAC_RESULT_BACKEND": url}
        assert check_calls(tmp_path, urls) == []


CHORDS = """
import sys
from celeriac import chord
from pairs import add, total
results = [chord([add.s(i, i) for i in range(4)], total.s()).delay() for _ in range(5)]
print("sent", flush=True)
sys.stdin.readline()
assert [result.get(timeout=100) for result in results] == [12] * 5
print("all is well", flush=True)
"""


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_worker_keeps_what_it_cannot_store_until_the_server_is_back(own: MongoServer, tmp_path: Path,
                                                                     how: str) -> None:  # fmt: skip
    urls = {"CELERIAC_BROKER_URL": f"sqlite:///{tmp_path / 'celeriac.db'}", "CELERIAC_RESULT_BACKEND": own.url(),
            "CELERIAC_BROKER_PUBLISH_TIMEOUT": "2"}  # fmt: skip
    (tmp_path / "pairs.py").write_text(APP)
    (tmp_path / "chords.py").write_text(CHORDS)
    log = tmp_path / "log"
    caller = subprocess.Popen([sys.executable, "chords.py"], cwd=tmp_path, env=without_settings() | urls, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    try:
        assert caller.stdout is not None
        assert caller.stdout.readline() == "sent\n"
        if how == "killed":
            own.kill()
        else:
            own.freeze()
        with worker_on(tmp_path, urls):
            wait_for(lambda: "The result backend is unavailable" in log.read_text(), "the outage")
            if how == "killed":
                own.start()
            else:
                own.thaw()
            begun = time.monotonic()
            wait_for(lambda: "result backend is back" in log.read_text(), "the end of the outage")
            assert in_time(time.monotonic() - begun, 5.0)
            told, errors = caller.communicate("\n", timeout=PATIENCE)
            assert told == "all is well\n", f"{errors}\n{log.read_text()[-3000:]}"
    finally:
        caller.kill()
        caller.communicate()


