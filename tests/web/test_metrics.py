"""`/metrics` of a running system is what its workers did, whoever is killed."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from celeriac import Celeriac
from celeriac.metrics.table import CELERY_METRICS, METRICS, Metric
from tests.patience import PATIENCE, wait_for
from tests.prometheus_tools import promtool
from tests.scraped import Scrape, names, read, shrunk, value
from tests.web.conftest import Running
from tests.web.served import SHOP, Served, serving
from tests.web.test_tasks import API, problem, send

ENDED = "celeriac_tasks_ended_total"
MONITORED = f'''{SHOP}


@app.task
def short():
    time.sleep(0.02)


@app.task
def die():
    os.kill(os.getpid(), 9)


@app.task(time_limit=0.1)
def hang():
    time.sleep(3600)
'''


def samples_of(metrics: tuple[Metric, ...]) -> set[str]:
    """Return the names of samples that these metrics have."""
    return {f"{metric.name}{end}" for metric in metrics
            for end in (("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",))}  # fmt: skip


class Watched:
    """Scrapes, and checks that nothing shrinks."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.app = Celeriac("shop", broker_url=f"sqlite:///{served.folder}/celeriac.db", environ={})
        self.address = served.web()[1]
        self.last: Scrape = {}

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.address}{path}", timeout=PATIENCE, trust_env=False)

    def post(self, path: str, document: Any) -> Any:
        answer = httpx.post(f"{self.address}{path}", json=document, timeout=PATIENCE, trust_env=False)
        assert answer.is_success, answer.text
        return answer.json()

    def scrape(self) -> Scrape:
        answer = self.get("/metrics")
        assert answer.status_code == 200, answer.text
        found = read(answer.text)
        of_server = {key for key in self.last if key[0].startswith("celeriac_http")}
        assert list(shrunk({key: n for key, n in self.last.items() if key not in of_server}, found)) == []
        self.last = found
        return found

    def ended(self) -> float:
        return value(self.scrape(), ENDED)

    def send(self, task: str, count: int) -> list[str]:
        ids: list[str] = self.post(f"{API}/tasks/batch", {"task": task, "calls": [{}] * count})["ids"]
        return ids

    def succeeded(self, ids: list[str]) -> int:
        """Return how many have succeeded, as the result backend knows: that is the truth."""
        return sum(one.state == "SUCCESS" for one in self.app.backend.fetch(ids).values())

    def written(self) -> int:
        """Return how many ends of attempts are in the history."""
        history = self.app.history
        assert history is not None
        return sum(point.sums.n for point in self.app.broker.complete(history.totals()))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    (tmp_path / "shop.py").write_text(MONITORED, encoding="utf-8")
    with serving(tmp_path) as served:
        made = Watched(served)
        yield made
        made.app.close()


def test_a_kill_costs_what_was_not_written_and_a_server_that_is_down_nothing(
    watched: Watched, pytestconfig: pytest.Config
) -> None:
    away = 60.0 if pytestconfig.getoption("--chaos") else 0.0  # seconds that the server is down, at least
    first = watched.served.worker()
    ids = watched.send("shop.short", 40)
    wait_for(lambda: watched.ended() == 40, "the first tasks in the metrics")
    ids += watched.send("shop.short", 400)
    wait_for(lambda: watched.succeeded(ids) > 60, "some of the others")
    first.send_signal(signal.SIGKILL)
    first.wait(PATIENCE)
    done, kept = watched.succeeded(ids), watched.written()
    assert 40 <= kept <= done < len(ids)
    wait_for(lambda: watched.ended() == kept, "what the killed worker had written")
    web = next(process for process in watched.served.processes if "web" in process.args)
    web.kill()
    web.wait(PATIENCE)
    until = time.monotonic() + away
    second = watched.served.worker("--metrics", "127.0.0.1:0", "--loglevel", "info")
    log = max(watched.served.folder.glob("*.log"))
    url = re.search(r"its metrics at (\S+)", log.read_text())[1]  # type: ignore[index]

    def of_worker() -> float:
        return value(read(httpx.get(url, timeout=PATIENCE, trust_env=False).text), ENDED)

    def is_rest_counted() -> bool:
        return of_worker() == len(ids) - done

    wait_for(is_rest_counted, "the rest")
    while time.monotonic() < until:  # the worker goes on meanwhile
        ids.extend(watched.app.send_task("shop.short").id for _ in range(20))
        wait_for(is_rest_counted, "what was sent while the server is down")
    watched.address = watched.served.web()[1]
    wait_for(lambda: watched.ended() == kept + len(ids) - done, "the sums of both workers")
    assert watched.succeeded(ids) == len(ids)
    second.terminate()
    second.wait(PATIENCE)
    assert watched.ended() == watched.written() == kept + len(ids) - done


def test_every_metric_has_a_value_and_promtool_finds_no_fault(watched: Watched) -> None:
    watched.served.worker("--beat")
    watched.send("shop.short", 3)
    for task, args in (("shop.fail", ["x"]), ("shop.die", []), ("shop.hang", []), ("shop.reject", ["no"])):
        watched.post(f"{API}/tasks", {"task": task, "args": args})

    def all_counted() -> Scrape | None:
        scrape = watched.scrape()
        counted = (value(scrape, ENDED) == 7 and value(scrape, "celeriac_schedule_ticks_total", entry="nightly") == 0
                   and value(scrape, "celeriac_worker_slots_busy") == 0)  # fmt: skip
        return scrape if counted and names(scrape) >= samples_of(METRICS) else None

    # A worker that does not answer in time is missing in a scrape.
    scrape = wait_for(all_counted, "all tasks and all metrics")
    assert names(scrape) == samples_of(METRICS)
    by_labels = {(name, frozenset(dict(labels)) - {"le"}) for name, labels in scrape}
    assert {labels for name, labels in by_labels if name == ENDED} == {frozenset({"task", "queue", "state"})}
    for metric in METRICS:
        found = {labels for name, labels in by_labels if name == metric.name or name.startswith(f"{metric.name}_")}
        assert found == {frozenset(metric.labels)}, metric.name
    assert value(scrape, "celeriac_children_lost_total", reason="killed") == 3
    assert value(scrape, "celeriac_deliveries_recovered_total") == 2
    assert value(scrape, "celeriac_children_lost_total", reason="time_limit") == 1
    assert value(scrape, "celeriac_dead_letters_total", reason="lost") == 1
    assert value(scrape, "celeriac_dead_letters_total", reason="rejected") == 1
    assert value(scrape, "celeriac_task_failures_total", task="shop.fail", error="ValueError") == 1
    assert value(scrape, "celeriac_tasks_received_total", queue="default") == 9
    assert value(scrape, "celeriac_worker_slots", lane="plain") == 2
    assert value(scrape, "celeriac_worker_slots_busy", lane="plain") == 0
    assert value(scrape, "celeriac_queue_workers", queue="mail") == 1
    promtool("check", "metrics", given=watched.get("/metrics").text)

    def celerys() -> Scrape | None:
        scrape = read(watched.get("/metrics?names=celery").text)
        return scrape if names(scrape) >= samples_of(CELERY_METRICS) else None

    celery = wait_for(celerys, "all metrics by Celery's names")
    assert names(celery) == samples_of(CELERY_METRICS)
    assert value(celery, "celery_task_succeeded_total", hostname="generic") == 3
    assert value(celery, "celery_task_failed_total", exception="ValueError") == 1
    assert value(celery, "celery_task_failed_total") == 3
    assert value(celery, "celery_task_rejected_total") == 1
    assert value(celery, "celery_active_process_count", queue_name="default") == 2


def test_a_busy_slot_is_seen(client: httpx.Client, running: Running, tmp_path: Path) -> None:
    name = tmp_path / "go"
    sent = [send(client, "shop.until", str(name)).json()["id"] for _ in range(3)]

    def busy() -> float:
        return value(read(client.get("/metrics").text), "celeriac_worker_slots_busy", lane="coroutine")

    try:
        wait_for(lambda: busy() == 3, "three slots in use")
    finally:
        name.touch()
    wait_for(lambda: busy() == 0, "the slots being free again")
    assert len(sent) == 3


def test_metrics_need_their_scope(guarded: Running) -> None:
    url = f"{guarded.address}/metrics"
    problem(httpx.get(url, trust_env=False), 401, "unauthenticated")
    for scope, status in (("tasks:send", 403), ("metrics:read", 200), ("viewer", 200)):
        token = guarded.served.run("web", "token", "add", f"metrics-{scope.replace(':', '-')}", "--scope", scope)
        got = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE, trust_env=False)
        assert got.status_code == status, got.text


def test_names_that_there_are_not_are_refused(client: httpx.Client) -> None:
    problem(client.get("/metrics", params={"names": "flower"}), 422, "bad-query")
