"""Messages that wait in the result backend's store: the stores, and brokers that use them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.drivers.memory_delays import MemoryDelays, MemoryDelayStore
from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.delays import SQLiteDelayStore
from celeriac.ports.delays import DelayStore
from tests.clock import FakeClock
from tests.conformance.delays import DelaysConformance


class TestMemory(DelaysConformance):
    @pytest.fixture
    def delays(self, clock: FakeClock) -> DelayStore:
        return MemoryDelayStore(MemoryDelays(), clock)


class TestSQLite(DelaysConformance):
    @pytest.fixture
    def delays(self, tmp_path: Path, clock: FakeClock) -> Iterator[DelayStore]:
        database = Database(str(tmp_path / "celeriac.db"))
        yield SQLiteDelayStore(database, clock)
        database.close()
