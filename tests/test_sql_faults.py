"""The backend on SQL databases while its server is killed, frozen, read-only or set up wrongly, and beside others."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy.exc import OperationalError

from celeriac import states
from celeriac.app.connections import open_backend
from celeriac.backends.sql import SQLBackend
from celeriac.config.settings import Settings
from celeriac.drivers.sql.address import Address
from celeriac.drivers.sql.database import Database
from celeriac.drivers.sql.error_translation import translated
from celeriac.drivers.sql.schema import VERSION
from celeriac.errors import (
    AccessRefused,
    BackendError,
    BackendUnavailable,
    CeleriacError,
    ImproperlyConfigured,
    Unstorable,
    WorkflowError,
)
from celeriac.model.message import new_id
from celeriac.model.outcome import Call, Outcome
from celeriac.ports.workflows import Plan
from tests.clock import FakeClock
from tests.environment import without_settings
from tests.mariadb_server import PACKET
from tests.patience import PATIENCE, in_time, wait_for
from tests.sql_server import SQLServer

TIMEOUT = 60.0
SHORT = 2.0

Open = Callable[..., SQLBackend]


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> SQLServer:
    found: SQLServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def opened(clock: FakeClock) -> Iterator[Open]:
    """Open backends; each has connections of its own, as another process has."""
    backends: list[SQLBackend] = []

    def open_(url: str, timeout: float = TIMEOUT, prefix: str = "celeriac_", schema: str | None = None) -> SQLBackend:
        backends.append(SQLBackend(Database(url, schema, prefix, timeout), clock))
        return backends[-1]

    yield open_
    for backend in backends:
        backend.close()


def outcome(id: str = "", state: str = states.SUCCESS, value: bytes = b"1") -> Outcome:
    return Outcome(id=id or new_id(), task="t", state=state, value=value)


def refusal(kind: type[CeleriacError], backend: SQLBackend) -> str:
    """Return the text of the error that a call raises."""
    with pytest.raises(kind) as caught:
        backend.save([outcome()])
    assert type(caught.value) is kind
    return str(caught.value)


# --- Outages ------------------------------------------------------------------------------------------


def test_a_killed_server_is_an_outage_which_ends_when_it_is_back(server: SQLServer, opened: Open) -> None:
    backend = opened(server.url(server.database()))
    first, second = outcome(), outcome()
    assert backend.save([first]) == [True]
    server.kill()
    assert "cannot be reached" in refusal(BackendUnavailable, backend)
    with pytest.raises(ConnectionError, match="Is it running"):
        backend.fetch([first.id])
    server.start()
    assert backend.save([first, second]) == [False, True]
    assert backend.fetch([first.id, second.id]) == {first.id: first, second.id: second}


@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "coroutine"])
def test_a_caller_that_waits_bears_an_outage(server: SQLServer, opened: Open, is_async: bool) -> None:
    url = server.url(server.database())
    waiting, worker = opened(url), opened(url)
    sent = outcome()
    worker.fetch([sent.id])
    lost = threading.Event()
    read = waiting._look

    def look(ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        try:
            return read(ids, final)
        except BackendUnavailable:
            lost.set()
            raise

    waiting._look = look  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as threads:
        if is_async:
            found = threads.submit(lambda: asyncio.run(waiting.afetch([sent.id], wait=PATIENCE)))
        else:
            found = threads.submit(waiting.fetch, [sent.id], PATIENCE)
        server.kill()
        assert lost.wait(PATIENCE)
        begun = time.monotonic()
        with pytest.raises(BackendUnavailable):
            worker.fetch([sent.id], wait=0.5)
        assert in_time(time.monotonic() - begun, 1.0)
        server.start()
        worker.save([sent])
        assert found.result(PATIENCE) == {sent.id: sent}


def test_a_restart_that_nobody_has_noticed_costs_no_error(server: SQLServer, opened: Open) -> None:
    backend = opened(server.url(server.database()))
    first, second = outcome(), outcome()
    backend.save([first])
    server.stop()
    server.start()
    assert backend.save([second]) == [True]
    server.stop()
    server.start()
    assert backend.fetch([first.id]) == {first.id: first}


def test_a_frozen_server_ends_a_call_within_the_time_out(server: SQLServer, opened: Open) -> None:
    url = server.url(server.database())
    first = outcome()
    opened(url).save([first])  # makes the tables, which may take a while
    backend, late = opened(url, SHORT), opened(url, SHORT)

    def found() -> dict[str, Outcome]:
        try:
            return backend.fetch([first.id])
        except BackendUnavailable:  # on a busy machine, two seconds may pass
            return {}

    wait_for(found, "a connection")
    server.freeze()
    for each in (backend, late):  # with a connection, and without
        begun = time.monotonic()
        with pytest.raises(BackendUnavailable):
            each.fetch([first.id])
        assert in_time(time.monotonic() - begun, 3 * SHORT)
    server.thaw()
    assert wait_for(found, "an answer") == {first.id: first}


def test_a_server_that_accepts_no_writes_is_an_outage(opened: Open, postgresql: SQLServer) -> None:
    name = postgresql.database()
    opened(postgresql.url(name)).save([outcome()])
    postgresql.ask(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert "accepts no writes" in refusal(BackendUnavailable, opened(postgresql.url(name)))


def test_tables_that_were_dropped_are_made_again(server: SQLServer, opened: Open) -> None:
    name = server.database()
    backend = opened(server.url(name))
    backend.save([outcome()])
    for table in backend.database.tables.metadata.tables:
        server.ask(f"DROP TABLE {table}", name)
    assert backend.save([outcome()]) == [True]


# --- Set up wrongly -----------------------------------------------------------------------------------


def restricted_user(server: SQLServer, name: str) -> str:
    """Return the name of a user with a password, who may read and write tables and make none."""
    user = f"user{name[5:]}"
    if server.user == "postgres":
        server.ask(f"CREATE ROLE {user} LOGIN PASSWORD 'hunter2'")
        server.ask(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {user}", name)
    else:
        server.ask(f"CREATE USER {user} IDENTIFIED BY 'hunter2'")
        server.ask(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO {user}")
    return user


def test_a_wrong_password_is_refused_and_not_shown(server: SQLServer, opened: Open) -> None:
    name = server.database()
    backend = opened(server.url(name, restricted_user(server, name), "swordfish"))
    text = refusal(AccessRefused, backend)
    assert "the user or the password is wrong" in text
    assert "swordfish" not in text + repr(backend) + repr(backend.database) + repr(backend.database.address)


def test_a_database_that_does_not_exist_is_named(server: SQLServer, opened: Open) -> None:
    assert "no such database: create it" in refusal(BackendError, opened(server.url("nowhere")))


def test_a_user_who_may_make_no_tables_is_told_how_an_administrator_does(server: SQLServer, opened: Open) -> None:
    name = server.database()
    backend = opened(server.url(name, restricted_user(server, name), "hunter2"))
    assert "`celeriac backend schema` prints" in refusal(AccessRefused, backend)
    for statement in backend.schema().split(";"):
        if statement.strip():
            server.ask(statement, name)
    assert backend.save([outcome()]) == [True]


def test_tables_of_an_older_version_get_what_they_lack(server: SQLServer, opened: Open) -> None:
    name = server.database()
    before = opened(server.url(name))
    kept = outcome()
    assert before.save([kept]) == [True]
    server.ask("DROP TABLE celeriac_claims", name)
    server.ask("UPDATE celeriac_version SET version = 1", name)
    backends = [opened(server.url(name)) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda backend: backend.fetch([kept.id]), backends))
    assert found == [{kept.id: kept}] * 4
    assert server.ask("SELECT version FROM celeriac_version", name) == [(VERSION,)]
    assert server.ask("SELECT count(*) FROM celeriac_claims", name) == [(0,)]


def test_tables_of_a_newer_version_are_refused(server: SQLServer, opened: Open) -> None:
    name = server.database()
    opened(server.url(name)).save([outcome()])
    server.ask("UPDATE celeriac_version SET version = 99", name)
    assert "in version 99, made by a newer version" in refusal(BackendError, opened(server.url(name)))


def test_a_prefix_and_a_schema_keep_apps_apart(opened: Open, postgresql: SQLServer) -> None:
    url = postgresql.url(postgresql.database())
    backends = [opened(url), opened(url, prefix="shop_"), opened(url, schema="mine")]
    same = outcome()
    assert [backend.save([same]) for backend in backends] == [[True], [True], [True]]


def test_the_settings_reach_the_database() -> None:
    settings = Settings({"sql_schema": "mine", "sql_table_prefix": "shop_"})
    backend = open_backend("db+postgresql://nowhere.invalid/x", "", settings, FakeClock())
    assert isinstance(backend, SQLBackend)
    assert "CREATE TABLE mine.shop_outcomes" in backend.schema()
    with pytest.raises(ImproperlyConfigured, match="sql_table_prefix: up to 16 lower-case letters"):
        Settings({"sql_table_prefix": "Robert'; --"})


@pytest.mark.parametrize(
    ("url", "missing", "hint"),
    [
        ("db+postgresql://h/d", "psycopg", "celeriac[postgresql]"), ("db+mysql://h/d", "pymysql", "celeriac[mysql]"),
        ("db+oracle://h/d", "oracledb", "celeriac[oracle]"), ("db+mariadb+pymysql://h/d", "pymysql", "celeriac[mysql]"),
        ("db+mssql+pyodbc://h/d", "pyodbc", "pip install pyodbc"),
    ],
)  # fmt: skip
def test_a_missing_driver_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, url: str, missing: str, hint: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImproperlyConfigured, match=re.escape(hint)):
        open_backend(url, "memory://", Settings(), FakeClock())


def test_without_sqlalchemy_the_extra_that_installs_it_is_named() -> None:
    code = """
        import sys; sys.modules["sqlalchemy"] = None
        from celeriac import Celeriac
        from celeriac.errors import ImproperlyConfigured
        for url in ("db+postgresql://h/d", "db+sqlite:///d"):
            try: Celeriac("x", broker_url="memory://", result_backend=url).backend
            except ImproperlyConfigured as error: print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    of_postgresql, of_sqlite = done.stdout.splitlines()
    assert "celeriac[postgresql]" in of_postgresql
    assert "celeriac[sqlalchemy]" in of_sqlite


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("db+postgres://h/d", "Did you mean 'postgresql'"), ("db+postgresql+asyncpg://h/d", "Leave the driver out"),
        ("db+sqlite://", "names no file"), ("db+sqlite:///:memory:", "names no file"), ("db://h", "No result backend"),
        ("db+postgresql://u:swordfish@h:port/d", "cannot be read"),
    ],
)  # fmt: skip
def test_an_unusable_url_is_refused_and_its_password_not_shown(url: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=why) as caught:
        open_backend(url, "memory://", Settings(), FakeClock())
    assert "swordfish" not in str(caught.value)


def test_a_server_without_a_connection_left_is_an_outage(opened: Open, postgresql: SQLServer) -> None:
    name = postgresql.database()
    user = restricted_user(postgresql, name)
    postgresql.ask(f"ALTER ROLE {user} CONNECTION LIMIT 0")
    backend = opened(postgresql.url(name, user, "hunter2"))
    assert "as many connections as it may have" in refusal(BackendUnavailable, backend)


class OracleError(Exception):
    """As oracledb raises them: the first argument has the code."""

    def __init__(self, code: str) -> None:
        super().__init__(SimpleNamespace(full_code=code))


class StateError(Exception):
    """As psycopg raises them."""

    def __init__(self, state: str) -> None:
        super().__init__("it says so")
        self.sqlstate = state


@pytest.mark.parametrize(
    ("error", "kind", "step"),
    [
        (OracleError("ORA-01017"), AccessRefused, "the user or the password is wrong"),
        (OracleError("ORA-12514"), BackendError, "there is no such database"),
        (OracleError("ORA-00060"), BackendUnavailable, "others were changing the same rows"),
        (OracleError("ORA-01653"), BackendUnavailable, "its disk is full"),
        (OracleError("ORA-99999"), BackendUnavailable, "cannot be reached"),
        (StateError("53100"), BackendUnavailable, "its disk is full"),
        (StateError("25006"), BackendUnavailable, "it accepts no writes"),
        (StateError("57P03"), BackendUnavailable, "it is starting or shutting down"),
        (Exception(1114, "The table is full"), BackendUnavailable, "its disk is full"),
        (Exception(1290, "--read-only"), BackendUnavailable, "it accepts no writes"),
        (Exception(1153, "Got a packet"), Unstorable, "too large"),
    ],
    ids=repr,
)
def test_errors_that_are_hard_to_bring_about_are_told_apart(error: Exception, kind: type, step: str) -> None:
    found = translated(OperationalError("INSERT", None, error), Address("db+postgresql://h/d"))
    assert type(found) is kind
    assert step in str(found)


# --- Values and keys ----------------------------------------------------------------------------------


def test_a_value_that_the_server_would_refuse_becomes_a_failure_and_the_others_are_stored(
    opened: Open, mariadb: SQLServer
) -> None:
    backend = opened(mariadb.url(mariadb.database()))
    small, large, larger = outcome(), outcome(value=b"x" * 20_000_000), outcome(value=b"\0" * (PACKET // 2))
    fits = outcome(value=b"\0\n'\\x" * (PACKET // 10 - 500))
    assert backend.save([small, large, larger, fits]) == [True] * 4
    found = backend.fetch([small.id, large.id, larger.id, fits.id])
    assert (found[small.id], found[fits.id]) == (small, fits)
    for item in (large, larger):
        assert found[item.id].state == states.FAILURE
        assert "(half of `max_allowed_packet`)" in str(found[item.id].exception())


def test_arguments_that_the_server_would_refuse_beside_a_result_are_left_out(
    opened: Open, mariadb: SQLServer
) -> None:
    backend = opened(mariadb.url(mariadb.database()))
    both = replace(outcome(value=b"x" * (PACKET // 4)), call=Call(body=b"y" * (PACKET // 4)))
    assert backend.save([both]) == [True]
    assert backend.fetch([both.id]) == {both.id: replace(both, call=Call())}


def test_a_workflow_that_the_server_would_refuse_is_refused(opened: Open, mariadb: SQLServer) -> None:
    backend = opened(mariadb.url(mariadb.database()))
    with pytest.raises(WorkflowError, match=r"The workflow w has .* accepts .* \(half of `max_allowed_packet`\)"):
        backend.plant(Plan(id="w", tree=b"x" * (PACKET // 2), left=1))
    fits = Plan(id="w", tree=b"\0\n'\\x" * (PACKET // 10 - 500), left=1)
    backend.plant(fits)
    assert backend.trees(["w"]) == {"w": fits.tree}


def test_ids_that_look_alike_are_different_tasks(server: SQLServer, opened: Open) -> None:
    backend = opened(server.url(server.database()))
    ids = ["a", "A", "a ", "ä", "a\u0308", "", "x" * 999, "x" * 1000, "a\0b", "😀", "hash:1"][:11]
    sent = {id: outcome(id, value=id.encode()) for id in ids if id}
    assert backend.save(list(sent.values())) == [True] * len(sent)
    assert backend.fetch(list(sent)) == sent
    assert {item.id for item in asyncio.run(backend.recent(100))} == set(sent)
    assert asyncio.run(backend.recent(100, state="ÄNDERUNG")) == []


# --- Beside others ------------------------------------------------------------------------------------


def test_of_many_threads_that_store_the_same_outcomes_one_succeeds(server: SQLServer, opened: Open) -> None:
    url = server.url(server.database())
    backends = [opened(url) for _ in range(4)]  # which all make the tables, too
    items = [outcome() for _ in range(100)]
    start = threading.Barrier(4)

    def store(number: int) -> list[bool]:
        start.wait()
        order = items if number % 2 else items[::-1]
        done: dict[str, bool] = {}
        for at in range(0, len(order), 10):
            part = order[at : at + 10]
            done.update(zip([item.id for item in part], backends[number].save(part), strict=True))
        return [done[item.id] for item in items]

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(store, range(4)))
    assert [sum(each) for each in zip(*results, strict=True)] == [1] * 100


STORING = """
import sys
from celeriac import states
from celeriac.backends.sql import SQLBackend
from celeriac.drivers.sql.database import Database
from celeriac.model.clock import Clock
from celeriac.model.outcome import Outcome

backend = SQLBackend(Database(sys.argv[1], None, "celeriac_", 60.0), Clock())
backend.look(["nobody"], False)
print("ready", flush=True)
sys.stdin.readline()
items = [Outcome(id=f"task-{number}", task="t", state=states.SUCCESS) for number in range(100)]
print(*[int(done) for item in items for done in backend.save([item])], sep="")
backend.close()
"""


def test_of_two_processes_that_store_the_same_outcomes_one_succeeds(server: SQLServer) -> None:
    command = [sys.executable, "-c", STORING, server.url(server.database())]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=without_settings())
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    printed = [process.communicate("go\n", PATIENCE)[0].strip() for process in processes]
    assert [sorted(pair) for pair in zip(*printed, strict=True)] == [["0", "1"]] * 100


FORKING = """
import os, sys
from sqlalchemy import text
from celeriac.drivers.sql.database import Database

database = Database(sys.argv[1], None, "celeriac_", 60.0)
ask = lambda: database.read(lambda connection: connection.execute(text(sys.argv[2])).scalar())
mine = ask()
if (child := os.fork()) == 0:
    found = ask()
    database.close()
    os._exit(3 if found != mine else 4)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
assert ask() == mine
database.close()
"""


def test_a_forked_child_has_connections_of_its_own(server: SQLServer) -> None:
    query = "SELECT pg_backend_pid()" if server.user == "postgres" else "SELECT CONNECTION_ID()"
    command = [sys.executable, "-c", FORKING, server.url(server.database()), query]
    subprocess.run(command, check=True, timeout=PATIENCE, env=without_settings())


def test_a_sweep_deletes_what_has_expired(server: SQLServer, opened: Open, clock: FakeClock) -> None:
    name = server.database()
    backend = opened(server.url(name))
    backend.save([outcome() for _ in range(1_200)])
    clock.advance(86_401)
    kept = outcome()
    backend.save([kept])
    backend.sweep()
    assert server.ask("SELECT id FROM celeriac_outcomes", name) == [(kept.id,)]


# --- Workers ------------------------------------------------------------------------------------------

APP = """
from celeriac import Celeriac

app = Celeriac("shop")

@app.task
def add(x: int, y: int) -> int:
    return x + y

@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)
"""
CALLER = """
from celeriac import chord
from shop import add, total

result = chord([add.s(i, i) for i in range(20)], total.s()).delay()
print("sent", flush=True)
input()
print(result.get(timeout=100))
"""


def test_a_worker_goes_on_when_its_database_is_back(postgresql: SQLServer, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "caller.py").write_text(CALLER)
    environment = without_settings() | {"CELERIAC_RESULT_BACKEND": postgresql.url(postgresql.database())}
    log = tmp_path / "log"

    def start(*command: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, *command], cwd=tmp_path, env=environment, text=True, **options)

    caller = start("caller.py", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert caller.stdout is not None
    assert caller.stdout.readline() == "sent\n"
    postgresql.kill()
    with log.open("w") as file:
        worker = start("-m", "celeriac", "-A", "shop", "worker", "-c", "2", stdout=file, stderr=file)
    try:
        wait_for(lambda: "The result backend is unavailable, the worker keeps trying" in log.read_text())
        postgresql.start()
        assert caller.communicate("\n", PATIENCE)[0] == "380\n"
        wait_for(lambda: "The result backend is back" in log.read_text())
        worker.terminate()
        assert worker.wait(PATIENCE) == 0, log.read_text()
    finally:
        for process in (worker, caller):
            process.kill()
            process.wait()
