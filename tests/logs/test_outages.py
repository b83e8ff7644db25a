"""What the log says of servers that are away, and of workers that died."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from celeriac.errors import BackendError, BrokerUnavailable
from celeriac.worker.outages import Outages
from tests.logs.shop import OURS, Shop
from tests.patience import PATIENCE, wait_for
from tests.redis_server import running_redis


def test_a_redis_that_is_away_is_told_when_it_goes_and_when_it_is_back(shop: Shop, tmp_path: Path) -> None:
    with running_redis(tmp_path, "--appendonly", "yes") as redis:
        shop.open("-l", "debug", broker=redis.url, worker_lease_seconds=60)
        shop.run("note", "tea")
        redis.kill(signal.SIGTERM)
        for duty in ("receive", "sweep expired leases", "advance workflows"):
            shop.wait(lambda duty=duty: len(shop.lines(f"annot {duty}")) > 3, f"attempts to {duty}")
        assert not shop.lines("is back")
        redis.start()
        shop.wait(lambda: shop.lines("is back"), "the end of the outage")
        shop.run("note", "milk")
        shop.stop()
    told = [line for line in shop.lines("celeriac") if re.match(f"{OURS}(WARNING|ERROR)", line)]
    gone, back, stopping = told
    assert re.search("WARNING celeriac.worker: The broker is unavailable, the worker keeps trying: cannot .*: .+", gone)
    assert re.search(r"WARNING celeriac.worker: The broker is back after \d+\.\d s", back)
    assert "Shutting down after SIGTERM" in stopping


def test_an_outage_lasts_until_all_duties_that_it_stopped_work_again(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    outages = Outages(joined=True, clock=lambda: now[0])
    outages.worked("receive")
    outages.failed("receive", BrokerUnavailable("no route"))
    outages.failed("store", BackendError("the same server"))
    outages.failed("receive", BrokerUnavailable("no route"))
    now[0] = 12.0
    outages.worked("receive")
    assert caplog.messages == ["The broker is unavailable, the worker keeps trying: cannot receive: no route"]
    outages.worked("sweep")
    outages.worked("store")
    outages.worked("store")
    assert caplog.messages[1:] == ["The broker is back after 12.0 s"]


def test_the_outages_of_a_broker_and_of_a_separate_backend_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    outages = Outages(joined=False, clock=lambda: 0.0)
    outages.failed("settle", BackendError("full"))
    outages.failed("settle", BrokerUnavailable("down"))
    outages.worked("settle")
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "The result backend is unavailable", "The broker is unavailable", "The result backend is back after 0.0 s",
        "The broker is back after 0.0 s",
    ]  # fmt: skip


# --- Dead workers -------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    """The URL of an empty broker; empty for a file of the shop's own."""
    if request.param == "sqlite":
        return ""
    found = request.getfixturevalue("redis" if request.param == "redis" else "place")
    return str(found.url)


def test_what_a_dead_worker_leaves_behind_is_told(shop: Shop, broker: str) -> None:
    shop.open("-c", "1", broker=broker, worker_lease_seconds=3)
    result = shop.app.send_task("shop.hold", [str(shop.folder / "begun")])
    wait_for((shop.folder / "begun").exists, "the start of the task")
    shop.work("-n", "w2", worker_lease_seconds=3)
    shop.workers[0].kill()
    said = "The lease of the worker w1 has expired" if "amqp" not in broker else "A worker that held messages has died"
    (line,) = shop.wait(lambda: shop.lines(said), "the line about the dead worker")
    assert line.endswith(f": shop.hold[{result.id}]")
    (shop.folder / "go").touch()
    assert result.get(timeout=PATIENCE) is None
