"""Every history keeps the same promises; and what single stores do besides."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from celeriac.drivers.memory.history import MemoryHistory
from celeriac.drivers.mongodb import history_sums
from celeriac.drivers.mongodb.history import MongoHistory
from celeriac.drivers.mongodb.server import Server as MongoDB
from celeriac.drivers.redis.history import RedisHistory
from celeriac.drivers.redis.server import Server
from celeriac.drivers.sql.database import Database as SQLDatabase
from celeriac.drivers.sql.history import SQLHistory
from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.history import SQLiteHistory
from celeriac.drivers.zmq.history import HubHistory
from celeriac.drivers.zmq.server import Server as Hub
from celeriac.model.codec import PLAIN_CODEC, Codec, codec_of
from celeriac.model.history import Batch, Event, Key
from celeriac.model.keys import parse_key
from celeriac.ports.history import History, Limits
from celeriac.ports.history_sums import Row
from tests.clock import FakeClock
from tests.conformance.history import START, HistoryConformance, attempt, batch, failure, fold, key, total
from tests.mongodb_server import LEFT, MongoServer, database_on
from tests.patience import PATIENCE
from tests.redis_server import RedisClock, RedisServer

pytestmark = pytest.mark.filterwarnings(LEFT)

SECRET = codec_of((parse_key("s" * 40),), "", True, False)


STORES = [
    "memory", "sqlite", "redis", "sqlite-encrypted", "redis-encrypted", "sql-postgresql", "sql-mariadb", "sql-sqlite",
    "sql-sqlite-encrypted", "mongodb", "mongodb-encrypted", "hub",
    "hub-encrypted",
]  # fmt: skip


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock(store: str, request: pytest.FixtureRequest) -> FakeClock:
    if store.startswith("mongodb"):
        return FakeClock(time.time())  # the server deletes by its own clock
    return RedisClock(request.getfixturevalue("redis")) if store.startswith("redis") else FakeClock()


@pytest.fixture
def history(store: str, request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[History]:
    codec = SECRET if store.endswith("-encrypted") else PLAIN_CODEC
    made: History
    with ExitStack() as stack:
        if store.startswith("mongodb"):
            request.getfixturevalue("collected")
            url = stack.enter_context(database_on(request.getfixturevalue("mongodb")))
            made = MongoHistory(MongoDB(url, timeout=60.0, codec=codec), clock)
        else:
            made = elsewhere(store, request, tmp_path, codec)
        yield made
        made.close()


def elsewhere(store: str, request: pytest.FixtureRequest, tmp_path: Path, codec: Codec) -> History:
    if store == "memory":
        return MemoryHistory()
    if store.startswith("sqlite"):
        return SQLiteHistory(Database(str(tmp_path / "celeriac.db"), codec=codec))
    if store.startswith("hub"):
        process = request.getfixturevalue("hub_process")
        process.emptied()
        return HubHistory(Hub(process.url, timeout=PATIENCE, codec=codec))
    if store.startswith("sql-"):
        return SQLHistory(SQLDatabase(sql_url(store.split("-")[1], request, tmp_path), None, "celeriac_", 60.0), codec)
    return RedisHistory(Server(request.getfixturevalue("redis").url, codec=codec))


def sql_url(system: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the URL of an empty database."""
    if system == "sqlite":
        return f"db+sqlite:///{folder}/results.db"
    server = request.getfixturevalue(system)
    return str(server.emptied())


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
    await write_and_fold(histories)
    for history in histories:
        history.close()


async def write_and_fold(histories: Sequence[History]) -> None:
    async def work(history: History, lease: str) -> None:
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


# --- MongoDB ------------------------------------------------------------------------------------------


@pytest.fixture
def mongo_history(mongodb: MongoServer, clock: FakeClock, collected: None) -> Iterator[MongoHistory]:
    with database_on(mongodb) as url:
        made = MongoHistory(MongoDB(url, timeout=60.0), clock)
        yield made
        made.close()


def collection(history: MongoHistory, name: str) -> Any:
    return history.server.client()[history.server.address.database][f"celeriac.history.{name}"]


@pytest.mark.parametrize("store", ["mongodb"], indirect=True)
async def test_a_swap_whose_process_dies_has_happened_and_is_carried_out_by_the_next_one(
    mongo_history: MongoHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was frozen, and goes on much later: what others have written since stays."""
    history, carry_out = mongo_history, history_sums._carry_out
    begun: list[history_sums._Swap] = []

    def die(made: history_sums._Swap, now: float) -> Iterator[Any]:
        begun.append(made)
        yield from ()

    await history.record(batch({key(): 3, key(task="t"): 1}, complete=START), START)
    with monkeypatch.context() as patched:
        patched.setattr(history_sums, "_carry_out", die)
        assert await history.compact(START + 20) == 2
    assert (await history.unfolded(), await total(history)) == ([], 4)
    assert (await history.workers())["a"].folded == START
    await history.record(batch({key(): 3, key(START + 10): 5}, complete=START + 10), START + 20)
    assert await total(history) == 9
    await fold(history, START + 30)
    (stale,) = begun
    await history.server.ado(carry_out(stale, START + 40))
    assert (await history.unfolded(), await total(history)) == ([], 9)
    assert sum(point.sums.n for point in await history.series(START, START + 20)) == 9
    await fold(history, START + 100_000)  # the rows of the finest step become coarser
    await history.server.ado(carry_out(stale, START + 100_000))
    assert sum(point.sums.n for point in await history.series(START, START + 59)) == 9


@pytest.mark.parametrize("store", ["mongodb"], indirect=True)
async def test_workers_of_mongodb_that_write_and_fold_at_once_count_everything_once(
    mongodb: MongoServer, clock: FakeClock, collected: None
) -> None:
    with database_on(mongodb) as url:
        histories = [MongoHistory(MongoDB(url, timeout=60.0), clock) for _ in range(4)]
        await write_and_fold(histories)
        for history in histories:
            history.close()


@pytest.mark.parametrize("store", ["mongodb"], indirect=True)
async def test_junk_in_mongodb_is_left_out(mongo_history: MongoHistory) -> None:
    more = {"attempts": [attempt("x"), attempt("y")], "signatures": [failure(), failure("beef")]}
    await mongo_history.record(batch({key(): 1}, events=[Event(at=START, kind="k")], complete=START, **more), START)
    for name, junk in (
        ("workers", {"_id": "v", "rows": {"1": {"x": 7, "y": ["{", b"1"]}, "2": "z"}, "folded": "z", "seen_at": START}),
        ("workers", {"_id": "w", "rows": 7}),
        ("sums", {"_id": "{", "step": 0, "at": 0, "value": b"1"}),
        ("sums", {"_id": 7, "step": 0, "at": 0, "value": "1"}),
        ("attempts", {"_id": "zzz", "is_sample": False, "value": 7}),
        ("signatures", {"_id": "junk", "last": START + 9, "value": 7}),
        ("events", {"_id": "junk", "at": START, "value": "junk"}),
    ):
        collection(mongo_history, name).insert_one(junk)
    collection(mongo_history, "attempts").update_one({"task_id": "x"}, {"$set": {"value": b"\xc1"}})
    collection(mongo_history, "signatures").update_one({"_id": "beef"}, {"$set": {"status": 7, "revision": "x"}})
    assert await total(mongo_history) == 1
    assert [one.id for one in (await mongo_history.search(limit=1)).rows] == ["y"]
    known = [(one.signature, one.status) for one in await mongo_history.signatures()]
    assert sorted(known) == [("beef", "open"), ("f00d", "open")]
    assert len(await mongo_history.events()) == 1
    await mongo_history.record(batch({key(lease="v"): 2}, lease="v", signatures=[failure("beef")]), START)
    await fold(mongo_history, START + 20)
    assert await total(mongo_history) == 3
    while await mongo_history.prune(Limits(failures=0.0, events=0.0), START + 1_000_000):
        pass
    assert (await mongo_history.search()).of == 1  # the one whose name is none


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
