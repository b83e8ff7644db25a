"""The backend on SQL databases keeps the promises of its ports, on PostgreSQL, MariaDB and SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celeriac.backends.sql import SQLBackend
from celeriac.brokers.memory import MemoryBroker
from celeriac.drivers.memory import Store
from celeriac.drivers.sql.database import Database
from celeriac.ports.schedules import ScheduleStore, schedule_store
from tests.clock import FakeClock
from tests.conformance.backend import BackendConformance, WorkflowConformance
from tests.conformance.broker import Ports
from tests.conformance.schedules import SchedulesConformance

TIMEOUT = 60.0


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    system = getattr(request, "param", "sqlite")
    if system == "sqlite":
        return f"db+sqlite:///{tmp_path}/results.db"
    server = request.getfixturevalue(system)
    return str(server.url(server.emptied()))


Open = Callable[..., SQLBackend]


@pytest.fixture
def opened(url: str, clock: FakeClock) -> Iterator[Open]:
    """Open backends in that database; each has connections of its own, as another process has."""
    backends: list[SQLBackend] = []

    def open_(**options: object) -> SQLBackend:
        database = Database(url, None, "celeriac_", TIMEOUT)
        backends.append(SQLBackend(database, clock, **options))  # type: ignore[arg-type]
        return backends[-1]

    yield open_
    for backend in backends:
        backend.close()


@pytest.fixture
def ports(opened: Open, clock: FakeClock, generic: bool) -> Ports:
    store = Store()
    return Ports(MemoryBroker(store, clock), opened(generic=generic), clock, lambda: MemoryBroker(store, clock))


# Databases with an upsert of their own take the way of all others too.
@pytest.mark.parametrize(
    ("url", "generic"),
    [("postgresql", False), ("postgresql", True), ("mariadb", False), ("sqlite", False), ("sqlite", True)],
    indirect=["url"],
)
class Everywhere:
    pass


class TestBackend(Everywhere, BackendConformance):
    pass


class TestWorkflows(Everywhere, WorkflowConformance):
    pass


class TestSchedules(Everywhere, SchedulesConformance):
    @pytest.fixture
    def schedules(self, ports: Ports) -> ScheduleStore:
        return schedule_store(_NoSchedules(), ports.backend)  # type: ignore[arg-type]


class _NoSchedules:
    """A broker that keeps no schedules."""
