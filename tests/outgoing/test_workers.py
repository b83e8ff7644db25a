"""HTTP tasks in real workers: what is killed, revoked or stopped while an endpoint works, and how many run at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from celeriac import Celeriac, webhooks
from celeriac.errors import RemoteError, SoftTimeLimitExceeded, TaskRevoked, TimeLimitExceeded
from celeriac.http.task import HttpTask
from tests.outgoing.endpoint import SECRET, Endpoint, Received, reply
from tests.patience import PATIENCE
from tests.web.served import Served, serving

SHOP = '''\
from celeriac import Celeriac

app = Celeriac("shop", web_callback_hosts=["{url}"], web_callback_secrets=["{secret}"])
charge = app.http_task("billing.charge", "{url}/charge", secret="{secret}", timeout=300, retry_backoff=0.1)


@app.task
def add(x: int, y: int) -> int:
    return x + y
'''


class Held:
    """Answers that wait until the test lets them go."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.go = threading.Event()
        self.answer = reply(body={"result": "done"})
        endpoint.script = self._script

    def _script(self, request: Received) -> bytes:
        assert self.go.wait(PATIENCE)
        return self.answer


@pytest.fixture
def served(endpoint: Endpoint, tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "shop.py").write_text(SHOP.format(url=endpoint.url, secret=SECRET), encoding="utf-8")
    with serving(tmp_path, worker_lease_seconds=5) as made:
        yield made


@pytest.fixture
def app(endpoint: Endpoint, tmp_path: Path) -> Celeriac:
    return Celeriac("shop", broker_url=f"sqlite:///{tmp_path}/celeriac.db", web_callback_hosts=[endpoint.url],
                    web_callback_secrets=[SECRET])  # fmt: skip


@pytest.fixture
def charge(app: Celeriac, endpoint: Endpoint) -> HttpTask:
    return app.http_task("billing.charge", f"{endpoint.url}/charge")


def kill_sender(worker: Any, endpoint: Endpoint) -> None:
    """Kill the child that has made the first connection."""
    client = endpoint.connections[0].getpeername()
    for child in psutil.Process(worker.pid).children(recursive=True):
        if any(tuple(found.laddr) == client for found in child.net_connections("tcp")):
            os.kill(child.pid, signal.SIGKILL)
            return
    raise AssertionError(f"no child has the connection from {client}")


def test_a_child_that_is_killed_while_an_endpoint_works_sends_the_same_request_again(
    served: Served, endpoint: Endpoint, charge: HttpTask
) -> None:
    held = Held(endpoint)
    worker = served.worker()
    result = charge.delay(7)
    endpoint.wait(1, PATIENCE)
    kill_sender(worker, endpoint)
    first, second = endpoint.wait(2, PATIENCE)
    held.go.set()
    assert result.get(timeout=PATIENCE) == "done"
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == f'"{result.id}"'
    assert first.body == second.body  # a lost attempt is repeated, and not the next one


def test_a_killed_worker_leaves_the_task_to_another(served: Served, endpoint: Endpoint, charge: HttpTask) -> None:
    held = Held(endpoint)
    worker = served.worker()
    result = charge.delay(7)
    endpoint.wait(1, PATIENCE)
    worker.kill()
    served.worker()
    first, second = endpoint.wait(2, PATIENCE)
    held.go.set()
    assert result.get(timeout=PATIENCE) == "done"
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_a_worker_that_is_stopped_lets_an_endpoint_end(served: Served, endpoint: Endpoint, charge: HttpTask) -> None:
    held = Held(endpoint)
    worker = served.start("worker", "-c", "1", "--grace", "60", ready="is ready")[0]
    result = charge.delay(7)
    endpoint.wait(1, PATIENCE)
    worker.send_signal(signal.SIGTERM)
    held.go.set()
    assert worker.wait(PATIENCE) == 0
    assert result.get(timeout=PATIENCE) == "done"
    assert len(endpoint.received) == 1
    endpoint.wait_until_closed(1, PATIENCE)


@pytest.mark.parametrize("pool", ["processes", "threads", "solo"])
def test_time_limits_and_revocations_end_an_attempt_that_waits(served: Served, endpoint: Endpoint, charge: HttpTask,
                                                               pool: str) -> None:  # fmt: skip
    held = Held(endpoint)
    worker = served.worker("--pool", pool)
    soft = charge.apply_async((7,), soft_time_limit=0.3)
    hard = charge.apply_async((7,), time_limit=0.3)
    for result, error in ((soft, SoftTimeLimitExceeded), (hard, TimeLimitExceeded)):
        with pytest.raises(error):
            result.get(timeout=PATIENCE)
    seen = len(endpoint.received)  # a limit may have passed before its request was sent
    revoked = charge.delay(7)
    endpoint.wait(seen + 1, PATIENCE)
    revoked.revoke(terminate=True)
    with pytest.raises(TaskRevoked):
        revoked.get(timeout=PATIENCE)
    held.go.set()
    assert charge.delay(7).get(timeout=PATIENCE) == "done"  # the worker goes on
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0


def test_a_worker_waits_for_a_hundred_endpoints_at_a_time(served: Served, endpoint: Endpoint, charge: HttpTask) -> None:
    held = Held(endpoint)
    served.worker()
    results = charge.delay_many([(number,) for number in range(150)])
    assert len(endpoint.wait(100, PATIENCE)) == 100
    held.go.set()
    assert [result.get(timeout=PATIENCE) for result in results] == ["done"] * 150
    assert len(endpoint.connections) <= 100  # those that were open are used again


def test_retries_go_through_the_broker_and_end(served: Served, endpoint: Endpoint, charge: HttpTask) -> None:
    endpoint.then(reply(503), reply(503), reply(body={"result": "done"}))
    served.worker()
    result = charge.delay(7)
    assert (result.get(timeout=PATIENCE), result.retries) == ("done", 2)
    endpoint.then(reply(503))
    failed = charge.apply_async((7,), max_retries=1)
    with pytest.raises(RemoteError, match="503 Service Unavailable"):
        failed.get(timeout=PATIENCE)
    assert [request.json["attempt"] for request in endpoint.received] == [1, 2, 3, 1, 2]


def test_a_child_that_is_killed_while_it_sends_a_callback_sends_it_again(served: Served, endpoint: Endpoint,
                                                                        app: Celeriac) -> None:  # fmt: skip
    @app.task(name="shop.add")
    def add(x: int, y: int) -> int: ...

    held = Held(endpoint)
    worker = served.worker()
    assert add.apply_async((2, 2), **webhooks.callback(add, f"{endpoint.url}/ended")).get(timeout=PATIENCE) == 4
    endpoint.wait(1, PATIENCE)
    kill_sender(worker, endpoint)
    first, second = endpoint.wait(2, PATIENCE)
    held.go.set()
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)


@pytest.mark.parametrize("server", ["redis", "rabbitmq"])
def test_callbacks_are_sent_and_sent_again_on_other_brokers(server: str, endpoint: Endpoint, tmp_path: Path,
                                                            request: pytest.FixtureRequest) -> None:  # fmt: skip
    if server == "redis":
        settings: dict[str, Any] = {"broker_url": request.getfixturevalue("redis").url}
    else:
        settings = {"broker_url": request.getfixturevalue("place").url, "broker_publish_timeout": PATIENCE,
                    "result_backend": f"sqlite:///{tmp_path}/results"}  # fmt: skip
    (tmp_path / "shop.py").write_text(SHOP.format(url=endpoint.url, secret=SECRET), encoding="utf-8")
    endpoint.then(reply(503), reply(204))
    app = Celeriac("shop", web_callback_hosts=[endpoint.url], web_callback_secrets=[SECRET], **settings)

    @app.task(name="shop.add")
    def add(x: int, y: int) -> int: ...

    with serving(tmp_path, **settings) as served:
        served.worker()
        result = add.apply_async((2, 2), **webhooks.callback(add, f"{endpoint.url}/ended", include_result=True))
        assert result.get(timeout=PATIENCE) == 4
        first, second = endpoint.wait(2, PATIENCE)
    assert first.json["data"] == {"id": result.id, "task": "shop.add", "state": "SUCCESS", "result": 4, "error": None}
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    app.close()
