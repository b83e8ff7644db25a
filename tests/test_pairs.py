"""Every broker with every backend, end to end: a worker, calls from outside, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import HubServer
from tests.pairs import APP, check_calls, run
from tests.patience import PATIENCE
from tests.rabbitmq_server import RabbitServer
from tests.redis_server import RedisServer
from tests.sql_server import SQLServer

BROKERS = ("rabbitmq", "redis", "sqlite")
BACKENDS = ("rpc", "redis", "sqlite")


@pytest.fixture
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    broker, backend = request.param
    found: dict[str, str] = {"rpc": "rpc://", "sqlite": f"sqlite:///{tmp_path / 'celeriac.db'}"}
    rabbit: RabbitServer | None = None
    if "redis" in request.param:
        redis: RedisServer = request.getfixturevalue("redis")
        found["redis"] = redis.url
    if backend in ("postgresql", "mariadb"):
        server: SQLServer = request.getfixturevalue(backend)
        found[backend] = server.url(server.database())
    if broker == "rabbitmq":
        rabbit = request.getfixturevalue("rabbit")
        vhost = rabbit.vhost()
        found["rabbitmq"] = rabbit.url(vhost)
    if "hub" in request.param:
        hub: HubServer = request.getfixturevalue("hub_on_time")
        found["hub"] = hub.url
    yield {"CELERIAC_BROKER_URL": found[broker], "CELERIAC_RESULT_BACKEND": found[backend],
           "CELERIAC_BROKER_PUBLISH_TIMEOUT": str(PATIENCE)}  # fmt: skip
    if rabbit is not None:
        rabbit.drop(vhost)


SQL_PAIRS = [("sqlite", "postgresql"), ("redis", "mariadb")]
HUB_PAIRS = [("hub", "hub"), *(pytest.param(pair, marks=pytest.mark.at_length)
                               for pair in (("hub", "redis"), ("rabbitmq", "hub"), ("redis", "hub")))]  # fmt: skip
TWICE = [("rabbitmq", "sqlite"), ("sqlite", "redis")]  # at length: other pairs have the same broker, or backend
PAIRS = [pytest.param((broker, backend), marks=pytest.mark.at_length if (broker, backend) in TWICE else ())
         for broker in BROKERS for backend in BACKENDS if broker == "rabbitmq" or backend != "rpc"]  # fmt: skip


@pytest.mark.parametrize(
    "urls", [*PAIRS, *SQL_PAIRS, *HUB_PAIRS], indirect=True, ids="-".join,
)  # fmt: skip
def test_calls_come_back_through_every_pair(urls: dict[str, str], tmp_path: Path) -> None:
    assert check_calls(tmp_path, urls) == []


@pytest.mark.parametrize("urls", [("redis", "rpc"), ("sqlite", "rpc")], indirect=True, ids="-".join)
def test_rpc_is_refused_where_the_broker_speaks_no_amqp(urls: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pairs.py").write_text(APP)
    told = run(tmp_path, urls, "-c", "from pairs import add; add.delay(1, 1)")
    assert "rpc:// sends results through an AMQP or STOMP broker" in told.stderr


