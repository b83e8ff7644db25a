"""Celeriac's pytest plugin: fixtures for an app, workers, a virtual clock, and what was sent. pytest loads it itself.

Nothing happens unless a test asks for one of the fixtures, and nothing of Celeriac is imported before: that is why this
module is not in the package. What the fixtures do is in `celeriac.contrib.pytest`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from celeriac import Celeriac
    from celeriac.contrib.pytest import SentTask, SentTasks, VirtualClock, WorkerProcess
    from celeriac.worker.supervisor import Supervisor

__all__ = ["assert_sent", "celeriac_app", "celeriac_clock", "celeriac_config", "celeriac_project", "celeriac_sent",
           "celeriac_worker", "celeriac_worker_process", "pytest_addoption"]  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `celeriac_app` to pytest's configuration."""
    parser.addini("celeriac_app", "the app that Celeriac's fixtures put on a broker of its own: shop:app")


@pytest.fixture(scope="session")
def celeriac_project(pytestconfig: pytest.Config) -> Celeriac | None:
    """The project's own app, which `celeriac_app` names in pytest's configuration; None without that. Override it."""
    spec = pytestconfig.getini("celeriac_app")
    if not spec:
        return None
    app: Celeriac = importlib.import_module("celeriac.cli.locate").find_app(spec)
    app.import_tasks()
    return app


@pytest.fixture
def celeriac_config() -> dict[str, Any]:
    """The settings that the app has in tests, besides those of its broker. Override it."""
    return {}


@pytest.fixture
def _celeriac_isolated(celeriac_project: Celeriac | None,
                       celeriac_config: dict[str, Any]) -> Iterator[tuple[Celeriac, VirtualClock]]:  # fmt: skip
    app: Celeriac = celeriac_project or importlib.import_module("celeriac").Celeriac("tests")
    with importlib.import_module("celeriac.contrib.pytest").isolated(app, celeriac_config) as clock:
        yield app, clock


@pytest.fixture
def celeriac_app(_celeriac_isolated: tuple[Celeriac, VirtualClock]) -> Celeriac:
    """The project's app, or else a new one: on a memory broker of the test's own, with a virtual clock."""
    return _celeriac_isolated[0]


@pytest.fixture
def celeriac_clock(_celeriac_isolated: tuple[Celeriac, VirtualClock]) -> VirtualClock:
    """The app's clock: `advance(seconds)` lets what is due by then happen at once, in its order."""
    return _celeriac_isolated[1]


@pytest.fixture
def celeriac_worker(celeriac_app: Celeriac) -> Iterator[Supervisor]:
    """A real worker of the app, in threads of this process."""
    with importlib.import_module("celeriac.testing").running_worker(celeriac_app) as worker:
        yield worker


@pytest.fixture
def celeriac_worker_process(celeriac_app: Celeriac, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A real worker of the app in a process of its own, on a database file. It goes by the machine's clock."""
    with importlib.import_module("celeriac.contrib.pytest").running_process(celeriac_app, tmp_path) as worker:
        yield worker


@pytest.fixture
def celeriac_sent(celeriac_app: Celeriac) -> Iterator[SentTasks]:
    """What the code under test has sent since the test began."""
    with importlib.import_module("celeriac.contrib.pytest").recording(celeriac_app) as sent:
        yield sent


@pytest.fixture
def assert_sent(celeriac_sent: SentTasks) -> Callable[..., SentTask]:
    """A function that asserts that a task was sent: `assert_sent(add, args=(2, 2))`."""
    return celeriac_sent.assert_sent
