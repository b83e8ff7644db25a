"""A tap: our consumer on one line, and how much the server may push through it.

The server pushes as long as fewer messages than the tap's window are unsettled. So a window of as many as can run
leaves every other message in the broker, for others to start (P9). Quorum queues take a window when the consumer
begins and never later: to change it, the tap ends the consumer and begins another.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import partial
from typing import Any

from pamqp import commands

from celeriac.brokers.amqp.hand import Held
from celeriac.drivers.amqp.aio import Channel
from celeriac.drivers.amqp.topology import Line

__all__ = ["Tap"]

STEADY_SECONDS = 0.05  # a window is not widened more often, for settlements on their way may make room
EXACT = 16  # a smaller window is exact; a larger one may be up to twice as wide as needed


class Tap:
    """A line's consumer on a channel."""

    def __init__(self, channel: Channel, line: Line, queue: str) -> None:
        self.line = line
        self.queue = queue
        self.consumer = ""  # empty: none
        self.window = 0
        self.unsettled = 0  # of what came through this consumer
        self.buffer: deque[Held] = deque()  # of what came through any of ours, and was not received yet
        self._channel = channel
        self._begun: asyncio.Future[Any] | None = None  # the server's word that it has the consumer
        self._numbers = 0
        self._changed = 0.0

    @property
    def room(self) -> int:
        """How many the server may push now."""
        return self.window - self.unsettled if self.consumer else 0

    def fit(self, free: int, waiting: bool) -> float:
        """Let the server push about `free` messages; return in how many seconds to ask again, if it is too soon.

        It is not too soon for a narrow window while messages are known to be waiting.
        """
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
        """End the consumer; begin another, if there is a window for it."""
        if self.consumer and self._begun is not None:
            # RabbitMQ 3.10 crashes the channel when a consumer is cancelled before it is known to have begun.
            cancel = partial(self._cancel, self.consumer)
            if self._begun.done():
                cancel(self._begun)
            else:
                self._begun.add_done_callback(cancel)
            self.consumer = ""
        self.window, self.unsettled = window, 0
        self._changed = time.monotonic()
        if window > 0:
            self._numbers += 1
            self.consumer = f"{self.queue}#{self._numbers}"
            self._channel.ask(commands.Basic.Qos(prefetch_count=min(window, 65535))).add_done_callback(_seen)
            self._begun = self._channel.ask(commands.Basic.Consume(queue=self.queue, consumer_tag=self.consumer))

    def _cancel(self, consumer: str, begun: asyncio.Future[Any]) -> None:
        if not begun.cancelled() and begun.exception() is None:
            self._channel.ask(commands.Basic.Cancel(consumer)).add_done_callback(_seen)

    async def begun(self) -> None:
        """Wait until what was asked for has been heard."""
        if self._begun is not None:
            await asyncio.wait([self._begun])

    def cancelled(self) -> None:
        """Take note that the server has ended the consumer."""
        self.consumer, self.window, self.unsettled = "", 0, 0

    def settled(self, consumer: str) -> None:
        """Take note that something was settled."""
        if consumer == self.consumer:
            self.unsettled -= 1


def _seen(answer: asyncio.Future[Any]) -> None:
    """Look at how a call ended; a lost connection is told to the lease anyway."""
    if not answer.cancelled():
        answer.exception()
