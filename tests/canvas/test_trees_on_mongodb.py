"""Random trees with their outcomes and counters in MongoDB, with and without mishaps; the messages are in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.backends.mongodb import MongoBackend
from tests import patience
from tests.canvas.oracle import Node, trees
from tests.canvas.test_mishaps import hold
from tests.canvas.test_trees import SETTINGS, World
from tests.clock import FakeClock
from tests.mongodb_server import LEFT, MongoServer, database_on

pytestmark = [pytest.mark.filterwarnings(LEFT), pytest.mark.usefixtures("collected")]

CASES = int(os.environ.get("CELERIAC_TEST_TREES", "2000" if patience.exact else "1000")) // 200


class Pending:
    """What `Mishaps` asks of a store: whether nodes are pending."""

    def __init__(self, backend: MongoBackend) -> None:
        self.backend = backend

    @property
    def pending(self) -> list[dict[str, Any]]:
        return [row for row in self.counters() if row["pending"]]

    def counters(self) -> list[dict[str, Any]]:
        server = self.backend.server
        return list(server.client()[server.address.database]["celeriac.workflows"].find())


@contextmanager
def a_world(server: MongoServer, broker: str) -> Iterator[World]:
    with database_on(server) as url:
        world = World(f"memory://{broker}", result_backend=url, broker_publish_timeout=60.0, result_expires=None,
                      clock=FakeClock(time.time()))  # fmt: skip
        world.app.backend.shared = Pending(world.app.backend)
        yield world
        world.app.close()


@pytest.mark.timeout(900)
@settings(max_examples=CASES, **SETTINGS)
@given(tree=trees(), seed=st.integers(0, 1 << 30))
def test_trees(mongodb: MongoServer, tree: Node, seed: int) -> None:
    with a_world(mongodb, f"trees-{seed}") as world:
        world.holds(tree, seed)
        assert not world.app.backend.shared.pending
        for row in world.app.backend.shared.counters():
            assert row["left"] == 0
            assert not row["missing"]


@pytest.mark.timeout(900)
@settings(max_examples=CASES, **SETTINGS)
@given(tree=trees(), seed=st.integers(0, 1 << 30))
def test_trees_with_mishaps(mongodb: MongoServer, tree: Node, seed: int) -> None:
    with a_world(mongodb, f"mishaps-{seed}") as world:
        hold(world.app, world.journal, world.app.clock, tree, seed, joined=False)
        assert not world.app.backend.shared.pending
