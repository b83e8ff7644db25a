"""The connection and channels of one event loop to a server: publishing and calling, without disturbing each other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from celeriac.drivers.amqp.aio import AioConnection, Channel
from celeriac.drivers.amqp.error_translation import Refused
from celeriac.drivers.amqp.frames import Publication
from celeriac.drivers.loop_session import LoopSession
from celeriac.drivers.server_errors import ConnectionLost

__all__ = ["Session"]


class Session(LoopSession[AioConnection]):
    """A loop's connections, and the channels that its callers share."""

    def __init__(self) -> None:
        super().__init__()
        self._publishing: Channel | None = None
        self._alone: Channel | None = None  # to publish a batch again, one caller after the other
        self._alone_lock = asyncio.Lock()
        self._calling: Channel | None = None  # for calls, which may fail, and so close the channel
        self._calling_lock = asyncio.Lock()
        self._last_call: asyncio.Future[Any] | None = None

    async def publish(self, items: Sequence[Publication]) -> list[Publication]:
        """Publish, on a channel that all callers share; return what could not be routed."""
        async with self.opening:
            channel = self._publishing
            if channel is None or channel.failed is not None:
                channel = self._publishing = await self._open(confirms=True)
        try:
            return await channel.publish(items)
        except Refused:
            # If a channel first publishes to a quorum queue between the failure of its leader and the election, then
            # RabbitMQ 3.10 refuses all that follows on this channel too.
            if self._publishing is channel:
                self._publishing = None
            raise
        finally:
            if channel is not self._publishing and not channel.publishing:
                channel.close()

    async def publish_alone(self, items: Sequence[Publication]) -> list[Publication]:
        """Publish while no other caller does on this channel, so that a refusal concerns these publications."""
        async with self._alone_lock:
            if self._alone is None or self._alone.failed is not None:
                self._alone = await self._open(confirms=True)
            try:
                return await self._alone.publish(items)
            except Refused:
                self._alone.close()
                raise

    async def call(self, what: Any) -> Any:
        """Call a method while no other call is under way on this channel: a call that fails closes the channel.

        A cancelled caller's call is still under way.
        """
        async with self._calling_lock:
            if self._last_call is not None:
                await asyncio.wait([self._last_call])
            if self._calling is None or self._calling.failed is not None:
                self._calling = await self._open()
            self._last_call = self._calling.ask(what)
            return await asyncio.shield(self._last_call)

    async def _open(self, confirms: bool = False) -> Channel:
        if self.connection is None:  # another caller has found it lost
            raise ConnectionLost("the connection is being opened again")
        return await self.connection.channel(confirms)

    def close(self) -> None:
        """Close all connections of the loop, and forget their channels."""
        super().close()
        self.forget()

    def forget(self) -> None:
        """Forget the connection and its channels."""
        self.connection = self._publishing = self._alone = self._calling = None
