"""What all tests share: coroutine tests are run by asyncio, and apps do not outlive their test."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import Phase

from celeriac import Celeriac
from celeriac.drivers.peer import _registry as peers
from celeriac.hub.keys import make_client, make_hub
from celeriac.tasks.shared import _apps, _shared
from tests import patience, shared_servers
from tests.activemq_server import ActiveMQServer
from tests.amqp10_server import Double, running_double
from tests.clock import FakeClock
from tests.hub_server import HubServer, SharedClock, running_hub
from tests.mariadb_server import MariaDBServer
from tests.mongodb_server import MongoServer, running_mongodb
from tests.postgresql_server import PostgreSQLServer
from tests.promises.harness import Stage, set_stage
from tests.rabbitmq_server import FrailRabbit, Place, RabbitServer, a_place, running_frail_rabbit
from tests.redis_server import RedisServer, running_redis
from tests.scratch import keep_bytecode, use_memory
from tests.server_process import missing


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", action="store_true", help="test_chaos.py at length: 100,000 tasks over two minutes")
    parser.addoption("--fuzz", type=int, metavar="N", help="tests/fuzz: give each surface N inputs")
    parser.addoption("--fuzz-seed", type=int, help="tests/fuzz: make the inputs of a run that printed this seed")
    parser.addoption("--chaos-seed", type=int, help="test_chaos.py: kill as a run did that printed this seed")


# Without `explain`, which for a failure of a random tree takes minutes to say where it might come from.
hypothesis.settings.register_profile(
    "celeriac", deadline=None, phases=[phase for phase in Phase if phase is not Phase.explain]
)
hypothesis.settings.load_profile("celeriac")


def pytest_configure(config: pytest.Config) -> None:
    keep_bytecode()
    use_memory()
    patience.exact = config.getoption("--chaos")
    config.addinivalue_line("markers", "at_length: run with `--chaos` alone")
    config.addinivalue_line("markers", "needs(is_there, advice): see tests/needs.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--chaos"):
        left = {item for item in items if item.get_closest_marker("at_length")}
        config.hook.pytest_deselected(items=list(left))
        items[:] = [item for item in items if item not in left]


def pytest_collection_finish() -> None:
    """Have the garbage collector leave half a million objects alone that stay to the end: that saves it 0.25 s."""
    gc.collect()
    gc.freeze()


def pytest_sessionstart() -> None:
    """Ignore no signal that the processes under test are to end at.

    They inherit that. A shell that is not interactive has what it runs in the background ignore SIGINT and SIGQUIT;
    `nohup` does so with SIGHUP.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        is_there, advice = mark.args
        if not is_there:
            missing(advice)


def pytest_sessionfinish() -> None:
    """End the servers that tests share. (Processes of pytest-xdist run no `atexit`.)"""
    shared_servers.end()


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test to its end, in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.function):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(autouse=True)
def forget_apps() -> Iterator[None]:
    """Take the apps and shared tasks that a test made out of the registries."""
    apps, shared = list(_apps), list(_shared)
    yield
    for app in _apps[len(apps) :]:
        app.close()
    _apps[:], _shared[:] = apps, shared


@pytest.fixture(autouse=True)
def close_peers() -> Iterator[None]:
    """Close the connections of backends that a test has made without an app, lest the garbage collector warns later."""
    yield
    for peer in list(peers._known):
        peer.close()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for all tests that leave it running."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(shared_redis: RedisServer) -> RedisServer:
    """The same, empty."""
    shared_redis.ask("FLUSHALL")
    return shared_redis


@pytest.fixture(scope="session")
def hub_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub with a clock of its own, for all tests that leave it running; each gives it a new file."""
    folder = tmp_path_factory.mktemp("hub")
    with running_hub(folder, clock=SharedClock(folder / "moment")) as server:
        yield server


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub that lets in only clients with keys; `web` has some."""
    folder = tmp_path_factory.mktemp("locked")
    make_hub(folder / "keys")
    make_client(folder / "keys", "web")
    with running_hub(folder, "--keys", str(folder / "keys")) as server:
        yield server


@pytest.fixture(scope="session")
def hub_on_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub by the machine's clock, for all tests that leave it running; each gives it a new file."""
    with running_hub(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture(scope="session")
def mongodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """A MongoDB for all tests that leave it running; each has a database of its own."""
    with running_mongodb(tmp_path_factory.mktemp("mongodb"), own=False) as server:
        yield server


@pytest.fixture
def collected() -> Iterator[None]:
    """Leave nothing to the garbage collector that it would find in a later test.

    What lives on is left alone by the next collections, each of which would take 40 ms.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def rabbit() -> RabbitServer:
    """A RabbitMQ for all tests; each makes a vhost of its own. Those of the promises kill and freeze it, too."""
    return shared_servers.rabbit()


@pytest.fixture
def place(rabbit: RabbitServer) -> Iterator[Place]:
    """A vhost of it."""
    with a_place(rabbit) as made:
        yield made


@pytest.fixture(scope="session")
def frail_rabbit() -> Iterator[FrailRabbit]:
    """A RabbitMQ for the tests that harm it; each leaves it running."""
    with running_frail_rabbit() as made:
        yield made


@pytest.fixture
def frail(frail_rabbit: FrailRabbit) -> Iterator[Place]:
    """A vhost of it."""
    with a_place(frail_rabbit.server) as made:
        yield made


@pytest.fixture
def amqp10_rabbit(rabbit: RabbitServer) -> Iterator[str]:
    """The URL of AMQP 1.0 in a vhost of RabbitMQ."""
    vhost = rabbit.vhost()
    yield rabbit.url(vhost).replace("amqp://", "amqp10://")
    rabbit.drop(vhost)


@pytest.fixture(scope="session")
def shared_double() -> Iterator[Double]:
    with running_double() as double:
        yield double


@pytest.fixture
def amqp10_double(shared_double: Double) -> Double:
    """An empty server of AMQP 1.0 that has what RabbitMQ's plugin lacks."""
    shared_double.control("reset")
    return shared_double


@pytest.fixture(scope="session")
def activemq() -> ActiveMQServer:
    """An ActiveMQ for all tests; each has names of its own."""
    return shared_servers.activemq()


@pytest.fixture(scope="session")
def shared_postgresql() -> PostgreSQLServer:
    """A PostgreSQL for all tests; each makes a database of its own."""
    return shared_servers.postgresql()


@pytest.fixture
def postgresql(shared_postgresql: PostgreSQLServer) -> Iterator[PostgreSQLServer]:
    """The same, to be killed and frozen: it runs again when the test ends."""
    yield shared_postgresql
    shared_postgresql.restored()


@pytest.fixture(scope="session")
def shared_mariadb() -> MariaDBServer:
    """A MariaDB for all tests; each makes a database of its own."""
    return shared_servers.mariadb()


@pytest.fixture
def mariadb(shared_mariadb: MariaDBServer) -> Iterator[MariaDBServer]:
    """The same, to be killed and frozen: it runs again when the test ends."""
    yield shared_mariadb
    shared_mariadb.restored()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A folder for workers and what they run, on SQLite; those of `promises/` are on servers too."""
    with set_stage(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage with a worker, for all tests of the module."""
    with set_stage(tmp_path_factory.mktemp("shared")) as found:
        found.worker("-c", "2")
        yield found


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make_app(request: pytest.FixtureRequest) -> Callable[..., Celeriac]:
    """Make apps on `memory://`, each test with a store of its own."""

    def make(main: str = "tests", **settings: Any) -> Celeriac:
        settings = {"broker_url": f"memory://{request.node.nodeid}", **settings}
        environ = settings.pop("environ", {})
        return Celeriac(main, clock=settings.pop("clock", None), environ=environ, **settings)

    return make


@pytest.fixture
def app(make_app: Callable[..., Celeriac]) -> Celeriac:
    return make_app()
