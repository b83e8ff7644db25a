"""A folder with an app, a worker of it, and its HTTP API, each in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from starlette.routing import Route

from celeriac.web.application import ENDPOINTS, Api
from tests.environment import without_settings
from tests.patience import PATIENCE, wait_for

__all__ = ["SECRET", "Served", "check_shape", "serving"]

SECRET = "a secret of the tests, which is long enough"
USUAL = {"web_secret": SECRET, "web_rate": 100_000}  # tests ask more often than clients
ADDRESS = re.compile(r"running on (http://\S+)")
SHOP = '''\
import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

from celeriac import Celeriac, crontab
from celeriac.errors import Reject

app = Celeriac("shop", task_queues=["mail", "idle", "spare"], web_token_file="tokens")
app.conf.beat_schedule = {"nightly": {"task": "shop.add", "args": (1, 2), "schedule": crontab(hour=3, minute=0)}}


@dataclass
class Order:
    item: str
    count: int = 1


@app.task
def add(x: int, y: int = 2) -> int:
    """Add numbers."""
    return x + y


@app.task
def buy(order: Order) -> str:
    return f"{order.count} × {order.item}"


@app.task(name="mail.send")
def send(to: str, *, subject: str = "") -> str:
    return f"{subject} to {to}"


@app.task(max_retries=0)
def fail(why: str) -> None:
    raise ValueError(why)


@app.task
def total(values: list[int]) -> int:
    return sum(values)


@app.task
def echo(*args, **kwargs):
    return [args, kwargs]


@app.task
def note(text: str) -> None:
    with open("notes", "a") as file:
        file.write(f"{text}\\n")


@app.task
def reject(name: str) -> str:
    """Become a dead letter, until there is a file of this name."""
    if not Path(name).exists():
        raise Reject("not today")
    return "taken"


@app.task
async def until(name: str) -> str:
    """End when there is a file of this name."""
    while not Path(name).exists():
        await asyncio.sleep(0.01)
    return "there"


@app.task(bind=True)
async def steps(self, name: str) -> str:
    self.update_state(state="PROGRESS", meta={"done": 1, "of": 2})
    return await until.run(name)
'''


class Served:
    """A folder with processes in it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.environment = without_settings() | {
            f"CELERIAC_{name.upper()}": str(value) for name, value in {**USUAL, **settings}.items()
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        if not (folder / "shop.py").exists():
            (folder / "shop.py").write_text(SHOP, encoding="utf-8")

    def start(self, *arguments: str, ready: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a command, and wait until it has written something."""
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(command(arguments), cwd=self.folder, env=self.environment,
                                       stdin=subprocess.DEVNULL, stdout=out, stderr=out)  # fmt: skip
        self.processes.append(process)
        wait_for(lambda: process.poll() is not None or ready in log.read_text(), " ".join(arguments))
        assert process.poll() is None, log.read_text()
        return process, log

    def run(self, *arguments: str) -> str:
        """Run a command, and return what it prints."""
        done = subprocess.run(command(arguments), cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=PATIENCE)  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def worker(self, *arguments: str) -> subprocess.Popen[bytes]:
        return self.start("worker", "-c", "2", "--grace", "1", *arguments, ready="is ready")[0]

    def web(self, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
        """Serve the API on a free port; return the process and the address."""
        process, log = self.start("web", "--port", "0", *arguments, ready="Ctrl-C stops it")
        address = ADDRESS.search(log.read_text())
        assert address is not None
        return process, address[1]

    def end(self) -> None:
        """End all processes."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def command(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "celeriac", "-A", "shop", *arguments]


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Served]:
    made = Served(folder, **settings)
    try:
        yield made
    finally:
        made.end()


# --- Answers ------------------------------------------------------------------------------------------

ROUTES = [(Route(endpoint.path, Api.stop, methods=[endpoint.method]), endpoint) for endpoint in ENDPOINTS]


def check_shape(response: httpx.Response) -> None:
    """Check that an answer is what the endpoint declares. A hook of clients."""
    path = response.request.url.path
    for route, endpoint in ROUTES:
        if endpoint.method == response.request.method and route.path_regex.match(path):
            break
    else:
        return
    kind = endpoint.answers.get(response.status_code)
    if response.headers.get("content-type") != "application/json" or kind is None or isinstance(kind, str):
        return
    response.read()
    found = response.json()
    assert_equal_names(found, msgspec.to_builtins(msgspec.convert(found, kind)), path)


def assert_equal_names(found: Any, declared: Any, where: str) -> None:
    """Fail if something was found that is not declared."""
    if isinstance(found, dict) and isinstance(declared, dict):
        assert found.keys() <= declared.keys(), f"{where} has {sorted(found.keys() - declared.keys())}"
        for name, value in found.items():
            assert_equal_names(value, declared[name], f"{where} {name}")
    elif isinstance(found, list) and isinstance(declared, list):
        for one, other in zip(found, declared, strict=True):
            assert_equal_names(one, other, where)
