"""Receives what is broadcast on a channel, and subscribes again after the connection was lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator

from celeriac.brokers.queue_server.transport import Subscription, Transport
from celeriac.errors import BrokerError
from celeriac.ports.broker import MISSED

__all__ = ["Listener"]

PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)  # seconds, between attempts to subscribe again


class Listener:
    """A subscriber of a channel."""

    def __init__(self, transport: Transport, channel: str) -> None:
        self.channel = channel
        self._transport = transport
        self._payloads: deque[bytes] = deque()
        self._changed = asyncio.Event()
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
        attempts = 0
        while True:
            with contextlib.suppress(BrokerError):
                await self.open()
                self._payloads.append(MISSED)
                return
            await asyncio.sleep(PAUSES[min(attempts, len(PAUSES) - 1)])
            attempts += 1
