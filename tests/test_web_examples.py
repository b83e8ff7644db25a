"""The web examples with real workers, real servers and HTTP. `test_docs.py` follows their pages, step by step."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.environment import without_settings
from tests.needs import needs_node
from tests.patience import PATIENCE, wait_for

EXAMPLES = Path(__file__).parent.parent / "examples"
RUNNING = re.compile(r"[Rr]unning on (http://[\w.:]+)")


class Site:
    """A copy of an example, with the processes that run it."""

    def __init__(self, folder: Path, settings: dict[str, str], python: str) -> None:
        self.folder = folder
        self.python = python
        self.environment = {**without_settings(), **settings}
        self.processes: list[tuple[subprocess.Popen[bytes], int]] = []

    def _start(self, name: str, stop: int, *command: str, of: tuple[str, ...] = ()) -> Path:
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            of = of or (self.python, "-m")
            process = subprocess.Popen([*of, *command], cwd=self.folder, env=self.environment, stdout=out, stderr=out)
        self.processes.append((process, stop))
        ready = re.compile(r"is ready\b|unning on http://[\w.:]+\D")
        wait_for(lambda: process.poll() is not None or ready.search(log.read_text()), name)
        assert process.poll() is None, log.read_text()
        return log

    def worker(self, app: str, *arguments: str) -> None:
        self._start("worker", signal.SIGTERM, "celeriac", "-A", app, "worker", "-c", "2", "--grace", "5", *arguments)

    def node(self, *arguments: str) -> None:
        self._start("node", signal.SIGTERM, *arguments, of=("node",))

    @contextmanager
    def client(self, *command: str) -> Iterator[httpx.Client]:
        log = self._start("server", signal.SIGINT, *command)
        address = RUNNING.search(log.read_text())
        assert address is not None
        with httpx.Client(base_url=address[1], timeout=PATIENCE, trust_env=False) as client:
            yield client

    def stop(self) -> None:
        """Stop everything, the newest first. All must end well."""
        while self.processes:
            process, number = self.processes.pop()
            process.send_signal(number)
            assert process.wait(PATIENCE) == 0

    def kill(self) -> None:
        for process, _ in self.processes:
            process.kill()
            process.wait()


@contextmanager
def site(example: str, folder: Path, settings: dict[str, str], python: str = sys.executable) -> Iterator[Site]:
    shutil.copytree(EXAMPLES / example, folder, dirs_exist_ok=True)
    made = Site(folder, settings, python)
    try:
        yield made
        made.stop()
    finally:
        made.kill()


UVICORN = ("uvicorn", "web:app", "--port", "0", "--timeout-graceful-shutdown", "1")


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def reports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The example for FastAPI, on each of two brokers; for all tests that leave it running."""
    settings = {}
    if request.param == "redis":
        server = request.getfixturevalue("shared_redis")
        server.ask("FLUSHALL")
        settings["CELERIAC_BROKER_URL"] = server.url
    with site("web_fastapi", tmp_path_factory.mktemp("reports"), settings) as found:
        found.worker("jobs")
        with found.client(*UVICORN) as client:
            yield client


def start(client: httpx.Client, pages: int) -> str:
    answer = client.post("/reports", params={"pages": pages})
    assert answer.status_code == 202
    return str(answer.json()["id"])


def steps(client: httpx.Client, id: str) -> Iterator[dict[str, Any]]:
    with client.stream("GET", f"/reports/{id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line:
                assert line.startswith("data: ")
                yield json.loads(line.removeprefix("data: "))


def test_the_steps_of_a_task_are_sent_to_the_browser_until_its_end(reports: httpx.Client) -> None:
    assert "EventSource(`${report}/events`)" in reports.get("/").text
    id = start(reports, 10)
    *before, last = steps(reports, id)
    assert not any(step["ready"] for step in before)
    assert last == {
        "id": id, "state": "SUCCESS", "ready": True, "progress": None, "value": "a report of 10 pages", "error": None,
    }  # fmt: skip
    assert reports.get(f"/reports/{id}").json() == last
    assert list(steps(reports, id)) == [last]


def test_the_error_of_a_task_is_sent_without_its_traceback(reports: httpx.Client) -> None:
    *_, last = steps(reports, start(reports, 1001))
    assert (last["state"], last["error"]) == (
        "FAILURE", {"type": "ValueError", "message": "A report has at most 1,000 pages."},
    )  # fmt: skip


def test_a_task_is_cancelled_while_it_runs(reports: httpx.Client) -> None:
    id = start(reports, 1000)  # takes longer than any test waits
    following = steps(reports, id)
    assert any(step["progress"] for step in following)
    assert reports.delete(f"/reports/{id}").status_code == 202
    *_, last = following
    assert (last["state"], last["error"]["type"]) == ("REVOKED", "celeriac.errors.TaskRevoked")


def test_an_unknown_id_is_pending_and_a_wrong_argument_is_refused(reports: httpx.Client) -> None:
    assert reports.get("/reports/nobody").json()["state"] == "PENDING"
    assert reports.post("/reports?pages=many").status_code == 422


def test_a_server_stops_although_a_stream_is_open(tmp_path: Path) -> None:
    with site("web_fastapi", tmp_path, {}) as found, found.client(*UVICORN) as client:
        following = steps(client, "nobody")
        assert next(following)["state"] == "PENDING"
        found.stop()
        with pytest.raises(httpx.TransportError):
            next(following)


def test_without_a_broker_the_answer_is_503_and_a_stream_ends(tmp_path: Path) -> None:
    settings = {"CELERIAC_BROKER_URL": "redis://127.0.0.1:1", "CELERIAC_BROKER_PUBLISH_TIMEOUT": "0.5"}
    with site("web_fastapi", tmp_path, settings) as found, found.client(*UVICORN) as client:
        assert client.post("/reports").status_code == 503
        assert client.get("/reports/any").status_code == 503
        assert list(steps(client, "any")) == []


def test_a_task_of_flask_has_the_context_of_its_application(tmp_path: Path) -> None:
    with site("web_flask", tmp_path, {}) as found:
        found.worker("shop")
        with found.client("flask", "--app", "shop", "run", "--port", "0") as client:
            answer = client.post("/greetings", data={"name": "Ada"})
            assert answer.status_code == 202
            path = f"/greetings/{answer.json()['id']}"
            status = wait_for(lambda: found_ready(client.get(path).json()), "the greeting")
            assert (status["state"], status["value"]) == ("SUCCESS", "Welcome, Ada!")
            assert client.post("/greetings", data={}).status_code == 400


def found_ready(status: dict[str, Any]) -> dict[str, Any] | None:
    return status if status["ready"] else None


# On Redis at length alone: `promises/test_remote_workers.py` has such workers on each broker.
@needs_node
@pytest.mark.parametrize("broker", ["sqlite", pytest.param("redis", marks=pytest.mark.at_length)])
def test_a_worker_in_javascript_runs_tasks_that_python_sends(
    request: pytest.FixtureRequest, tmp_path: Path, broker: str
) -> None:
    settings = {"CELERIAC_BROKER_URL": request.getfixturevalue("redis").url} if broker == "redis" else {}
    with site("javascript_worker", tmp_path, settings) as found:
        found.worker("shop", "-Q", "default")
        with found.client("celeriac", "-A", "shop", "web", "--port", "0") as client:
            found.node("worker.mjs", str(client.base_url))
            done = subprocess.run([sys.executable, "shop.py"], cwd=tmp_path, env=found.environment, timeout=PATIENCE,
                                  capture_output=True, text=True, check=True)  # fmt: skip
            assert done.stdout == "celeriac-mashed\nremoulade, root-soup, schnitzel-of-celeriac\n"
