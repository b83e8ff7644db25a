"""A shop whose worker's log tests read, and the ways in which its app can set up logging."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celeriac import Celeriac
from tests.environment import without_settings
from tests.patience import PATIENCE, wait_for

SHOP = """
import asyncio
import logging
import logging.config
import os
import signal
import sys

from celeriac import Celeriac, get_task_logger, signals
from celeriac.logs import TaskFilter

{setup}

app = Celeriac("shop", broker_url={broker!r})
logger = logging.getLogger("shop.tasks")
task_logger = get_task_logger("stock")


@app.task
def note(text):
    logger.info("plain %s", text)
    task_logger.info("stock of %s", text)
    logger.debug("unseen")


@app.task
async def anote(text):
    logger.info("before %s", text)
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    await asyncio.to_thread(logger.info, "after %s", text)


@app.task(max_retries=0)
def fail(text):
    logger.warning("about to fail %s", text)
    raise ValueError(text)


@app.task(max_retries=0)
async def afail(text):
    await asyncio.sleep(0)
    raise ValueError(text)


@app.task(autoretry_for=(OSError,), default_retry_delay=0.01)
def again(times):
    from celeriac import current_request
    if current_request().retries < times:
        raise ConnectionError("no answer")


@app.task
def hold(path):
    import time
    open(path, "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)


@app.task
def write(size):
    logger.info("x" * size)
"""

BASIC = 'logging.basicConfig(level="INFO", format="APP %(levelname)s %(name)s: %(message)s")'

NAMING = BASIC.replace(": ", " %(task_name)s[%(task_id)s]: ") + "; logging.root.handlers[0].addFilter(TaskFilter())"

DJANGO = """
logging.config.dictConfig({{
    "version": 1,
    "disable_existing_loggers": {disable},
    "filters": {{"task": {{"()": "celeriac.logs.TaskFilter"}}}},
    "formatters": {{"own": {{"format": "APP %(levelname)s %(name)s %(task_name)s[%(task_id)s]: %(message)s"}}}},
    "handlers": {{"console": {{"class": "logging.StreamHandler", "formatter": "own", "filters": ["task"]}}}},
    "root": {{"handlers": ["console"], "level": "INFO"}},
}})
"""

ONE_LOGGER = """
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("APP %(levelname)s %(name)s: %(message)s"))
logging.getLogger("shop").addHandler(handler)
"""

RECEIVERS = """
@signals.setup_logging.connect
def set_up(loglevel, **more):
    assert loglevel == logging.INFO
    {django}
"""

AFTER = """
@signals.after_setup_logger.connect
def add(logger, format, **more):
    handler = logging.FileHandler("extra.log")
    handler.setFormatter(logging.Formatter("EXTRA %(message)s"))
    logger.addHandler(handler)


@signals.after_setup_task_logger.connect
def add_to_tasks(logger, **more):
    logger.addHandler(logging.FileHandler("tasks.log"))
"""


FAILS_ONCE = """
@signals.worker_process_init.connect
def fail_once(**more):
    try:
        os.close(os.open("failed", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    raise KeyboardInterrupt("not now")
"""

OURS = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "
"""How a line of a worker's own format begins."""


class Shop:
    """A folder with `shop.py`, and a worker that runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "worker.log"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.app: Celeriac

    def open(self, *arguments: str, setup: str = "", broker: str = "", into: Any = None, **settings: Any) -> Shop:
        """Write the module and start a worker; return when it is ready."""
        broker = broker or f"sqlite:///{self.folder}/celeriac.db"
        (self.folder / "shop.py").write_text(SHOP.format(setup=setup, broker=broker))
        self.app = Celeriac("shop", broker_url=broker, broker_publish_timeout=PATIENCE, environ={})
        self.work("-n", "w1", *arguments, into=into, **settings)
        return self

    def work(self, *arguments: str, into: Any = None, **settings: Any) -> subprocess.Popen[bytes]:
        settings = {"broker_publish_timeout": PATIENCE, **settings}
        environment = without_settings() | {f"CELERIAC_{name.upper()}": str(value) for name, value in settings.items()}
        command = [sys.executable, "-m", "celeriac", "-A", "shop", "worker", "-c", "2", *arguments]
        before = self.text().count(" is ready. ")
        with self.log.open("ab") as log:
            worker = subprocess.Popen(command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                      stderr=into or log)  # fmt: skip
        self.workers.append(worker)
        if into is None:
            self.wait(lambda: worker.poll() is not None or self.text().count(" is ready. ") > before)
            assert worker.poll() is None, self.text()
        return worker

    def run(self, task: str, *args: Any) -> str:
        """Run a task to its end, whatever that is; return its id."""
        result = self.app.send_task(f"shop.{task}", args)
        result.get(timeout=PATIENCE, propagate=False)
        return result.id

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def lines(self, *words: str) -> list[str]:
        """Return the lines that contain all these words."""
        return [line for line in self.text().splitlines() if all(word in line for word in words)]

    def wait(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        try:
            return wait_for(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()[-5000:]}") from None

    def stop(self) -> None:
        """Stop the workers as a deploy does: everything that they have to say is in the log then."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(PATIENCE) == 0, self.text()

    def end(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
            if worker.stderr is not None:
                worker.stderr.close()
        self.app.close()
