"""ChildReader broadcasts: an exclusive queue, bound to a channel's name; made anew when the connection was lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator

from pamqp import commands

from celeriac.drivers.amqp.aio import AioConnection
from celeriac.drivers.amqp.error_translation import silent
from celeriac.drivers.amqp.frames import Content
from celeriac.drivers.amqp.server import Server
from celeriac.errors import BrokerError

__all__ = ["Listener"]

PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)  # seconds, between tries to come back


class Listener:
    """Listens on a channel."""

    def __init__(self, server: Server, channel: str) -> None:
        self.channel = channel
        self._server = server
        self._news: deque[bytes] = deque()
        self._some = asyncio.Event()
        self._connection: AioConnection | None = None

    async def open(self) -> None:
        """Begin to listen. Raises `BrokerUnavailable`."""
        topology = await self._server.learn()
        connection = await self._server.open(60.0, f"celeriac listens to {self.channel}")
        try:
            async with asyncio.timeout(self._server.timeout):
                opened = await connection.channel()
                opened.on_content = self._take
                for method in topology.declare_channels():
                    await opened.call(method)
                made = await opened.call(commands.Queue.Declare(exclusive=True))
                await opened.call(commands.Queue.Bind(queue=made.queue, exchange=topology.channels,
                                                       routing_key=self.channel))  # fmt: skip
                await opened.call(commands.Basic.Consume(queue=made.queue, no_ack=True))
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):
                raise silent(error, self._server.address, self._server.timeout) from error
            raise
        connection.on_lost = self._some.set
        self._connection = connection

    def _take(self, content: Content) -> None:
        self._news.append(content.body)
        self._some.set()

    async def listening(self) -> AsyncGenerator[bytes, None]:
        """Yield what is heard, until closed."""
        try:
            while True:
                while self._news:
                    yield self._news.popleft()
                self._some.clear()
                if self._connection is not None and self._connection.lost is None:
                    await self._some.wait()
                else:
                    await self._come_back()
        finally:
            if self._connection is not None:
                self._connection.close()

    async def _come_back(self) -> None:
        tries = 0
        while True:
            with contextlib.suppress(BrokerError):
                await self.open()
                return
            await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1
