"""A worker without a pool, for tests of workflows: the real rules, settling and advancing, one step at a time."""

from __future__ import annotations

import random
from collections.abc import Callable

from celeriac import Celeriac
from celeriac.model.message import COROUTINE, PLAIN
from celeriac.ports.broker import Delivery, Lease
from celeriac.ports.operations import WorkerInfo
from celeriac.tasks.execution import Executor
from celeriac.worker.advancer import Advancer
from celeriac.worker.decide import Ending, decide
from celeriac.worker.outages import Outages
from celeriac.worker.settlement_writer import SettlementWriter

SLOTS = {PLAIN: 100, COROUTINE: 100}


class Crew:
    """Receives, runs and settles, until there is nothing left to do."""

    def __init__(self, app: Celeriac, lease: Lease, chance: random.Random | None = None) -> None:
        self.app = app
        self.lease = lease
        self.chance = chance or random.Random(1)
        self.executor = Executor(app, "crew")
        self.writer = SettlementWriter(app.broker, app.backend, lambda: app.workflows)
        self.advancing = Advancer(app, lambda: self.lease, self.writer.joined, Outages(self.writer.joined))
        self.before_settling: Callable[[list[Delivery]], None] = lambda deliveries: None

    @classmethod
    async def of(cls, app: Celeriac, chance: random.Random | None = None) -> Crew:
        return cls(app, await app.broker.lease(WorkerInfo(name="crew"), 60.0, 3), chance)

    async def finish(self) -> None:
        """Work until nothing is ready."""
        while await self.work():
            pass
        await self.advancing.finish()

    async def work(self) -> bool:
        """Receive some messages, run them in any order, and settle them; say whether there were any, or are more."""
        deliveries = await self.lease.receive(["default"], SLOTS, 0.0)
        found = bool(deliveries)
        self.chance.shuffle(deliveries)
        while deliveries:
            size = self.chance.randint(1, len(deliveries))
            batch, deliveries = deliveries[:size], deliveries[size:]
            await self.settle(batch)
        await self.advancing.finish()
        return found or bool(await self._left())

    async def settle(self, batch: list[Delivery]) -> None:
        now = self.app.clock.now()
        endings = [Ending(delivery=item, outcome=self.executor.run(item.message)) for item in batch]
        self.before_settling(batch)
        await self.writer.write(self.lease, [decide(ending, now, 3, 3600.0) for ending in endings], now)

    async def _left(self) -> int:
        counts = await self.app.broker.operations().queues()
        # Active is what RabbitMQ has pushed to the lease and nobody has received yet.
        return sum(count.ready + count.scheduled + count.active for count in counts)
