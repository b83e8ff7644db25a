"""An app whose tasks do all that comes back to a caller, a program that calls them, and a worker for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.environment import without_settings
from tests.patience import PATIENCE

__all__ = ["APP", "CALLER", "check_calls", "run", "worker_on"]

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
revoked = add.apply_async((1, 1), countdown=12)  # this program, or the worker, may stand still for so long
revoked.revoke()
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
if isinstance(app.backend, WorkflowStore):
    assert chord([add.s(i, i) for i in range(5)], total.s()).delay().get(timeout=100) == 20
error = revoked.get(timeout=100, propagate=False)  # it ends at once, or on some brokers when it is due
assert type(error).__name__ == "TaskRevoked", error
print("all is well")
"""


def run(folder: Path, urls: dict[str, str], *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = without_settings() | urls
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=PATIENCE, check=False, **options)  # fmt: skip


@contextmanager
def worker_on(folder: Path, urls: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of the app for as long as a block lasts. It ends as it should; its output goes into `log`."""
    (folder / "pairs.py").write_text(APP)
    with (folder / "log").open("w") as log:
        worker = subprocess.Popen([sys.executable, "-m", "celeriac", "-A", "pairs", "worker", "-c", "2"], cwd=folder,
                                  env=without_settings() | urls, stdin=subprocess.DEVNULL, stdout=log,
                                  stderr=log)  # fmt: skip
    try:
        yield worker
        worker.terminate()
        assert worker.wait(PATIENCE) == 0
    finally:
        worker.kill()
        worker.wait()


def check_calls(folder: Path, urls: dict[str, str], program: str = CALLER) -> list[str]:
    """Run a program that calls the tasks of a worker; return the lines that it prints after "all is well"."""
    (folder / "caller.py").write_text(program)
    with worker_on(folder, urls):
        told = run(folder, urls, "caller.py")
        first, *rest = told.stdout.splitlines() or [""]
        assert first == "all is well", f"{told.stderr}\n{(folder / 'log').read_text()[-3000:]}"
    return rest
