"""The backend on SQL databases keeps the promises of its ports, on PostgreSQL, MariaDB and SQLite."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from secrets import randbits
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, create_mock_engine, insert, select
from sqlalchemy.dialects.oracle.oracledb import OracleDialect_oracledb
from sqlalchemy.sql import ClauseElement

from celeriac import states
from celeriac.backends.sql import SQLBackend
from celeriac.brokers.memory import MemoryBroker
from celeriac.drivers.memory import Store
from celeriac.drivers.sql import workflows
from celeriac.drivers.sql.database import Database
from celeriac.drivers.sql.outcomes import OutcomeTable, Row
from celeriac.drivers.sql.schema import Tables
from celeriac.drivers.sql.workflows import WorkflowTables
from celeriac.model.codec import Codec
from celeriac.model.keys import new_key, parse_key
from celeriac.model.outcome import Outcome
from celeriac.ports.schedules import ScheduleStore, schedule_store
from celeriac.ports.workflows import PendingNode, WorkflowStore
from tests.clock import FakeClock
from tests.conformance.backend import BackendConformance, WorkflowConformance, node_end, plan
from tests.conformance.broker import Ports
from tests.conformance.schedules import SchedulesConformance

TIMEOUT = 60.0
ORACLE = "CELERIAC_TEST_ORACLE_URL"
PLACES = [  # and whether to leave out the upsert of its own: then it takes the way of all others
    ("postgresql", False), ("postgresql", True), ("mariadb", False), ("sqlite", False), ("sqlite", True),
    *([("oracle", False)] if ORACLE in os.environ else []),
]  # fmt: skip


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    system = getattr(request, "param", "sqlite")
    if system == "oracle":
        return os.environ[ORACLE]
    if system == "sqlite":
        return f"db+sqlite:///{tmp_path}/results.db"
    server = request.getfixturevalue(system)
    return str(server.emptied())


Open = Callable[..., SQLBackend]


@pytest.fixture
def opened(url: str, clock: FakeClock) -> Iterator[Open]:
    """Open backends in that database; each has connections of its own, as another process has."""
    backends: list[SQLBackend] = []
    prefix = f"t{randbits(32):x}_" if "oracle" in url else "celeriac_"

    def open_(**options: object) -> SQLBackend:
        database = Database(url, None, prefix, TIMEOUT)
        backends.append(SQLBackend(database, clock, **options))  # type: ignore[arg-type]
        return backends[-1]

    yield open_
    for backend in backends:
        if "oracle" in url:
            backend.database.write(backend.database.tables.metadata.drop_all)
        backend.close()


@pytest.fixture
def ports(opened: Open, clock: FakeClock, generic: bool) -> Ports:
    store = Store()
    return Ports(MemoryBroker(store, clock), opened(generic=generic), clock, lambda: MemoryBroker(store, clock))


@pytest.mark.parametrize(("url", "generic"), PLACES, indirect=["url"])
class Everywhere:
    pass


class TestBackend(Everywhere, BackendConformance):
    async def test_an_outcome_that_has_expired_and_is_still_there_gives_way_to_the_next(self, ports: Ports) -> None:
        old, new, other = ports.outcome(value=b"1"), ports.outcome(value=b"2"), ports.outcome(value=b"3")
        new.id = other.id = old.id
        assert await ports.store(old) == [True]
        ports.clock.advance(86400.0)
        assert await ports.store(new) == [False]
        assert ports.backend.fetch([old.id]) == {old.id: old}
        ports.clock.advance(1.0)
        assert ports.backend.fetch([old.id]) == {}
        fresh = ports.outcome()
        assert await ports.store(new, fresh) == [True, True]
        assert await ports.store(other) == [False]
        assert ports.backend.fetch([old.id, fresh.id]) == {old.id: new, fresh.id: fresh}


class TestWorkflows(Everywhere, WorkflowConformance):
    async def test_a_node_whose_id_has_an_outcome_that_has_expired_is_counted(self, ports: Ports) -> None:
        backend, end = ports.backend, node_end("w", 0, join=1)
        assert isinstance(backend, WorkflowStore)
        await ports.store(replace(end.outcome, place=None))
        ports.clock.advance(86401.0)
        backend.plant(plan("w", left=1, missing={1: 1}))
        assert await backend.conclude([end]) == [True]
        assert await backend.claim_pending(10, 5.0) == {PendingNode("w", 1): False}

    @pytest.mark.parametrize("named", ["W", ""])
    async def test_a_pending_node_whose_row_names_another_workflow_is_removed(self, ports: Ports, named: str) -> None:
        backend = ports.backend
        assert isinstance(backend, SQLBackend)
        pending = backend.database.tables.pending
        row = {"workflow": "w", "node": 0, "free_at": 0, "workflow_id": named.encode()}
        backend.database.write(lambda connection: connection.execute(insert(pending).values(row)))
        assert await backend.claim_pending(10, 5.0) == {}
        ports.clock.advance(6.0)
        assert await backend.claim_pending(10, 5.0) == {}
        assert backend.database.write(lambda connection: connection.execute(select(pending)).all()) == []

    async def test_outcomes_that_never_expire_stay(self, opened: Open, clock: FakeClock, generic: bool) -> None:
        backend = opened(generic=generic, result_expires=None)
        first, second = (Outcome(id="a", task="t", state=states.SUCCESS, value=value) for value in (b"1", b"2"))
        assert backend.save([first]) == [True]
        clock.advance(86400.0 * 365)
        assert backend.save([second]) == [False]
        assert backend.fetch(["a"]) == {"a": first}

    async def test_workflows_that_have_not_ended_are_not_listed_where_too_many_have_changed_lately(
        self, ports: Ports, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = ports.backend
        assert isinstance(backend, WorkflowStore)
        monkeypatch.setattr(workflows, "MOST_LATELY", 2)
        for id in ("old", "a", "b", "c"):
            backend.plant(plan(id, left=1))
            ports.clock.advance(86_400.0 if id == "old" else 1.0)
        await backend.conclude([node_end("a", 0), node_end("b", 0)])
        assert await backend.unfinished(10) is None
        ports.clock.advance(1.0)
        backend.plant(plan("d", left=1))
        assert await backend.unfinished(1) == ["d"]  # those are the latest all the same
        backend.uproot(["a", "d"])
        assert await backend.unfinished(10) == ["c", "old"]


class TestSchedules(Everywhere, SchedulesConformance):
    @pytest.fixture
    def schedules(self, ports: Ports) -> ScheduleStore:
        return schedule_store(_NoSchedules(), ports.backend)  # type: ignore[arg-type]


class _NoSchedules:
    """A broker that keeps no schedules."""


def test_outcomes_are_sealed_where_the_app_has_keys(opened: Open) -> None:
    codec = Codec([parse_key(new_key())], encrypt=False)
    backend, other = opened(codec=codec), opened()
    sent = Outcome(id="a", task="t", state=states.SUCCESS, value=b"1")
    assert backend.save([sent]) == [True]
    assert backend.fetch(["a"]) == {"a": sent}
    assert other.fetch(["a"])["a"].state == states.FAILURE


def test_a_connection_in_use_is_closed_after_its_backend(opened: Open) -> None:
    database = opened().database
    used: Future[Any] = Future()
    closed: Future[None] = Future()

    def look(connection: Connection) -> None:
        used.set_result(connection.connection.dbapi_connection)
        closed.result()
        connection.execute(select(database.tables.version)).all()

    with ThreadPoolExecutor(1) as threads:
        looking = threads.submit(database.read, look)
        raw = used.result()
        database.close()
        closed.set_result(None)
        looking.result()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        raw.execute("SELECT 1")


# --- Oracle: what it would be told --------------------------------------------------------------------


def test_all_of_this_is_kept_by_a_real_oracle_too() -> None:
    if ORACLE not in os.environ:
        pytest.skip(f"no Oracle to be had here: set {ORACLE}=db+oracle://user:password@host/?service_name=…")
    assert ("oracle", False) in PLACES


def oracle(statement: Any) -> str:
    """Return a statement as Oracle is told it, on one line."""
    return " ".join(str(statement.compile(dialect=OracleDialect_oracledb())).split())


def test_oracle_has_large_values_and_exact_instants() -> None:
    text = Tables("mine", "shop_").text(OracleDialect_oracledb())
    assert "outcome BLOB NOT NULL" in text
    assert "stored_at NUMBER(19) NOT NULL" in text
    assert "name RAW(2000) NOT NULL" in text
    assert "INSERT INTO mine.shop_version (id, version) VALUES (1, 3)" in text
    assert all(len(name) <= 30 for name in re.findall(r"(?:TABLE mine\.|INDEX mine\.|INDEX )(\w+)", text))


def test_oracle_locks_what_it_reads_and_is_asked_for_no_upsert() -> None:
    told: list[str] = []
    connection = create_mock_engine("oracle+oracledb://", lambda statement, *_, **__: told.append(oracle(statement)))
    outcomes = OutcomeTable(Tables(None, "celeriac_"), 86400.0)
    with pytest.raises(TypeError):  # it answers nothing
        outcomes.store(connection, [Row("a", "SUCCESS", True, b"1")], 1, 1_000)  # type: ignore[arg-type]
    assert told == [
        "SELECT celeriac_outcomes.id, celeriac_outcomes.is_final, celeriac_outcomes.stored_at FROM celeriac_outcomes "
        "WHERE celeriac_outcomes.id IN (__[POSTCOMPILE_keys]) ORDER BY celeriac_outcomes.id FOR UPDATE"
    ]


def test_oracle_is_told_how_many_rows_to_fetch_and_never_with_a_lock() -> None:
    """`FETCH FIRST … FOR UPDATE` compiles, and fails with ORA-02014."""
    tables = Tables(None, "celeriac_")
    outcomes = OutcomeTable(tables, 86400.0)
    workflows = WorkflowTables(tables, outcomes, lambda outcome: Row("", "", True, b""))
    statements = [
        oracle(statement)
        for of in (outcomes, workflows)
        for statement in vars(of).values()
        if isinstance(statement, ClauseElement)
    ]
    limited = [statement for statement in statements if "FETCH FIRST" in statement]
    assert len(limited) == 2
    assert not any("FOR UPDATE" in statement for statement in limited)
    assert not any("ON CONFLICT" in statement or "RETURNING" in statement for statement in statements)


async def test_oracle_which_takes_an_empty_value_for_none_is_not_asked_for_names_after_it(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, told = opened(), []

    async def noted(statement: Any) -> list[Any]:
        told.append(oracle(statement))
        return []

    monkeypatch.setattr(backend.database, "arows", noted)
    store = schedule_store(_NoSchedules(), backend)  # type: ignore[arg-type]
    await store.page("", 10)
    await store.page("a", 10)
    assert ["WHERE" in statement for statement in told] == [False, True]
