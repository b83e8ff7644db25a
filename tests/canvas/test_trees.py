"""Random trees give what the oracle says, on each broker and backend; nothing is left pending, and nothing left over.

Five hundred in memory, fifty on each of the others; in `make chaos` four times as many. `CELERIAC_TEST_TREES` is how
many in memory.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pamqp import commands

from celeriac import Celeriac, group
from celeriac.brokers.amqp import AmqpBroker
from celeriac.brokers.amqp.topology import AmqpTopology
from tests import patience
from tests.canvas.crew import Crew
from tests.canvas.oracle import WAYS, Bad, Journal, Node, interpret, is_deaf, random_tree, register, signature, trees
from tests.clock import FakeClock
from tests.patience import PATIENCE
from tests.rabbitmq_server import RabbitServer
from tests.redis_server import RedisServer

CASES = int(os.environ.get("CELERIAC_TEST_TREES", "2000" if patience.exact else "500"))
ON_SERVERS = CASES // 10
EXPIRED = 2 * 86400.0  # seconds; `result_expires` is a day


def outcome_of(result: Any) -> Any:
    """Return a result as the oracle has it."""
    try:
        return result.get(timeout=PATIENCE)
    except ValueError as error:
        return Bad(error.args[0])


def make(tree: Node, app: Celeriac) -> Any:
    made = signature(app, tree)
    return made if tree.kind != "task" else group(made) | app.tasks["step"].s(label=1, way="returns")


def expected(tree: Node) -> Any:
    if tree.kind != "task":
        return interpret(tree, 7)
    return interpret(Node("chord", (tree, Node("task", label=1))), 7)


async def run(app: Celeriac, tree: Node, chance: random.Random) -> Any:
    result = await make(tree, app).adelay(7)
    crew = await Crew.of(app, chance)
    await crew.finish()
    await crew.lease.end()
    return result


class World:
    """An app, and what its tasks have done."""

    def __init__(self, broker_url: str, **settings: Any) -> None:
        self.journal = Journal()
        # A retry without delay is due at once; the machine's clock may be set back meanwhile.
        self.app = Celeriac("trees", broker_url=broker_url, environ={}, **{"clock": FakeClock(), **settings})
        register(self.app, self.journal)

    def holds(self, tree: Node, seed: int) -> None:
        """Assert that a tree gives what the oracle says."""
        self.journal.calls.clear()
        told = expected(tree)
        result = asyncio.run(run(self.app, tree, random.Random(seed)))
        assert outcome_of(result) == told.value
        assert self.journal.calls == told.calls
        self.nothing_is_pending(result)

    def nothing_is_pending(self, result: Any) -> None:
        if result.workflow_id is None:
            return
        if not any(result.spot.tree.steps()):
            return
        workflow = self.app.workflow(result.workflow_id)
        assert all(view.outcome is not None and view.outcome.ready for view in workflow.steps()), workflow.graph("text")


SETTINGS = {"suppress_health_check": list(HealthCheck), "report_multiple_bugs": False}


@pytest.mark.timeout(900)
@settings(max_examples=CASES, **SETTINGS)
@given(tree=trees(), seed=st.integers(0, 1 << 30))
def test_in_memory(tree: Node, seed: int) -> None:
    world = World("memory://trees")
    world.holds(tree, seed)
    store = world.app.broker.shared
    assert not store.messages
    assert not store.held
    assert not store.pending
    assert all(workflow.left == 0 and not any(workflow.missing.values()) for workflow in store.workflows.values())
    store.outcomes.clear()
    store.workflows.clear()


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(f"sqlite:///{tmp_path_factory.mktemp('trees') / 'celeriac.db'}")


@pytest.mark.timeout(900)
@settings(max_examples=ON_SERVERS, **SETTINGS)
@given(tree=trees(), seed=st.integers(0, 1 << 30))
def test_on_sqlite(on_sqlite: World, tree: Node, seed: int) -> None:
    on_sqlite.holds(tree, seed)
    database = on_sqlite.app.backend.database
    for rows in ("messages", "leases", "dues", "joins WHERE missing", "workflows WHERE left"):
        assert database.connection().execute(f"SELECT count(*) FROM {rows}").fetchone() == (0,), rows


def test_nothing_is_left_on_sqlite_when_outcomes_have_expired(tmp_path: Path, clock: FakeClock) -> None:
    world = World(f"sqlite:///{tmp_path / 'celeriac.db'}", clock=clock)
    chance = random.Random(1)
    for seed in range(30):
        world.holds(random_tree(chance), seed)
    clock.advance(EXPIRED)
    asyncio.run(sweep(world.app))
    connection = world.app.backend.database.connection()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"outcomes", "trees", "workflows", "joins"} < tables
    for table in tables - {"lines", "sqlite_sequence"}:
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


async def sweep(app: Celeriac) -> None:
    crew = await Crew.of(app)
    await crew.lease.sweep()
    await crew.lease.end()


@pytest.fixture(scope="module")
def on_redis(shared_redis: RedisServer) -> World:
    shared_redis.ask("FLUSHALL")
    return World(shared_redis.url)


@pytest.mark.timeout(900)
@settings(max_examples=ON_SERVERS, **SETTINGS)
@given(tree=trees(), seed=st.integers(0, 1 << 30))
def test_on_redis(on_redis: World, shared_redis: RedisServer, tree: Node, seed: int) -> None:
    shared_redis.ask("FLUSHALL")
    on_redis.holds(tree, seed)
    nothing_is_left_on(shared_redis)


STAYING = ("queues", "leases", "workers", "fences", "ready:p", "ready:c", "soonest")
"""Keys that do not expire: they hold names of queues and of live workers only."""


def nothing_is_left_on(server: RedisServer) -> None:
    """Assert that no key is left that an expiry would not take, and that no workflow waits for anything."""
    for key in server.ask("KEYS", "*"):
        if server.ask("PTTL", key) < 0:
            assert key.decode().removeprefix("celeriac:") in STAYING, key
        if b":workflow:" in key:
            fields = dict(zip(*[iter(server.ask("HGETALL", key))] * 2, strict=True))
            assert {count for field, count in fields.items() if field != b"tree"} <= {b"0"}, fields


class OnRabbitAndRedis(World):
    """A vhost of a RabbitMQ, and a Redis for what comes of it."""

    def __init__(self, rabbit: RabbitServer, redis: RedisServer) -> None:
        self.rabbit = rabbit
        self.vhost = rabbit.vhost()
        super().__init__(rabbit.url(self.vhost), result_backend=redis.url, broker_publish_timeout=PATIENCE)

    def no_message_is_left(self) -> None:
        """Assert that no AMQP queue holds anything, but for the journal, in which the lines stand.

        Those that the server has named were listened to, and go with who did.
        """
        broker = self.app.broker
        assert isinstance(broker, AmqpBroker)
        connection = broker.server.connect_blocking(PATIENCE)
        queues = [queue["name"] for queue in self.rabbit.ask("GET", f"/api/queues/{quote(self.vhost)}?columns=name")]
        assert "default" in queues
        for name in {*queues} - {AmqpTopology.on(broker.server).journal}:
            if name.startswith("amq.gen-"):
                continue
            held = connection.call(commands.Queue.Declare(queue=name, passive=True), time.monotonic() + PATIENCE)
            assert held.message_count == 0, name
        connection.close()


@pytest.fixture(scope="module")
def on_both(rabbit: RabbitServer, shared_redis: RedisServer) -> Iterator[OnRabbitAndRedis]:
    world = OnRabbitAndRedis(rabbit, shared_redis)
    yield world
    world.app.close()
    rabbit.drop(world.vhost)


@pytest.mark.timeout(900)
@settings(max_examples=ON_SERVERS, **SETTINGS)
@given(tree=trees(), seed=st.integers(0, 1 << 30))
def test_on_rabbitmq_and_redis(on_both: OnRabbitAndRedis, shared_redis: RedisServer, tree: Node, seed: int) -> None:
    shared_redis.ask("FLUSHALL")
    on_both.holds(tree, seed)
    nothing_is_left_on(shared_redis)
    on_both.no_message_is_left()


@pytest.mark.timeout(900)
@settings(max_examples=CASES // 2, **SETTINGS)
@given(tree=trees())
def test_run_at_once(tree: Node) -> None:
    world = World("memory://eager")
    told = expected(tree)
    result = make(tree, world.app).apply((7,))
    assert outcome_of(result) == told.value
    assert world.journal.calls == told.calls


@pytest.mark.timeout(900)
@settings(max_examples=CASES // 2, **SETTINGS)
@given(tree=trees())
def test_a_tree_comes_back_from_plain_data(tree: Node) -> None:
    app = World("memory://data").app
    made = make(tree, app)
    assert app.signature(made.to_dict()) == made
    assert repr(app.signature(made.to_dict())) == repr(made)


@pytest.mark.timeout(900)
def test_the_trees_have_all_that_workflows_can_have() -> None:
    made: list[Node] = []

    @settings(max_examples=500, database=None, derandomize=True, **SETTINGS)
    @given(tree=trees())
    def make_many(tree: Node) -> None:
        made.append(tree)

    make_many()
    depths = Counter(tree.depth() for tree in made)
    nodes = [node for tree in made for node in tree.walk()]
    ways = Counter(node.way for node in nodes if node.kind == "task")
    widths = Counter(len(node.parts) for node in nodes if node.kind == "group")
    linked = Counter(is_deaf(label) for node in nodes for label in (node.callback, node.errback) if label is not None)
    print(f"\n{len(made)} trees, {len({*made})} of them different; nested {sorted(depths.items())}")
    print(f"{ways.total()} tasks: {dict(ways)}; groups by their width {sorted(widths.items())}; links {dict(linked)}")
    assert max(depths) == 5
    assert depths[5] > len(made) / 10
    assert ways.keys() == set(WAYS)
    assert 0.04 < ways["fails"] / ways.total() < 0.2  # a tenth, as far as hypothesis lets chance have its way
    assert {0, 1} < widths.keys()
    assert linked.keys() == {False, True}
