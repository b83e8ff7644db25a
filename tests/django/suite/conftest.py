"""This process is the project's web process. Workers are processes of their own, started by manage.py."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[2])]
os.chdir(HERE)
if "BAZAAR_FOLDER" not in os.environ:  # this suite is run by hand
    os.environ["BAZAAR_FOLDER"] = tempfile.mkdtemp(prefix="bazaar")
os.environ["DJANGO_SETTINGS_MODULE"] = "bazaar.settings"

import django  # noqa: E402

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402

from celeriac.tasks.current_app import apps  # noqa: E402
from tests.patience import PATIENCE, wait_for  # noqa: E402

FOLDER = Path(os.environ["BAZAAR_FOLDER"])


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test to its end, in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.function):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


class Worker:
    """`manage.py celeriac worker …`."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.log = FOLDER / f"worker-{len(list(FOLDER.glob('worker-*')))}.log"
        command = [sys.executable, "manage.py", "celeriac", "worker", "-c", "1", *arguments]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=HERE, env={**os.environ, **environment}, stdout=log,
                                            stderr=log, stdin=subprocess.DEVNULL)  # fmt: skip

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def ready(self) -> Worker:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.text()
            return "is ready" in self.text()

        wait_for(is_ready, "the worker being ready")
        return self

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(120)


@pytest.fixture(scope="session")
def database() -> Iterator[None]:
    from bazaar import app

    for alias in connections:
        call_command("migrate", database=alias, verbosity=0, run_syncdb=True)
        connections[alias].close()
    yield
    app.close()


@pytest.fixture(autouse=True, scope="module")
def nothing_waits(database: None) -> Iterator[None]:
    """Leave no message for the workers of the next file."""
    from bazaar import app

    yield
    operations = app.broker.operations()
    for one in app.broker.complete(operations.queues()):
        app.broker.complete(operations.purge(one.queue))


@pytest.fixture(autouse=True)
def clean(database: None) -> Iterator[None]:
    from shop.models import Order

    for alias in connections:
        Order.objects.using(alias).all().delete()
    yield
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:  # of a TestCase
            connection.close()


@pytest.fixture(autouse=True)
def forget_apps() -> Iterator[None]:
    """Take the apps that a test made out of the registry: the last one is the current app."""
    known = list(apps)
    yield
    apps[:] = known


@pytest.fixture(scope="session")
def worker(database: None) -> Iterator[Worker]:
    """A worker for all tests; tests that break one start their own."""
    started = Worker().ready()
    yield started
    started.stop()


@pytest.fixture
def start_command() -> Callable[..., str]:
    """Run a command of manage.py; return what it prints."""

    def start(*arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout

    return start


@pytest.fixture
def start_worker(database: None) -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def start(*arguments: str, **environment: str) -> Worker:
        started.append(Worker(*arguments, **environment))
        return started[-1]

    yield start
    for one in started:
        one.stop()
