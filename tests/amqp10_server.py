"""Servers of AMQP 1.0 for the tests, and how a worker dies there."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from celeriac.brokers.amqp10 import Amqp10Broker
from celeriac.brokers.amqp10.transport import Amqp10Transport
from celeriac.brokers.queue_server.journal import LineMade, writing
from celeriac.brokers.queue_server.lease import QueueServerLease
from celeriac.brokers.queue_server.transport import Procedure
from celeriac.drivers.amqp10.connection import Item
from celeriac.drivers.amqp10.links import Node
from celeriac.drivers.amqp10.messages import encode
from celeriac.drivers.amqp10.server import Server
from celeriac.model.clock import Clock
from celeriac.model.message import LANES
from celeriac.ports.broker import Lease
from tests.clock import FakeClock
from tests.patience import PATIENCE
from tests.signalling import send

__all__ = ["AMQP10_VARIABLE", "Amqp10Clock", "Double", "die", "empty", "running_double"]

AMQP10_VARIABLE = "CELERIAC_TEST_AMQP10_URL"
QUEUES = ("default", "a", "b", "c", "other", "later", "follow", "fresh", "work", "q", "forbidden")  # of the tests


class Double:
    """The double, in a process of its own (`tests/amqp10_double.py`)."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "tests.amqp10_double"], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.control("reset")

    @property
    def url(self) -> str:
        return f"amqp10://127.0.0.1:{self.port}"

    def control(self, command: str) -> None:
        """Change it: see `tests/amqp10_double.py`."""
        server = Server(self.url, timeout=PATIENCE)
        server.do(lambda: (yield [Item(Node("$control"), encode(command.encode()))]))
        server.close()

    def send(self, number: int) -> None:
        send(self.process.pid, number)

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def running_double() -> Iterator[Double]:
    """Run the double for as long as a block lasts."""
    double = Double()
    try:
        yield double
    finally:
        double.end()


class Amqp10Clock(FakeClock):
    """Time that passes for the double too."""

    def __init__(self, double: Double) -> None:
        super().__init__()
        self._double = double

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._double.control(f"advance {seconds}")


def empty(url: str) -> None:
    """Remove what tests have left on a server, but for its queues, which the journal names as if they were new."""
    broker = Amqp10Broker(Server(url, timeout=PATIENCE), Clock())

    async def remove() -> None:
        topology = broker.transport.topology
        ours = [topology.journal, topology.workers, topology.left, *(topology.dead(queue) for queue in QUEUES)]
        lines = [f"{queue}{lane}{priority}" for queue in QUEUES for lane in ("", "/coroutine")
                 for priority in ("", "/p0", "/p3", "/p7", "/p9")]  # fmt: skip
        async with broker.transport.inspecting() as inspection:
            for address in [*ours, *lines]:
                async with inspection.taking(address, 10_000) as taken:
                    taken.acknowledge([one.tag for one in taken.messages])

    def name_queues() -> Procedure[None]:
        usual = [broker.transport.topology.usual(queue, lane) for queue in QUEUES for lane in LANES]
        yield from writing(broker.transport, [LineMade((line.queue, line.lane, line.priority)) for line in usual])

    broker.complete(broker.transport.learn())
    broker.complete(remove())
    broker.complete(broker.transport.ado(name_queues))
    broker.close()


async def die(lease: Lease) -> None:
    """Let a worker die: its connection ends without a word, and the server notices."""
    assert isinstance(lease, QueueServerLease)
    assert isinstance(lease._transport, Amqp10Transport)
    assert lease._lost is None, lease._lost
    async with lease._transport.inspecting() as inspection:
        before = await inspection.workers()
        lease.connection.abandon()
        while await inspection.workers() >= before:
            await asyncio.sleep(0.01)  # between two looks
