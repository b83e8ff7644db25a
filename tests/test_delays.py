"""Messages that wait in the result backend's store keep the same promises on every server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.drivers.memory.delays import MemoryDelays, MemoryDelayStore
from celeriac.drivers.mongodb.delays import MongoDelayStore
from celeriac.drivers.mongodb.server import Server as MongoDB
from celeriac.drivers.redis.delays import RedisDelayStore
from celeriac.drivers.redis.server import Server
from celeriac.drivers.sql.database import Database as SQLDatabase
from celeriac.drivers.sql.delays import SQLDelayStore
from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.delays import SQLiteDelayStore
from celeriac.drivers.zmq.delays import HubDelays
from celeriac.drivers.zmq.server import Server as Hub
from celeriac.ports.delays import DelayStore
from tests.clock import FakeClock
from tests.conformance.delays import DelaysConformance
from tests.mongodb_server import LEFT, database_on
from tests.patience import PATIENCE

pytestmark = pytest.mark.filterwarnings(LEFT)

STORES = ["memory", "sqlite", "redis", "hub", "mongodb", "sql-postgresql", "sql-mariadb", "sql-sqlite"]


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> FakeClock:
    if "hub" not in request.node.callspec.params.values():
        return FakeClock()
    made = request.getfixturevalue("hub_process").emptied()
    assert made is not None
    return made


@pytest.fixture(params=STORES)
def delays(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[DelayStore]:
    store = str(request.param)
    if store == "memory":
        yield MemoryDelayStore(MemoryDelays(), clock)
    elif store == "sqlite":
        file = Database(str(tmp_path / "celeriac.db"))
        yield SQLiteDelayStore(file, clock)
        file.close()
    elif store == "redis":
        redis = Server(request.getfixturevalue("redis").url)
        yield RedisDelayStore(redis, clock)
        redis.close()
    elif store == "hub":
        hub = Hub(request.getfixturevalue("hub_process").url, timeout=PATIENCE)
        yield HubDelays(hub)
        hub.close()
    elif store == "mongodb":
        request.getfixturevalue("collected")
        with database_on(request.getfixturevalue("mongodb")) as url:
            mongodb = MongoDB(url, timeout=60.0)
            yield MongoDelayStore(mongodb, clock)
            mongodb.close()
    else:
        url = f"db+sqlite:///{tmp_path}/results.db"
        if store != "sql-sqlite":
            server = request.getfixturevalue(store.removeprefix("sql-"))
            url = str(server.emptied())
        database = SQLDatabase(url, None, "celeriac_", 60.0)
        yield SQLDelayStore(database, clock)
        database.close()


class TestDelays(DelaysConformance):
    pass
