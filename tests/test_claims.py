"""Claims keep the same promises on every server, and through every port that gives access to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celeriac import Celeriac
from celeriac.drivers.memory.claims import SOME, MemoryClaimStore
from celeriac.drivers.mongodb.claims import MongoClaimStore
from celeriac.drivers.mongodb.server import Server as MongoDB
from celeriac.drivers.redis.claims import RedisClaimStore
from celeriac.drivers.redis.server import Server
from celeriac.drivers.sql.claims import SQLClaimStore
from celeriac.drivers.sql.database import Database as SQLDatabase
from celeriac.drivers.sqlite.claims import SQLiteClaimStore
from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.zmq.claims import HubClaims
from celeriac.drivers.zmq.server import Server as Hub
from celeriac.errors import NotSupported
from celeriac.ports.claims import ClaimStore, claim_store
from tests.clock import FakeClock
from tests.conformance.claims import ClaimsConformance
from tests.mongodb_server import LEFT, database_on
from tests.patience import PATIENCE
from tests.redis_server import RedisClock

pytestmark = pytest.mark.filterwarnings(LEFT)

STORES = ["memory", "sqlite", "redis", "hub", "mongodb", "sql-postgresql", "sql-mariadb", "sql-sqlite"]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock(store: str, request: pytest.FixtureRequest) -> FakeClock:
    if store == "redis":
        return RedisClock(request.getfixturevalue("redis"))
    return FakeClock(time.time()) if store == "mongodb" else FakeClock()  # MongoDB deletes by its own clock


@pytest.fixture
def claims(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClaimStore]:
    if store == "memory":
        yield MemoryClaimStore()
    elif store == "sqlite":
        file = Database(str(tmp_path / "celeriac.db"))
        yield SQLiteClaimStore(file)
        file.close()
    elif store == "redis":
        redis = Server(request.getfixturevalue("redis").url)
        yield RedisClaimStore(redis)
        redis.close()
    elif store == "hub":
        process = request.getfixturevalue("hub_process")
        process.emptied()
        hub = Hub(process.url, timeout=PATIENCE)
        yield HubClaims(hub)
        hub.close()
    elif store == "mongodb":
        request.getfixturevalue("collected")
        with database_on(request.getfixturevalue("mongodb")) as url:
            mongodb = MongoDB(url, timeout=60.0)
            yield MongoClaimStore(mongodb)
            mongodb.close()
    else:
        url = f"db+sqlite:///{tmp_path}/results.db"
        if store != "sql-sqlite":
            server = request.getfixturevalue(store.removeprefix("sql-"))
            url = str(server.emptied())
        database = SQLDatabase(url, None, "celeriac_", 60.0)
        yield SQLClaimStore(database)
        database.close()


class TestClaims(ClaimsConformance):
    pass


async def test_a_backend_and_its_history_have_the_same_claims(make_app: Callable[..., Celeriac]) -> None:
    app = make_app()
    assert app.history is not None
    assert await app.history.claims().claim("mail:f00d", b"w1", 60.0, app.clock.now()) is None
    assert await claim_store(app.backend).claim("mail:f00d", b"w2", 60.0, app.clock.now()) == b"w1"


async def test_a_history_elsewhere_has_claims_where_the_backend_has_none(tmp_path: Path) -> None:
    app = Celeriac("elsewhere", broker_url="memory://", result_backend="memcached://127.0.0.1:1",
                   history_url=f"sqlite:///{tmp_path}/history.db", environ={})  # fmt: skip
    with pytest.raises(NotSupported, match="keeps no claims"):
        claim_store(app.backend)
    assert app.history is not None
    assert await app.history.claims().claim("k", b"v", 60.0, app.clock.now()) is None
    assert await app.history.claims().claim("k", b"w", 60.0, app.clock.now()) == b"v"
    app.close()


async def test_claims_that_have_expired_are_deleted_in_memory(clock: FakeClock) -> None:
    claims = MemoryClaimStore()
    for number in range(SOME):
        await claims.claim(str(number), b"", 10.0, clock.now())
    clock.advance(11)
    await claims.claim("one more", b"", 10.0, clock.now())
    assert len(claims._claims) == 1


@pytest.mark.parametrize("store", ["sql-sqlite"], indirect=True)
async def test_claims_that_have_expired_are_deleted_from_their_table(claims: ClaimStore, clock: FakeClock) -> None:
    assert isinstance(claims, SQLClaimStore)
    for seconds in (10.0, 20.0):
        await claims.claim(str(seconds), b"", seconds, clock.now())
    clock.advance(11)
    assert not claims._database.write(lambda connection: claims.delete_expired(connection, clock.now()))
    rows = claims._database.read(lambda connection: connection.exec_driver_sql("SELECT id FROM celeriac_claims").all())
    assert [tuple(row) for row in rows] == [("20.0",)]
