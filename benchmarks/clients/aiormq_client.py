"""aiormq, on which aio-pika is built. `basic_publish` returns the confirm; many are gathered."""

from __future__ import annotations

import asyncio
from typing import Any

import aiormq  # type: ignore[import-not-found]

from benchmarks.clients.base import ACK_EVERY, BODY, DURABLE, PREFETCH, QUEUE, TRANSIENT, WINDOW, AsyncClient, url


class Aiormq(AsyncClient):
    """One connection, one channel with confirms."""

    title = "aiormq"
    packages = ("aiormq", "uvloop")

    async def open(self) -> None:
        self._connection = await aiormq.connect(url())
        self._channel = await self._connection.channel(publisher_confirms=True)

    def publish_each(self, count: int, mode: int = DURABLE) -> None:
        self.run(self._publish_each(count, aiormq.spec.Basic.Properties(delivery_mode=mode)))

    def publish_transient(self, count: int) -> None:
        self.publish_each(count, TRANSIENT)

    async def _publish_each(self, count: int, properties: Any) -> None:
        for _ in range(count):
            await self._channel.basic_publish(BODY, routing_key=QUEUE, properties=properties)

    def publish_pipelined(self, count: int) -> None:
        self.run(self._publish_pipelined(count))

    async def _publish_pipelined(self, count: int) -> None:
        properties = aiormq.spec.Basic.Properties(delivery_mode=DURABLE)
        for start in range(0, count, WINDOW):
            await asyncio.gather(*(self._channel.basic_publish(BODY, routing_key=QUEUE, properties=properties)
                                   for _ in range(min(WINDOW, count - start))))  # fmt: skip

    def consume(self, count: int) -> None:
        self.run(self._consume(count))

    async def _consume(self, count: int) -> None:
        channel, done, end = self._channel, 0, asyncio.Event()

        async def heard(message: Any) -> None:
            nonlocal done
            done += 1
            if not done % ACK_EVERY or done == count:
                await channel.basic_ack(message.delivery.delivery_tag, multiple=True, wait=False)
            if done == count:
                end.set()

        await channel.basic_qos(prefetch_count=PREFETCH)
        await channel.basic_consume(QUEUE, heard)
        await end.wait()


CLIENT = Aiormq
