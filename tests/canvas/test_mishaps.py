"""Random trees while workers die, messages come twice and connections break: what the oracle says happens, once.

A body or its error callbacks, never both and never neither. Whatever is run again is run again for a reason: its worker
died before it had settled, or its message was delivered twice.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celeriac import Celeriac
from celeriac.errors import BackendError, BrokerUnavailable
from celeriac.model.message import Message
from celeriac.ports.broker import Delivery
from celeriac.ports.operations import WorkerInfo
from tests import patience
from tests.canvas.crew import SLOTS, Crew
from tests.canvas.oracle import Journal, Node, register, trees
from tests.canvas.test_trees import expected, make, outcome_of
from tests.clock import FakeClock

CASES = int(os.environ.get("CELERIAC_TEST_TREES", "1000" if patience.exact else "300")) // 2
LEASE = 60.0
BREAKS = ("conclude", "store", "due", "advance", "atrees", "afetch", "apublish", "settle")
"""What goes over a connection: each may break before it was carried out, or after."""


class Died(Exception):
    """The worker was killed."""


class Mishaps:
    """Workers that die, a broker that delivers twice, connections that break; and the reasons for what runs again."""

    def __init__(self, app: Celeriac, clock: FakeClock, chance: random.Random) -> None:
        self.app = app
        self.clock = clock
        self.chance = chance
        self.reasons: Counter[str] = Counter()  # by the id of a message: how often it may run again
        self.seen: list[Message] = []
        self.left = 12

    def strikes(self, odds: float) -> bool:
        if self.left > 0 and self.chance.random() < odds:
            self.left -= 1
            return True
        return False

    async def finish(self) -> None:
        """Work, with one worker after the other, until nothing is left to do."""
        crew = await self.crew()
        while True:
            try:
                with broken_connections(self, crew):
                    if not await self.work(crew):
                        break
            except Died:
                self.clock.advance(LEASE + 1)
                crew = await self.crew()
                await crew.lease.sweep()
        await crew.lease.end()

    async def crew(self) -> Crew:
        return Crew(self.app, await self.app.broker.lease(WorkerInfo(name="crew"), LEASE, 1000), self.chance)

    async def work(self, crew: Crew) -> bool:
        try:
            deliveries = await crew.lease.receive(["default"], SLOTS, 0.0)
            await self.run(crew, deliveries)
            if not self.strikes(0.2):
                await crew.advancing.finish()
        except (BackendError, BrokerUnavailable):
            # What a worker has run and cannot settle, it settles later; here it dies of it.
            raise Died from None
        self.twice()
        self.clock.advance(6)  # so that what a dead worker had taken on is free
        counts = await self.app.broker.operations().queues()
        waiting = any(count.ready + count.scheduled + count.active for count in counts)
        return waiting or bool(self.app.backend.shared.pending)

    async def run(self, crew: Crew, deliveries: list[Delivery]) -> None:
        self.chance.shuffle(deliveries)
        while deliveries:
            size = self.chance.randint(1, len(deliveries))
            batch, deliveries = deliveries[:size], deliveries[size:]
            ids = [item.message.id for item in batch]
            self.reasons.update(ids)  # until they are settled
            if self.strikes(0.05):
                for item in batch:
                    crew.executor.run(item.message)
                raise Died
            await crew.settle(batch)
            self.reasons.subtract(ids)
            self.seen += [item.message for item in batch if item.message.task == "step"]

    def twice(self) -> None:
        """Deliver something again that was settled long ago."""
        if self.seen and self.strikes(0.3):
            message = self.chance.choice(self.seen)
            self.reasons[message.id] += 1
            self.app.broker.publish([message])


@contextmanager
def broken_connections(mishaps: Mishaps, crew: Crew) -> Iterator[None]:
    """Let calls of the broker and the backend fail, before or after they have done their work."""
    owners: Sequence[Any] = (mishaps.app.backend, mishaps.app.broker, crew.lease)
    wrapped = [(owner, name) for owner in owners for name in BREAKS if hasattr(owner, name)]
    for owner, name in wrapped:
        setattr(owner, name, _breaking(getattr(owner, name), mishaps))
    try:
        yield
    finally:
        for owner, name in wrapped:
            delattr(owner, name)


def _breaking(method: Any, mishaps: Mishaps) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        if mishaps.strikes(0.03):
            raise BrokerUnavailable("broken before")
        result = await method(*args, **kwargs)
        if mishaps.strikes(0.03):
            raise BrokerUnavailable("broken after")
        return result

    return call


SETTINGS: Any = {"suppress_health_check": list(HealthCheck), "report_multiple_bugs": False}


def hold(app: Celeriac, journal: Journal, clock: FakeClock, tree: Node, seed: int, joined: bool) -> None:
    told = expected(tree)
    mishaps = Mishaps(app, clock, random.Random(seed))
    result = make(tree, app).delay(7)
    asyncio.run(mishaps.finish())
    assert outcome_of(result) == told.value
    assert set(journal.calls) == set(told.calls)
    if joined:
        unexplained = {id: runs for id, runs in journal.runs.items() if runs > 1 + mishaps.reasons[id]}
        assert not unexplained, mishaps.reasons
    if result.workflow_id is not None and any(result.spot.tree.steps()):
        workflow = app.workflow(result.workflow_id)
        assert workflow.finished(), workflow.graph("text")


@pytest.mark.timeout(900)
@settings(max_examples=CASES, **SETTINGS)
@given(tree=trees(), seed=st.integers(0, 1 << 30))
def test_broker_and_backend_joined(tree: Node, seed: int) -> None:
    journal, clock = Journal(), FakeClock()
    app = Celeriac("mishaps", broker_url=f"memory://mishaps-{seed}", clock=clock, environ={}, result_expires=None)
    register(app, journal)
    hold(app, journal, clock, tree, seed, joined=True)
    store = app.broker.shared
    assert not store.messages
    assert not store.pending
    assert all(workflow.left == 0 and not any(workflow.missing.values()) for workflow in store.workflows.values())


@pytest.mark.timeout(900)
@settings(max_examples=CASES, **SETTINGS)
@given(tree=trees(), seed=st.integers(0, 1 << 30))
def test_broker_and_backend_on_two_servers(tree: Node, seed: int) -> None:
    journal, clock = Journal(), FakeClock()
    app = Celeriac("mishaps", broker_url=f"memory://broker-{seed}", result_backend=f"memory://backend-{seed}",
                   clock=clock, environ={}, result_expires=None)  # fmt: skip
    register(app, journal)
    hold(app, journal, clock, tree, seed, joined=False)
    assert not app.backend.shared.pending
