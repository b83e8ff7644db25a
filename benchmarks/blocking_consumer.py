"""The driver's blocking connection of AMQP 0-9-1, which only publishes, as one that consumes too."""

from __future__ import annotations

import time
from collections import deque

from celeriac.drivers.amqp.blocking import Connection
from celeriac.drivers.amqp.frames import Content, Event, Parser

__all__ = ["BlockingConsumer"]


class BlockingConsumer(Connection):
    """A connection that keeps what is delivered."""

    def begin(self, ask: bool = True) -> None:
        super().begin(ask)
        self._parser = self._deliveries = _Deliveries()

    def hear(self, seconds: float) -> Content:
        """Return the next delivery. Raises `TimeoutError`."""
        self._deadline = time.monotonic() + seconds
        while not self._deliveries.kept:
            self.take(self._receive())
        return self._deliveries.kept.popleft()

    def send(self, data: bytes) -> None:
        """Send frames that have no answer."""
        self._write(data)


class _Deliveries(Parser):
    def __init__(self) -> None:
        super().__init__()
        self.kept: deque[Content] = deque()

    def feed(self, data: bytes) -> list[Event]:
        others: list[Event] = []
        for event in super().feed(data):
            if isinstance(event, Content) and not event.returned:
                self.kept.append(event)
            else:
                others.append(event)
        return others
