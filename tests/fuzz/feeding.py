"""What the tests of all surfaces do: run a worker, write inputs, run good tasks in between, look as users do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from celeriac import Celeriac
from celeriac.errors import CeleriacError
from celeriac.testing import running_worker
from tests.commands import command
from tests.environment import without_settings
from tests.patience import PATIENCE, wait_for

__all__ = ["EACH", "GROWTH", "feed", "read", "shop_on", "show", "worker_here", "worker_process"]

EACH = 25  # inputs between two good tasks
LOOKS = 40  # times that the commands run, at most; in short runs with each good task
GROWTH = 100 << 20  # bytes that a process may grow by, from a quarter of the inputs to the end
COMMANDS_THAT_LOOK: Sequence[Sequence[str]] = (
    ["status"], ["queues"], ["queues", "peek", "default"], ["queues", "dead", "list"], ["tasks"], ["inspect", "active"],
    ["inspect", "stats"],
)  # fmt: skip

SHOP = """
from celeriac import Celeriac

app = Celeriac("shop")

@app.task
def add(x: int, y: int) -> int:
    return x + y
"""


def shop_on(broker: str, backend: str | None = None, **settings: Any) -> Celeriac:
    """Return an app that sends, and can run, the good task."""
    settings = {"broker_publish_timeout": PATIENCE, **settings}
    made = Celeriac("shop", broker_url=broker, result_backend=backend, environ={}, **settings)

    @made.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    return made


@contextmanager
def worker_here(app: Celeriac) -> Iterator[psutil.Process]:
    """Run a worker in threads of this process; return the process."""
    with running_worker(app):
        yield psutil.Process(os.getpid())


@contextmanager
def worker_process(folder: Path, pool: str, broker: str, backend: str = "") -> Iterator[psutil.Process]:
    """Run `celeriac worker` with a pool of this kind; return its supervisor. It must live until it is stopped."""
    (folder / "shop.py").write_text(SHOP)
    log = folder / "worker.log"
    given = {"CELERIAC_BROKER_URL": broker, "CELERIAC_BROKER_PUBLISH_TIMEOUT": str(PATIENCE)}
    given |= {"CELERIAC_RESULT_BACKEND": backend} if backend else {}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "celeriac", "-A", "shop", "worker", "-c", "2", "--pool", pool], cwd=folder,
            env=without_settings() | given, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(lambda: "is ready" in log.read_text(errors="replace"), "a worker that is ready")
        yield psutil.Process(process.pid)
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        process.terminate()
        assert process.wait(PATIENCE) == 0, log.read_text(errors="replace")[-3000:]
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []:
            one.kill()
        process.kill()
        process.wait()


def feed(app: Celeriac, process: psutil.Process, count: int, write: Callable[[int], None],
         look: Callable[[int], None], mend: Callable[[], None] = lambda: None) -> None:  # fmt: skip
    """Write inputs while a worker runs; every few, mend what they may change, and run a good task; sometimes, look."""
    before, looks = 0, 0
    for number in range(count):
        write(number)
        if number % EACH == EACH - 1:
            if number * LOOKS >= looks * count:
                look(number)
                looks += 1
            mend()
            assert app.tasks["shop.add"].delay(2, 2).get(timeout=PATIENCE) == 4
        if number == count // 4:
            before = process.memory_info().rss
    assert app.tasks["shop.add"].delay(2, 2).get(timeout=PATIENCE) == 4
    assert process.memory_info().rss - before < GROWTH
    wait_for(lambda: rests(process), "rest: something goes round in circles")


def rests(process: psutil.Process) -> bool:
    """Return whether a process and its children together have worked for less than a quarter of a second."""
    before, _ = worked(process), time.sleep(1.0)
    return worked(process) - before < 0.25


def worked(process: psutil.Process) -> float:
    """Return the CPU time of a process and its children, in seconds."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            total += sum(one.cpu_times()[:2])
    return total


def show(app: Celeriac, *ids: str) -> None:
    """Run the commands that look, as users do."""
    for arguments in COMMANDS_THAT_LOOK:
        command(app, *arguments)
    for id in ids:
        command(app, "tasks", "show", id)
        command(app, "result", id)


def read(app: Celeriac, id: str) -> None:
    """Read a result in each way. Only errors of Celeriac's may be raised, or that which the outcome holds."""
    result, outcome = app.AsyncResult(id), app.backend.fetch([id])[id]
    assert isinstance(result.state, str)
    if result.ready():
        stored = outcome.exception()
        for way in (lambda: result.get(timeout=PATIENCE), lambda: result.result, lambda: result.traceback):
            with suppress(CeleriacError, type(stored)):
                way()
