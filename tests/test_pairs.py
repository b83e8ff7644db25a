"""Every broker with every backend, end to end: a worker, calls from outside, and what comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.environment import without_settings
from tests.hub_server import HubServer
from tests.patience import PATIENCE
from tests.rabbitmq_server import RabbitServer
from tests.redis_server import RedisServer
from tests.sql_server import SQLServer

BROKERS = ("rabbitmq", "redis", "sqlite")
BACKENDS = ("rpc", "redis", "sqlite")

APP = """
import asyncio
from celeriac import Celeriac

app = Celeriac("pairs")

@app.task
def add(x, y):
    return x + y

@app.task
async def aadd(x, y):
    await asyncio.sleep(0)
    return x + y

@app.task(bind=True, max_retries=2, retry_backoff=0.1)
def third_time(self):
    if self.request.attempt < 3:
        raise self.retry(countdown=0.1)
    return self.request.attempt

@app.task
def fail():
    raise ValueError("no")

@app.task
def total(numbers):
    return sum(numbers)
"""

CALLER = """
import asyncio, sys, time
from celeriac import Celeriac, group, chord
from celeriac.ports.workflows import WorkflowStore
from pairs import aadd, add, app, fail, third_time, total

assert add.delay(2, 2).get(timeout=100) == 4
assert aadd.delay(2, 3).get(timeout=100) == 5
assert asyncio.run(add.delay(1, 1).aget(timeout=100)) == 2
assert group(add.s(i, i) for i in range(50)).delay().get(timeout=100) == [2 * i for i in range(50)]
assert [result.get(timeout=100) for result in add.delay_many((i, 1) for i in range(20))] == list(range(1, 21))
assert third_time.delay().get(timeout=100) == 3
started = time.monotonic()
assert add.apply_async((3, 3), countdown=1).get(timeout=100) == 6
assert time.monotonic() - started > 0.9
try:
    fail.delay().get(timeout=100)
except ValueError as error:
    assert error.args == ("no",)
else:
    raise AssertionError
result = add.delay(1, 2)
assert (result.get(timeout=100), result.state, result.ready()) == (3, "SUCCESS", True)
revoked = add.apply_async((1, 1), countdown=1)
revoked.revoke()
error = revoked.get(timeout=20, propagate=False)
assert type(error).__name__ == "TaskRevoked", error
if isinstance(app.backend, WorkflowStore):
    assert chord([add.s(i, i) for i in range(5)], total.s()).delay().get(timeout=100) == 20
print("all is well")
"""


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
    yield {"CELERIAC_BROKER_URL": found[broker], "CELERIAC_RESULT_BACKEND": found[backend]}
    if rabbit is not None:
        rabbit.drop(vhost)


def run(folder: Path, urls: dict[str, str], *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = without_settings() | urls
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=PATIENCE, check=False, **options)  # fmt: skip


SQL_PAIRS = [("sqlite", "postgresql"), ("redis", "mariadb")]
HUB_PAIRS = [("hub", "hub"), *(pytest.param(pair, marks=pytest.mark.at_length)
                               for pair in (("hub", "redis"), ("rabbitmq", "hub"), ("redis", "hub")))]  # fmt: skip
PAIRS = [(broker, backend) for broker in BROKERS for backend in BACKENDS]


@pytest.mark.parametrize(
    "urls", [*(pair for pair in PAIRS if "rabbitmq" in pair or "rpc" not in pair), *SQL_PAIRS, *HUB_PAIRS],
    indirect=True, ids="-".join,
)  # fmt: skip
def test_calls_come_back_through_every_pair(urls: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pairs.py").write_text(APP)
    (tmp_path / "caller.py").write_text(CALLER)
    environment = without_settings() | urls
    with (tmp_path / "log").open("w") as log:
        worker = subprocess.Popen([sys.executable, "-m", "celeriac", "-A", "pairs", "worker", "-c", "2"], cwd=tmp_path,
                                  env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
    try:
        told = run(tmp_path, urls, "caller.py")
        assert told.stdout == "all is well\n", f"{told.stderr}\n{(tmp_path / 'log').read_text()[-3000:]}"
        worker.terminate()
        assert worker.wait(PATIENCE) == 0
    finally:
        worker.kill()
        worker.wait()


@pytest.mark.parametrize("urls", [("redis", "rpc"), ("sqlite", "rpc")], indirect=True, ids="-".join)
def test_rpc_is_refused_where_the_broker_speaks_no_amqp(urls: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pairs.py").write_text(APP)
    told = run(tmp_path, urls, "-c", "from pairs import add; add.delay(1, 1)")
    assert "rpc:// sends results through an AMQP or STOMP broker" in told.stderr


