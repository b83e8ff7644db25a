"""`django-db://` does what every result backend does, in Django's database: outcomes, workflows, schedules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connections

from celeriac.brokers.memory import MemoryBroker
from celeriac.contrib.django.db.backend import DjangoBackend, DjangoDatabase
from celeriac.drivers.memory import Store
from celeriac.ports.schedules import ScheduleStore, schedule_store
from tests.clock import FakeClock
from tests.conformance.backend import BackendConformance, WorkflowConformance
from tests.conformance.broker import Ports
from tests.conformance.schedules import SchedulesConformance
from tests.patience import PATIENCE


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def backend(clock: FakeClock) -> Iterator[DjangoBackend]:
    made = DjangoBackend(DjangoDatabase("default", PATIENCE), clock)
    with connections["default"].cursor() as cursor:
        for table in made.database.tables.metadata.sorted_tables:
            if table is not made.database.tables.version:
                cursor.execute(f"DELETE FROM {table.name}")
    yield made
    made.close()


@pytest.fixture
def ports(backend: DjangoBackend, clock: FakeClock) -> Ports:
    store = Store()
    return Ports(MemoryBroker(store, clock), backend, clock, lambda: MemoryBroker(store, clock))


class TestBackend(BackendConformance):
    pass


class TestWorkflows(WorkflowConformance):
    pass


class TestSchedules(SchedulesConformance):
    @pytest.fixture
    def schedules(self, ports: Ports) -> ScheduleStore:
        return schedule_store(ports.broker, ports.backend)


def test_schedules_are_kept_here_although_the_broker_could(ports: Ports) -> None:
    assert schedule_store(ports.broker, ports.backend).publishes is False
