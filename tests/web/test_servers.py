"""The API on servers other than SQLite: what they cannot do is told, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.patience import PATIENCE, wait_for
from tests.rabbitmq_server import Place
from tests.redis_server import RedisServer
from tests.scraped import Scrape, names, read, value
from tests.web.served import check_shape, serving
from tests.web.test_tasks import API, problem, send
from tests.web.test_watching import following, of

ENDED = "celeriac_tasks_ended_total"


def test_on_redis(redis: RedisServer, tmp_path: Path) -> None:
    with serving(tmp_path, broker_url=redis.url) as served:
        served.worker()
        with httpx.Client(base_url=served.web()[1], timeout=PATIENCE, trust_env=False,
                          event_hooks={"response": [check_shape]}) as client:  # fmt: skip
            wait_for(lambda client=client: client.get("/readyz").status_code == 200, "being ready")
            assert send(client, "shop.add", 20, 22, wait=60).json()["result"] == 42
            later = send(client, "shop.add", 1, options={"countdown": 3600}).json()
            assert client.get(later["links"]["self"]).json()["place"] == "scheduled"
            problem(client.get(f"{API}/tasks/nobody"), 404, "unknown-id")
            # The server may give again what it counted a moment ago.
            wait_for(lambda: client.get(f"{API}/queues/default").json()["scheduled"] == 1, "the count")
            wait_for(lambda client=client: value(read(client.get("/metrics").text), ENDED) == 1, "the metrics")
            scrape = scraped_whole(client, 4)
            assert value(scrape, "celeriac_queue_messages", queue="default", state="scheduled") == 1
            assert value(scrape, "celeriac_worker_slots_busy", lane="plain") == 0


def scraped_whole(client: httpx.Client, sources: int) -> Scrape:
    """Return the metrics, once all of so many sources have answered in time: each has some seconds."""

    def look() -> Scrape | None:
        scrape = read(client.get("/metrics").text)
        return scrape if value(scrape, "celeriac_source_up") == sources else None

    found: Scrape = wait_for(look, f"metrics from {sources} sources")
    return found


def scraped(client: httpx.Client) -> set[str]:
    """Return the names of the metrics that there are now."""
    return names(read(client.get("/metrics").text))


@pytest.mark.parametrize("backend", ["rpc://", "sqlite"])
def test_on_rabbitmq(place: Place, tmp_path: Path, backend: str) -> None:
    url = backend if backend == "rpc://" else f"sqlite:///{tmp_path}/results.db"
    with serving(tmp_path, broker_url=place.url, result_backend=url, broker_publish_timeout=PATIENCE) as served:
        served.worker()
        with httpx.Client(base_url=served.web()[1], timeout=PATIENCE, trust_env=False,
                          event_hooks={"response": [check_shape]}) as client:  # fmt: skip
            wait_for(lambda client=client: client.get("/readyz").status_code == 200, "being ready")
            assert send(client, "shop.add", 20, 22, wait=60).json()["result"] == 42
            sent = send(client, "shop.add", 1).json()

            def complete() -> Scrape | None:
                scrape = scraped_whole(client, 3 if backend == "rpc://" else 4)
                return scrape if value(scrape, "celeriac_queue_workers", queue="default") else None

            scrape = wait_for(complete, "metrics of the worker")  # one that does not answer in time is missing
            assert value(scrape, "celeriac_queue_workers", queue="default") == 1
            assert value(scrape, "celeriac_worker_slots_busy", lane="plain") <= 2
            assert "celeriac_queue_latency_seconds" not in names(scrape)  # looking would take messages
            if backend == "rpc://":  # nothing keeps a history
                assert "celeriac_tasks_received_total" not in names(scrape)
            else:
                wait_for(lambda client=client: "celeriac_tasks_received_total" in scraped(client), "counts")
            if backend == "rpc://":
                problem(client.get(sent["links"]["self"]), 501, "not-supported")
                problem(client.get(sent["links"]["events"]), 501, "not-supported")
                key = {"Idempotency-Key": "k"}
                keyed = client.post(f"{API}/tasks", json={"task": "shop.add", "args": [1]}, headers=key)
                problem(keyed, 501, "not-supported")
            else:
                assert client.get(sent["links"]["result"], params={"wait": 60}).json() == 3
                assert client.get(f"{API}/tasks/nobody").json()["state"] == "PENDING"
            # What stands on the history, and what the broker cannot do.
            problem(client.post(f"{API}/tasks/{sent['id']}/run-now"), 501, "not-supported")
            for action, more in (("move", {"queue": "spare"}), ("run-now", {}), ("revoke", {})):
                body = {"action": action, "filter": "", "dry_run": True, **more}
                problem(client.post(f"{API}/bulk", json=body), 501, "not-supported")
            failed = send(client, "shop.fail", "no").json()["id"]
            with following(client, task="shop.add") as found:  # workers tell through any broker
                told = send(client, "shop.add", 1).json()["id"]
                assert next(of(found, [told]))[2]["subject"] == told
            if backend == "rpc://":
                problem(client.get(f"{API}/failures"), 501, "not-supported")
                problem(client.post(f"{API}/tasks/{failed}/retry"), 501, "not-supported")
                body = {"action": "resend", "ids": ["x"], "canary": {}}
                problem(client.post(f"{API}/bulk", json=body), 501, "not-supported")
            else:
                wait_for(lambda: client.get(f"{API}/failures").json(), "the failure in the history")
                assert client.post(f"{API}/tasks/{failed}/retry").json() == {"sent": 1, "refused": {}}
