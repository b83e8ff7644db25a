"""Every history keeps the same promises; and what single stores do besides."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from celeriac.drivers.memory_history import MemoryHistory
from celeriac.drivers.redis.history import RedisHistory
from celeriac.drivers.redis.server import Server
from celeriac.drivers.sql.database import Database as SQLDatabase
from celeriac.drivers.sql.history import SQLHistory
from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.history import SQLiteHistory
from celeriac.model.codec import PLAIN_CODEC, codec_of
from celeriac.model.history import Batch, Event, Key
from celeriac.model.keys import parse_key
from celeriac.ports.history import History, Limits
from celeriac.ports.history_sums import Row
from tests.clock import FakeClock
from tests.conformance.history import START, HistoryConformance, attempt, batch, failure, fold, key, total
from tests.redis_server import RedisClock, RedisServer

SECRET = codec_of((parse_key("s" * 40),), "", True, False)


STORES = [
    "memory", "sqlite", "redis", "sqlite-encrypted", "redis-encrypted", "sql-postgresql", "sql-mariadb", "sql-sqlite",
    "sql-sqlite-encrypted",
]  # fmt: skip


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock(store: str, request: pytest.FixtureRequest) -> FakeClock:
    return RedisClock(request.getfixturevalue("redis")) if store.startswith("redis") else FakeClock()


@pytest.fixture
def history(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[History]:
    codec = SECRET if store.endswith("-encrypted") else PLAIN_CODEC
    made: History
    if store == "memory":
        made = MemoryHistory()
    elif store.startswith("sqlite"):
        made = SQLiteHistory(Database(str(tmp_path / "celeriac.db"), codec=codec))
    elif store.startswith("sql-"):
        made = SQLHistory(SQLDatabase(sql_url(store.split("-")[1], request, tmp_path), None, "celeriac_", 60.0), codec)
    else:
        made = RedisHistory(Server(request.getfixturevalue("redis").url, codec=codec))
    yield made
    made.close()


def sql_url(system: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the URL of an empty database."""
    if system == "sqlite":
        return f"db+sqlite:///{folder}/results.db"
    server = request.getfixturevalue(system)
    return str(server.url(server.emptied()))


class TestHistory(HistoryConformance):
    pass


class FoldedMeanwhile(MemoryHistory):
    """Is compacted between two reads."""

    def __init__(self) -> None:
        super().__init__()
        self.folds = 0

    async def rows(self, step: int, since: int, until: int, limit: int | None = None) -> list[Row]:
        found = await super().rows(step, since, until, limit)
        if limit is None and self.folds == 0:
            self.folds += 1
            await self.compact(START + 20)
        return found

    async def get(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        if self.folds == -1:
            self.folds += 1
            await self.compact(START + 20)
        return await super().get(keys)


async def test_what_is_folded_while_it_is_read_is_counted_once() -> None:
    """Counters for metrics must neither go down nor up by that."""
    failed = {"state": "FAILURE", "error": "E", "signature": "f00d"}
    for read in ("totals", "series", "signatures"):
        history = FoldedMeanwhile()
        history.folds = -1 if read == "signatures" else 0
        await history.record(batch({key(**failed): 3}, signatures=[failure()], complete=START), START)
        if read == "totals":
            assert await total(history) == 3
        elif read == "series":
            assert sum(point.sums.n for point in await history.series(START, START + 60)) == 3
        else:
            assert [one.count for one in await history.signatures()] == [3]
        assert await history.unfolded() == []


# --- SQLite -------------------------------------------------------------------------------------------


@pytest.fixture
def sqlite_history(tmp_path: Path) -> Iterator[SQLiteHistory]:
    made = SQLiteHistory(Database(str(tmp_path / "celeriac.db")))
    yield made
    made.close()


async def test_tables_are_made_when_something_is_recorded(sqlite_history: SQLiteHistory) -> None:
    def tables() -> set[str]:
        with sqlite3.connect(sqlite_history.database.path) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'history_%'")
            return {name for (name,) in found}

    assert await sqlite_history.totals() == []
    assert tables() == set()
    await sqlite_history.record(batch({key(): 1}), START)
    assert "history_sums" in tables()


async def test_the_history_goes_on_in_a_file_that_replaces_a_deleted_one(sqlite_history: SQLiteHistory) -> None:
    await sqlite_history.record(batch({key(): 1}), START)
    path = Path(sqlite_history.database.path)
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    assert await sqlite_history.totals() == []
    await sqlite_history.record(batch({key(): 2}), START)
    assert await total(sqlite_history) == 2


async def test_rows_that_cannot_be_read_are_left_out(sqlite_history: SQLiteHistory) -> None:
    await sqlite_history.record(
        batch({key(): 1, key(task="t"): 2}, attempts=[attempt("x"), attempt("y")], signatures=[failure()],
              complete=START), START)  # fmt: skip
    for statement in ("UPDATE history_sums SET value = 'junk' WHERE task = 't'",
                      "UPDATE history_attempts SET value = x'c1' WHERE id = 'x'",
                      "UPDATE history_signatures SET value = 7"):  # fmt: skip
        sqlite_history.database.write(lambda connection, given=statement: connection.execute(given))
    assert await total(sqlite_history) == 1
    assert [one.id for one in (await sqlite_history.search()).rows] == ["y"]
    assert await sqlite_history.signatures() == []
    await fold(sqlite_history, START + 20)
    assert await sqlite_history.unfolded() == []
    assert await total(sqlite_history) == 1
    await sqlite_history.record(Batch(lease="a", signatures=[failure()]), START)
    assert len(await sqlite_history.signatures()) == 1


async def test_a_search_by_task_or_signature_uses_an_index(sqlite_history: SQLiteHistory) -> None:
    await sqlite_history.record(Batch(lease="a", attempts=[attempt("x")]), START)

    def plan(where: str) -> str:
        query = f"EXPLAIN QUERY PLAN SELECT value FROM history_attempts WHERE {where} ORDER BY at DESC"
        rows = sqlite_history.database.read(lambda connection: connection.execute(query).fetchall())
        return " ".join(row[-1] for row in rows)

    for where in ("1", "task IN ('a')", "signature IN ('s') AND signature <> ''", "sample = 1", "id IN ('x')"):
        assert "SCAN" not in plan(where) or where == "1", where


# --- SQL databases ------------------------------------------------------------------------------------


@pytest.fixture
def sql_history(tmp_path: Path) -> Iterator[SQLHistory]:
    made = SQLHistory(SQLDatabase(f"db+sqlite:///{tmp_path}/results.db", None, "celeriac_", 60.0), PLAIN_CODEC)
    yield made
    made.close()


def told(history: SQLHistory, *statements: str) -> None:
    for statement in statements:
        history.database.write(lambda connection, given=statement: connection.exec_driver_sql(given))


async def test_junk_in_a_sql_database_is_left_out(sql_history: SQLHistory) -> None:
    more = {"attempts": [attempt("x"), attempt("y")], "signatures": [failure(), failure("beef")]}
    counted = {key(): 1, key(task="t"): 2, key(task="u"): 4}
    await sql_history.record(batch(counted, events=[Event(at=START, kind="k")], complete=START, **more), START)
    assert await sql_history.mark("beef", "muted", "me", START)
    told(
        sql_history,
        "UPDATE celeriac_history_sums SET sums = 'junk' WHERE CAST(name AS TEXT) LIKE '%\"t\"%'",
        "UPDATE celeriac_history_sums SET name = 7 WHERE CAST(name AS TEXT) LIKE '%\"u\"%'",
        "UPDATE celeriac_history_attempts SET attempt = x'c1' WHERE task_id = 'x'",
        "INSERT INTO celeriac_history_attempts VALUES ('zzz', 'z', 't', 's', 0, 'junk')",
        "UPDATE celeriac_history_signatures SET signature = 7 WHERE id = 'f00d'",
        "UPDATE celeriac_history_signatures SET mark = 'junk' WHERE id = 'beef'",
        "UPDATE celeriac_history_events SET event = 'junk'",
        "INSERT INTO celeriac_history_workers VALUES ('w', 7, 0, 0, 0)",
    )
    assert await total(sql_history) == 1
    assert [one.id for one in (await sql_history.search(limit=1)).rows] == ["y"]
    assert [(one.signature, one.status) for one in await sql_history.signatures()] == [("beef", "open")]
    assert await sql_history.events() == []
    await fold(sql_history, START + 20)
    assert await sql_history.unfolded() == []
    assert await total(sql_history) == 1
    while await sql_history.prune(Limits(failures=0.0, events=0.0), START + 1_000_000):
        pass
    assert (await sql_history.search()).of == 1  # the row whose name is none
    await sql_history.record(Batch(lease="a", signatures=[failure()]), START)
    assert len(await sql_history.signatures()) == 2


async def test_a_search_in_a_sql_database_uses_an_index(sql_history: SQLHistory) -> None:
    await sql_history.record(Batch(lease="a", attempts=[attempt("x")]), START)

    def plan(where: str) -> str:
        query = f"EXPLAIN QUERY PLAN SELECT attempt FROM celeriac_history_attempts WHERE {where} ORDER BY name DESC"
        rows = sql_history.database.read(lambda connection: connection.exec_driver_sql(query).all())
        return " ".join(row[-1] for row in rows)

    for where in ("name < 'x'", "task IN ('a')", "signature IN ('s')", "is_sample = 1", "task_id IN ('x')"):
        assert "SEARCH" in plan(where), where
        assert "TEMP B-TREE" not in plan(where) or "task_id" in where


@pytest.mark.parametrize("store", ["sql-postgresql", "sql-mariadb", "sql-sqlite"], indirect=True)
async def test_workers_that_write_and_fold_at_once_count_everything_once(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Each has connections of its own. What one writes again after another has folded it is left out."""
    url = sql_url(store.removeprefix("sql-"), request, tmp_path)
    histories = [SQLHistory(SQLDatabase(url, None, "celeriac_", 60.0), PLAIN_CODEC) for _ in range(4)]

    async def work(history: SQLHistory, lease: str) -> None:
        for slot in range(START, START + 60, 10):
            given = batch({key(slot, lease): 1, key(slot, lease, state="FAILURE", error="E", signature="f"): 1}, lease,
                          complete=slot, signatures=[failure("f")])  # fmt: skip
            for _ in range(2):
                await history.record(given, slot)
                await history.compact(slot + 5)

    await asyncio.gather(*[work(history, f"w{n}") for n, history in enumerate(histories)])
    await fold(histories[0], START + 70)
    assert await total(histories[0]) == 4 * 6 * 2
    (signature,) = await histories[0].signatures()
    assert signature.count == 4 * 6
    for history in histories:
        history.close()


# --- Redis --------------------------------------------------------------------------------------------


async def test_junk_in_redis_is_left_out(redis: RedisServer) -> None:
    history = RedisHistory(Server(redis.url))
    await history.record(batch({key(): 2}, complete=START, attempts=[attempt("x")], signatures=[failure()]), START)
    await history.audit(Event(at=START, kind="action"))
    prefix = "celeriac:history"
    redis.ask("HSET", f"{prefix}:workers", "junk", "x")
    redis.ask("HSET", f"{prefix}:marks", "f00d", "x")
    redis.ask("HSET", f"{prefix}:unfolded", "junk", "x")
    redis.ask("HSET", f"{prefix}:attempts", "junk", "x")
    redis.ask("ZADD", f"{prefix}:kind:failure", START, "junk")
    redis.ask("ZADD", f"{prefix}:times", START, "junk")
    await fold(history, START + 20)
    assert await total(history) == 2
    assert [one.id for one in (await history.search()).rows] == ["x"]
    assert [one.status for one in await history.signatures()] == ["open"]
    assert len(await history.events()) == 1
    while await history.prune(Limits(failures=0.0, events=0.0), START + 100_000):
        pass
    assert (await history.search()).rows == []
    history.close()


async def test_redis_leaves_nothing_behind_that_was_deleted(redis: RedisServer) -> None:
    history = RedisHistory(Server(redis.url))
    given = [attempt(f"i{n}", START + n, signature="s", task=f"t{n}") for n in range(700)]
    await history.record(batch({key(): 1}, complete=START, attempts=given, signatures=[failure()]), START)
    await fold(history, START + 20)
    assert (await history.search(limit=1)).of == 700
    while await history.prune(Limits(failures=0.0, signatures=0.0), START + 10_000_000):
        pass
    left = {name.decode().split(":", 1)[1] for name in redis.ask("KEYS", "*")}
    assert left == {"history:slots:10", f"history:sums:10:{START}", "history:slots:0", "history:sums:0:0"}
    history.close()
