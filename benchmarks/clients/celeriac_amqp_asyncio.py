"""Our driver's connection for event loops."""

from __future__ import annotations

import asyncio

from pamqp import commands

from benchmarks.clients.base import ACK_EVERY, PREFETCH, QUEUE, WINDOW, AsyncClient, url
from benchmarks.clients.celeriac_amqp import PUBLICATION, SECONDS, TRANSIENT_PUBLICATION
from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.aio import AioConnection
from celeriac.drivers.amqp.frames import Content, Publication, acknowledge


class CeleriacAmqpAsyncio(AsyncClient):
    """One connection, one channel with confirms."""

    title = "Celeriac, asyncio"
    packages = ("celeriac", "pamqp", "uvloop")

    async def open(self) -> None:
        self._connection = await AioConnection.connect(Address.of(url()), SECONDS)
        self._channel = await self._connection.channel(confirms=True)

    def publish_each(self, count: int) -> None:
        self.run(self._publish(count, 1, PUBLICATION))

    def publish_transient(self, count: int) -> None:
        self.run(self._publish(count, 1, TRANSIENT_PUBLICATION))

    def publish_pipelined(self, count: int) -> None:
        self.run(self._publish(count, WINDOW, PUBLICATION))

    async def _publish(self, count: int, at_once: int, publication: Publication) -> None:
        for start in range(0, count, at_once):
            await self._channel.publish([publication] * min(at_once, count - start))

    def consume(self, count: int) -> None:
        self.run(self._consume(count))

    async def _consume(self, count: int) -> None:
        channel, done, end = self._channel, 0, asyncio.Event()

        def heard(content: Content) -> None:
            nonlocal done
            done += 1
            if not done % ACK_EVERY or done == count:
                channel.tell(acknowledge(channel.number, content.tag, multiple=True))
            if done == count:
                end.set()

        channel.on_content = heard
        await channel.call(commands.Basic.Qos(prefetch_count=PREFETCH))
        await channel.call(commands.Basic.Consume(queue=QUEUE))
        await end.wait()


CLIENT = CeleriacAmqpAsyncio
