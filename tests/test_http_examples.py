"""The example of HTTP tasks: endpoints in JavaScript and in a shell script, with a real worker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from celeriac.model.webhook_signatures import parse_secret, signed_headers
from celeriac.webhooks import new_secret
from tests.environment import without_settings
from tests.needs import needs_node, needs_socat
from tests.patience import PATIENCE, wait_for

EXAMPLE = Path(__file__).parent.parent / "examples" / "http_tasks"
SHOWN = "[error.type, error.message]"


class Shop:
    """A copy of the example, with the processes that run it."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
        self.folder = folder
        self.secret = new_secret()
        self.environment = {**without_settings(), "SECRET": self.secret, "PORT": "0"}
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str], ready: str) -> str:
        """Start a command; return what it has written about being ready."""
        log = self.folder / f"{len(self.processes)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=out, stderr=out)
        self.processes.append(process)
        wait_for(lambda: process.poll() is not None or re.search(ready, log.read_text()), " ".join(command))
        found = re.search(ready, log.read_text())
        assert found is not None, log.read_text()
        return found[1]

    def node(self) -> str:
        self.environment["BILLING"] = self.start(["node", "billing.mjs"], r"Running on (http://127\.0\.0\.1:\d+)\n")
        return self.environment["BILLING"]

    def shell(self) -> str:
        command = ["socat", "-d", "-d", "TCP-LISTEN:0,bind=127.0.0.1,reuseaddr,fork", "EXEC:./multiply.sh"]
        self.environment["MULTIPLY"] = "http://" + self.start(command, r"listening on AF=2 (127\.0\.0\.1:\d+)\n")
        return self.environment["MULTIPLY"]

    def worker(self) -> None:
        self.start([sys.executable, "-m", "celeriac", "-A", "shop", "worker", "-c", "1"], "(is ready)")

    def run(self, code: str) -> Any:
        """Run code that calls tasks; return what the expression on its last line gives."""
        *lines, last = code.splitlines()
        whole = "\n".join(["import json", "from shop import *", *lines, f"print(json.dumps({last}))"])
        done = subprocess.run([sys.executable, "-c", whole], cwd=self.folder, env=self.environment, capture_output=True,
                              text=True, timeout=PATIENCE)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(PATIENCE)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    try:
        yield made
    finally:
        made.end()


def post(url: str, secret: str, body: bytes, at: float, **headers: str) -> httpx.Response:
    signed = signed_headers("1", at, body, [parse_secret(secret)])
    return httpx.post(url, content=body, headers={**signed, **headers}, timeout=PATIENCE, trust_env=False)


@needs_node
def test_tasks_in_javascript_return_fail_are_retried_and_report_progress(shop: Shop) -> None:
    shop.node()
    shop.worker()
    assert shop.run("charge.delay(customer=7, amount='12.50').get(timeout=100)") == {"customer": 7, "charged": "12.50"}
    code = "error = charge.delay(customer='broke', amount='1').get(timeout=100, propagate=False)\n" + SHOWN
    assert shop.run(code) == ["CardDeclined", "There is no money."]
    code = "result = charge.delay(customer='busy', amount='1')\n[result.get(timeout=100)['charged'], result.retries]"
    assert shop.run(code) == ["1", 2]
    assert shop.run("report.delay(3).get(timeout=100)") == "a report of 3 pages"


@needs_node
def test_a_server_in_javascript_is_told_of_ends_once(shop: Shop) -> None:
    url = shop.node()
    shop.worker()
    shop.run("from celeriac import webhooks\n"
             f"add.apply_async((2, 2), **webhooks.callback(add, '{url}/ended')).get(timeout=100)")  # fmt: skip
    log = shop.folder / "0.log"
    wait_for(lambda: "shop.add ended: SUCCESS" in log.read_text(), "the callback")
    body = json.dumps({"id": "7", "data": {"task": "shop.add", "state": "FAILURE"}}).encode()
    for _ in range(2):
        assert post(f"{url}/ended", shop.secret, body, time.time()).status_code == 204
    wait_for(lambda: "shop.add ended: FAILURE" in log.read_text(), "the second event")
    assert log.read_text().count("ended: FAILURE") == 1


@needs_socat
def test_a_task_in_shell_returns_and_fails(shop: Shop) -> None:
    shop.shell()
    shop.worker()
    assert shop.run("multiply.delay(x=6, y=7).get(timeout=100)") == 42
    assert shop.run("multiply.delay(x='010', y=0).get(timeout=100)") == 0
    code = "error = multiply.delay(x=6, y='$(id)').get(timeout=100, propagate=False)\n" + SHOWN
    assert shop.run(code) == ["RemoteExecuteError", "x and y must be numbers"]


@pytest.mark.parametrize(
    ("language", "path", "body"),
    [
        pytest.param("node", "/charge", b'{"attempt": 1, "kwargs": {"customer": 7, "amount": 1}}', marks=needs_node),
        pytest.param("shell", "/multiply", b"x=6&y=7", marks=needs_socat),
    ],
)
def test_they_refuse_what_is_not_signed(shop: Shop, language: str, path: str, body: bytes) -> None:
    url = (shop.node() if language == "node" else shop.shell()) + path
    now, key = time.time(), {"idempotency-key": '"1"'}
    assert post(url, shop.secret, body, now, **key).status_code == 200
    assert post(url, new_secret(), body, now).status_code == 401
    assert post(url, shop.secret, body, now - 1000).status_code == 401
    changed = post(url, shop.secret, body, now, **{"webhook-id": "2"})
    assert changed.status_code == 401
    assert httpx.post(url, content=body, timeout=PATIENCE, trust_env=False).status_code == 401
