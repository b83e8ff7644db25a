"""`python -m benchmarks.amqp10 [messages]`: AMQP 1.0 on RabbitMQ, beside a bare loop of proton's with the same batches.

Both drain a queue of 200-byte messages with a credit of 500, and accept each; the broker reads and settles deliveries
besides. Prints messages per second. `CELERIAC_BENCH_AMQP10_URL` names a RabbitMQ with its plugin.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

from proton import Terminus
from proton.handlers import MessagingHandler
from proton.reactor import Container, LinkOption

from celeriac.brokers.amqp10 import Amqp10Broker
from celeriac.drivers.amqp10.server import Server
from celeriac.model.clock import Clock
from celeriac.model.message import PLAIN, Message, new_id
from celeriac.ports.broker import Settlement
from celeriac.ports.operations import WorkerInfo

QUEUE = "bench"
CREDIT = 500
BODY = b"x" * 120  # a message of some 200 bytes with it
VARIABLE = "CELERIAC_BENCH_AMQP10_URL"


class Durable(LinkOption):
    """As the broker has declared the queue."""

    def apply(self, link: Any) -> None:
        link.source.durability = Terminus.DELIVERIES


class Drain(MessagingHandler):
    """Proton's own loop."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__(prefetch=0, auto_accept=False)
        self.url = url.replace("amqp10://", "amqp://")
        self.left = number
        self.credit = 0

    def on_start(self, event: Any) -> None:
        connection = event.container.connect(self.url, allowed_mechs="PLAIN")
        event.container.create_receiver(connection, f"/queue/{QUEUE}", options=Durable()).flow(CREDIT)
        self.began = time.perf_counter()

    def on_message(self, event: Any) -> None:
        self.accept(event.delivery)
        self.left -= 1
        self.credit += 1
        if self.credit == CREDIT // 2:
            event.receiver.flow(self.credit)
            self.credit = 0
        if not self.left:
            self.took = time.perf_counter() - self.began
            event.connection.close()


async def ours(url: str, number: int, draining: bool = True) -> tuple[float, float]:
    """Return how many messages a second the broker publishes, and how many it drains."""
    broker = Amqp10Broker(Server(url), Clock())
    messages = [Message(id=new_id(), task="t", queue=QUEUE, body=BODY) for _ in range(number)]
    await broker.apublish(messages[:1])
    began = time.perf_counter()
    for start in range(1, number, CREDIT):
        await broker.apublish(messages[start : start + CREDIT])
    published = time.perf_counter() - began
    if not draining:
        broker.server.close()
        return number / published, 0.0
    lease = await broker.lease(WorkerInfo(name="bench"), 60.0, 3)
    got, began = 0, time.perf_counter()
    while got < number:
        deliveries = await lease.receive([QUEUE], {PLAIN: CREDIT}, 5.0)
        await lease.settle([Settlement(delivery=delivery) for delivery in deliveries])
        got += len(deliveries)
    drained = time.perf_counter() - began
    await lease.end()
    broker.server.close()
    return number / published, number / drained


def main(number: int) -> None:
    url = os.environ[VARIABLE]
    asyncio.run(ours(url, 500))
    for _ in range(3):
        published, drained = asyncio.run(ours(url, number))
        asyncio.run(ours(url, number, draining=False))
        drain = Drain(url, number)
        Container(drain).run()
        print(f"publish {published:8,.0f}/s;   drain {drained:8,.0f}/s, proton {number / drain.took:8,.0f}/s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
