"""A worker serves metrics of its own, and is not held up by those who ask."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from celeriac import Celeriac, states
from celeriac.metrics.table import METRICS
from celeriac.model.message import PLAIN, Message, new_id
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery, Settlement
from celeriac.ports.history import Counted
from celeriac.ports.operations import WorkerInfo
from celeriac.worker import settler
from celeriac.worker.counters import Counters
from celeriac.worker.decide import Ending
from celeriac.worker.options import WorkerOptions
from celeriac.worker.outages import Outages
from celeriac.worker.receiver import Receiver
from tests.environment import without_settings
from tests.patience import PATIENCE, eventually, wait_for
from tests.prometheus_tools import promtool
from tests.scraped import Scrape, names, read, value
from tests.web.served import Served, serving
from tests.web.test_imports import WITHOUT

URL = re.compile(r"serves its metrics at (http://\S+)")


class Watched:
    """A worker with metrics, and an app that sends tasks to it."""

    def __init__(self, served: Served, *arguments: str) -> None:
        process, log = served.start("worker", "-c", "2", "--metrics", "127.0.0.1:0", "--loglevel", "info", *arguments,
                                    ready="is ready. Ctrl-C")  # fmt: skip
        self.process = process
        found = URL.search(log.read_text())
        assert found is not None
        self.url = found[1]
        self.app = Celeriac("shop", broker_url=f"sqlite:///{served.folder}/celeriac.db", environ={})

    def get(self, url: str = "", **headers: str) -> httpx.Response:
        return httpx.get(url or self.url, headers=headers, timeout=PATIENCE, trust_env=False)

    def scrape(self) -> Scrape:
        return read(self.get().text)

    def send(self, task: str, *args: Any) -> Any:
        return self.app.send_task(task, args)

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        assert url.port is not None
        return url.host, url.port


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, history="off") as made:
        yield made


@pytest.fixture
def watched(served: Served) -> Iterator[Watched]:
    made = Watched(served, "-n", "me")
    yield made
    made.app.close()


def test_a_worker_shows_what_it_did_even_without_a_history(watched: Watched) -> None:
    for task, args in (("shop.add", (1, 2)), ("shop.add", (3,)), ("shop.fail", ("x",)), ("shop.nothing", ())):
        watched.send(task, *args)
    wait_for(lambda: value(watched.scrape(), "celeriac_tasks_ended_total") == 3, "the ends of three tasks")
    scrape = watched.scrape()
    expected = {f"{metric.name}{end}" for metric in METRICS if metric.by_worker
                for end in (("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",))}  # fmt: skip
    assert names(scrape) == expected
    assert value(scrape, "celeriac_tasks_ended_total", task="shop.add", state="success") == 2
    assert value(scrape, "celeriac_tasks_received_total", task="(unknown)") >= 1
    assert value(scrape, "celeriac_worker_up", worker="me") == 1
    assert value(scrape, "celeriac_worker_slots", worker="me", lane="plain") == 2
    for name, labels in scrape:
        assert ("worker" in dict(labels)) == name.startswith("celeriac_worker_"), name
    promtool("check", "metrics", given=watched.get().text)


def test_it_speaks_http_and_both_formats(watched: Watched) -> None:
    assert watched.get().headers["content-type"].startswith("text/plain; version=0.0.4")
    answer = watched.get(accept="application/openmetrics-text;version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    assert watched.get(f"{watched.url}/").status_code == 404
    assert httpx.post(watched.url, trust_env=False, timeout=PATIENCE).status_code == 405
    head = httpx.head(watched.url, trust_env=False, timeout=PATIENCE)
    assert (head.status_code, head.content, int(head.headers["content-length"]) > 1000) == (200, b"", True)


def test_those_who_send_no_request_hold_up_neither_tasks_nor_others(watched: Watched) -> None:
    silent = [socket.create_connection(watched.address) for _ in range(30)]
    try:
        for number, one in enumerate(silent):
            with contextlib.suppress(OSError):  # it was closed at once: others are connected
                one.sendall((b"GET /metrics", b"\r\n\r\n", b"x" * 10_000, b"\xff\x00\r\n\r\n")[number % 4])
        result = watched.send("shop.add", 1, 2)
        assert result.get(timeout=PATIENCE) == 3

        def answered() -> bool:
            try:
                return watched.get().status_code == 200
            except httpx.TransportError:  # too many are connected, until their time is over
                return False

        wait_for(answered, "an answer")
    finally:
        for one in silent:
            one.close()
    watched.process.send_signal(signal.SIGTERM)
    assert watched.process.wait(PATIENCE) == 0


def test_an_address_that_is_taken_ends_the_worker(served: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "celeriac", "-A", "shop", "worker", "--metrics", f"127.0.0.1:{port}"]
        done = subprocess.run(command, cwd=served.folder, env=served.environment, capture_output=True, text=True,
                              timeout=PATIENCE)  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert f"Cannot listen on 127.0.0.1:{port} for --metrics" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", ["9540", ":9540", "localhost", "localhost:http", "localhost:99999"])
def test_an_address_that_is_none_is_refused(served: Served, address: str) -> None:
    command = [sys.executable, "-m", "celeriac", "-A", "shop", "worker", "--metrics", address]
    done = subprocess.run(command, cwd=served.folder, env=served.environment, capture_output=True, text=True,
                          timeout=PATIENCE)  # fmt: skip
    assert (done.returncode, "such as 127.0.0.1:9540" in done.stderr) == (2, True), done.stderr


def test_without_its_extra_the_command_names_it(served: Served) -> None:
    code = (f"{WITHOUT.replace('uvicorn', 'prometheus_client')}\nfrom celeriac.cli import main\n"
            "main(['-A', 'shop', 'worker', '--metrics', '127.0.0.1:0'])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=served.folder, env=without_settings(), text=True,
                          capture_output=True, timeout=PATIENCE)  # fmt: skip
    assert (done.returncode, "pip install 'celeriac[prometheus]'" in done.stderr) == (2, True), done.stderr


def test_nobody_imports_the_client_who_serves_no_metrics() -> None:
    code = ("import sys, celeriac.cli.worker, celeriac.worker.supervisor, celeriac.web.application\n"
            "sys.exit('prometheus_client' in sys.modules)")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], env=without_settings(), timeout=PATIENCE).returncode == 0


def test_a_worker_that_was_believed_dead_counts_its_lease_and_its_successor_what_it_took_over(tmp_path: Path) -> None:
    # On a busy machine, workers lose leases whenever they stand still for a second: the counts may be higher than 1.
    with serving(tmp_path, worker_lease_seconds="1", task_max_deliveries=1000) as served:
        frozen = Watched(served)
        go = tmp_path / "go"
        result = frozen.send("shop.until", str(go))
        wait_for(lambda: value(frozen.scrape(), "celeriac_worker_slots_busy", lane="coroutine") == 1, "the start")
        frozen.process.send_signal(signal.SIGSTOP)
        other = Watched(served)
        wait_for(lambda: value(other.scrape(), "celeriac_deliveries_recovered_total") >= 1, "the takeover")
        frozen.process.send_signal(signal.SIGCONT)
        wait_for(lambda: value(frozen.scrape(), "celeriac_leases_lost_total") >= 1, "the loss")
        go.touch()
        assert result.get(timeout=PATIENCE) == "there"
        history = other.app.history
        assert history is not None

        def written() -> bool:
            counted = other.app.broker.complete(history.counters())
            return all(counted.get(Counted(name), 0) >= 1 for name in ("leases_lost", "recovered"))

        wait_for(written, "both in the history")
        for one in (frozen, other):
            one.app.close()


async def test_deliveries_are_counted_once_a_batch(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Counted, int]] = []
    monkeypatch.setattr(Counters, "count", lambda self, counted, count: calls.append((counted, count)))
    app.task(name="t")(lambda: None)
    heartbeat: Any = SimpleNamespace(counters=Counters())
    receiver = Receiver(app, WorkerOptions(name="w"), heartbeat, lambda endings: None, lambda: False)
    dispatched: list[Delivery] = []
    pool: Any = SimpleNamespace(dispatch=dispatched.extend)
    receiver.pool = pool
    for _ in range(2):
        await receiver.accept([
            Delivery(message=Message(id=new_id(), task="t", queue=queue), token="", deliveries=1 + again)
            for queue in ("a", "b") for again in (0, 0, 1) for _ in range(100)
        ])  # fmt: skip
    assert len(dispatched) == 1200
    assert calls == 2 * [(Counted("received", "t", "a"), 300), (Counted("received", "t", "b"), 300),
                         (Counted("recovered"), 200)]  # fmt: skip


async def test_refused_settlements_and_dead_letters_are_counted(app: Celeriac) -> None:
    app.broker.publish([Message(id=new_id(), task="t") for _ in range(4)])
    lease = await app.broker.lease(WorkerInfo(name="w"), 60.0, 3)
    deliveries = await lease.receive(["default"], {PLAIN: 4}, PATIENCE)
    counters = Counters()
    heartbeat: Any = SimpleNamespace(lease=lease, outages=Outages(joined=True), counters=counters)
    made = settler.Settler(app, WorkerOptions(name="w"), heartbeat)
    stale, lost, rejected, well = deliveries
    await lease.settle([Settlement(delivery=stale)])

    def ran(delivery: Delivery, **fields: Any) -> Ending:
        id = delivery.message.id
        outcome = Outcome(id=id, task="t", **{"state": states.SUCCESS, "runtime": 0.1, "started_at": 1.0, **fields})
        return Ending(delivery=delivery, outcome=outcome)

    made.ended([ran(stale), Ending(delivery=replace(lost, deliveries=3), lost="killed by SIGKILL"),
                ran(rejected, state=states.FAILURE, rejected=True), ran(well)])  # fmt: skip
    work = asyncio.create_task(made.run(lambda: None))
    await eventually(lambda: sum(counters.ever.values()) == 3, "three counts")
    work.cancel()
    assert counters.ever == {Counted("refused"): 1, Counted("dead_letters", queue="default", reason="lost"): 1,
                             Counted("dead_letters", queue="default", reason="rejected"): 1}  # fmt: skip
