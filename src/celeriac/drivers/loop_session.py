"""What one event loop has open on a server whose drivers keep connections of their own: AMQP 0-9-1, AMQP 1.0, STOMP."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator
from typing import Generic, Protocol, TypeVar

__all__ = ["LoopSession"]


class _Closable(Protocol):
    """A connection."""

    def close(self) -> None:
        """Close it."""


Connection = TypeVar("Connection", bound=_Closable)


class LoopSession(Generic[Connection]):
    """A loop's connections; closed when it shuts down its asynchronous generators, at its end."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.connection: Connection | None = None
        self.opening = asyncio.Lock()
        self.others: weakref.WeakSet[Connection] = weakref.WeakSet()  # of workers, subscribers and so on
        self.end = self._until_the_end()

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Close all connections of the loop."""
        for connection in [*self.others, *([self.connection] if self.connection is not None else [])]:
            connection.close()
        self.connection = None
