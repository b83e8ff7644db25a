"""Receives what is broadcast on a channel, and subscribes again after the connection was lost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from celeriac.brokers.queue_server.transport import Subscription, Transport
from celeriac.errors import BrokerError
from celeriac.model.pauses import Pauses
from celeriac.ports.broker import MISSED

__all__ = ["Listener"]


class Listener:
    """A subscriber of a channel."""

    def __init__(self, transport: Transport, channel: str) -> None:
        self.channel = channel
        self._transport = transport
        self._payloads: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._pauses = Pauses()
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Subscribe. Raises `BrokerUnavailable`."""
        self._subscription = await self._transport.subscribe(self.channel, self._take, self._changed.set)

    def _take(self, payload: bytes) -> None:
        self._payloads.append(payload)
        self._changed.set()

    async def listening(self) -> AsyncGenerator[bytes, None]:
        """Yield the payloads, until closed."""
        try:
            while True:
                while self._payloads:
                    yield self._payloads.popleft()
                self._changed.clear()
                if self._subscription is not None and not self._subscription.lost:
                    await self._changed.wait()
                else:
                    await self._open_again()
        finally:
            if self._subscription is not None:
                self._subscription.close()

    async def _open_again(self) -> None:
        await asyncio.sleep(self._pauses.next())
        try:
            await self.open()
        except BrokerError:
            return  # and it is called again
        self._payloads.append(MISSED)
