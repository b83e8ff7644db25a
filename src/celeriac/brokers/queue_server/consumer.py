"""A consumer: a worker's subscription to one line, with a window of messages that the server may push.

The server pushes while fewer messages than the consumer's window are unsettled. So a window as large as the free slots
leaves every other message in the broker, for other workers to start (P9). Some servers accept a window only when a
consumer begins: to change it, end the consumer and begin another.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from celeriac.brokers.queue_server.topology import Line
from celeriac.brokers.queue_server.transport import WorkerConnection
from celeriac.model.pauses import Pauses
from celeriac.ports.broker import Delivery

__all__ = ["Consumer", "Held"]

STEADY_SECONDS = 0.05  # between two widenings of a window: settlements on their way may make room meanwhile
EXACT = 16  # a smaller window is exact; a larger one may be up to twice as wide as needed


class Held:
    """A delivery that is not settled yet."""

    __slots__ = ("again", "consumer", "consumer_tag", "count", "delivery", "received_at", "tag")

    def __init__(self, tag: int, consumer: Consumer, consumer_tag: str, delivery: Delivery, count: int, again: bool,
                 received_at: float) -> None:  # fmt: skip
        self.tag = tag
        self.consumer = consumer
        self.consumer_tag = consumer_tag
        self.delivery = delivery
        self.count = count  # deliveries before this one
        self.again = again
        self.received_at = received_at  # by the monotonic clock


class Consumer:
    """A line's consumer. Its tag is new each time that it begins: `address#number`."""

    def __init__(self, connection: WorkerConnection, line: Line, address: str) -> None:
        self.line = line
        self.address = address
        self.tag = ""  # empty: it has ended
        self.window = 0
        self.unsettled = 0  # of the messages that were pushed to this tag
        self.buffer: deque[Held] = deque()  # pushed to any of its tags, and not received yet
        self._connection = connection
        self._begun: asyncio.Future[Any] | None = None
        self._numbers = 0
        self._changed = 0.0
        self._pauses = Pauses()
        self._again_at = 0.0  # when it may begin again that the server has ended

    @property
    def room(self) -> int:
        """How many messages the server may push now."""
        return self.window - self.unsettled if self.tag else 0

    def fit(self, free: int, waiting: bool) -> float:
        """Let the server push about `free` messages; return in how many seconds to call again, if it is too soon.

        A narrow window is widened at once while messages are known to be waiting.
        """
        if not self.tag and (left := self._again_at - time.monotonic()) > 0:
            return left
        room = self.room
        if room > free and (free < EXACT or room > 2 * free):
            self.set(free)
        elif room < free and (room == 0 or 2 * room < free):
            left = self._changed + STEADY_SECONDS - time.monotonic()
            if left > 0 and self.unsettled and not (waiting and self.window < EXACT):
                return left
            self.set(free)
        return 0.0

    def set(self, window: int) -> None:
        """End the consumer, and begin another if the window is not 0."""
        if self.tag:
            self._connection.cancel(self.tag)
            self.tag = ""
        self.window, self.unsettled = window, 0
        self._changed = time.monotonic()
        if window > 0:
            self._numbers += 1
            self.tag = f"{self.address}#{self._numbers}"
            self._begun = self._connection.consume(self.address, self.tag, window)

    async def begun(self) -> None:
        """Wait until the server has answered the last request to begin."""
        if self._begun is not None:
            await asyncio.wait([self._begun])

    def cancelled(self) -> None:
        """Record that the server has ended the consumer. It may begin again after a pause."""
        self._again_at = time.monotonic() + self._pauses.next()
        self.tag, self.window, self.unsettled = "", 0, 0

    def settled(self, tag: str) -> None:
        """Record that a message was settled which was pushed to this tag."""
        if tag == self.tag:
            self.unsettled -= 1
