"""What one event loop has open on a Redis server; made and kept by `Server`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from celeriac.drivers.redis.pubsub import Subscriber
from celeriac.drivers.redis.wire import Wire

__all__ = ["Session"]


class Session:
    """A connection for commands and a `Subscriber`. Closed when the loop shuts down its asynchronous generators."""

    def __init__(self, subscriber: Subscriber) -> None:
        self.loop = asyncio.get_running_loop()
        self.wire: Wire | None = None
        self.connections = 0  # how many connections for commands there have been
        self.connecting = asyncio.Lock()
        self.subscriber = subscriber
        self._end = self._until_the_end()
        with contextlib.suppress(StopIteration):
            self._end.asend(None).send(None)  # starts the generator, so that the loop shuts it down

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.close()

    def open_wire(self) -> Wire | None:
        """Return the connection for commands if it is open."""
        wire = self.wire
        return wire if wire is not None and wire.open else None

    def close(self) -> None:
        """Close the connections."""
        self.subscriber.close()
        if self.wire is not None:
            self.wire.close()
            self.wire = None
