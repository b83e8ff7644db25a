"""A consumer is our consumer on one line; a lease's consumers let the server push what fits its free slots.

The server pushes as long as fewer messages than the consumer's window are unsettled. So a window of as many as can run
leaves every other message in the broker, for others to start (P9). Quorum queues take a window when the consumer
begins and never later: to change it, the consumer ends the consumer and begins another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from pamqp import commands

from celeriac.brokers.amqp.journal import Journal
from celeriac.brokers.amqp.sender import Sender
from celeriac.brokers.amqp.unacked import Held
from celeriac.drivers.amqp.aio import Channel
from celeriac.drivers.amqp.error_translation import ChannelClosed
from celeriac.drivers.amqp.topology import Line, Topology
from celeriac.ports.broker import Slots

__all__ = ["Consumer", "Consumers"]

log = logging.getLogger("celeriac.amqp")

STEADY_SECONDS = 0.05  # a window is not widened more often, for settlements on their way may make room
MOST_EXPECTED = 64  # messages; who receives does not wait for more to gather
EXACT = 16  # a smaller window is exact; a larger one may be up to twice as wide as needed


class Consumer:
    """A line's consumer on a channel."""

    def __init__(self, channel: Channel, line: Line, queue: str) -> None:
        self.line = line
        self.queue = queue
        self.consumer_tag = ""  # empty: none
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
        return self.window - self.unsettled if self.consumer_tag else 0

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
        if self.consumer_tag and self._begun is not None:
            # RabbitMQ 3.10 crashes the channel when a consumer is cancelled before it is known to have begun.
            cancel = partial(self._cancel, self.consumer_tag)
            if self._begun.done():
                cancel(self._begun)
            else:
                self._begun.add_done_callback(cancel)
            self.consumer_tag = ""
        self.window, self.unsettled = window, 0
        self._changed = time.monotonic()
        if window > 0:
            self._numbers += 1
            self.consumer_tag = f"{self.queue}#{self._numbers}"
            self._channel.ask(commands.Basic.Qos(prefetch_count=min(window, 65535))).add_done_callback(_seen)
            self._begun = self._channel.ask(commands.Basic.Consume(queue=self.queue, consumer_tag=self.consumer_tag))

    def _cancel(self, consumer_tag: str, begun: asyncio.Future[Any]) -> None:
        if not begun.cancelled() and begun.exception() is None:
            self._channel.ask(commands.Basic.Cancel(consumer_tag)).add_done_callback(_seen)

    async def begun(self) -> None:
        """Wait until what was asked for has been heard."""
        if self._begun is not None:
            await asyncio.wait([self._begun])

    def cancelled(self) -> None:
        """Take note that the server has ended the consumer."""
        self.consumer_tag, self.window, self.unsettled = "", 0, 0

    def settled(self, consumer_tag: str) -> None:
        """Take note that something was settled."""
        if consumer_tag == self.consumer_tag:
            self.unsettled -= 1


class Consumers:
    """All consumers of a lease, by line; those whose queues are not wanted for now are closed."""

    def __init__(self, sender: Sender, topology: Topology, journal: Journal, work: Channel, sight: Channel,
                 open_channel: Callable[[], Awaitable[Channel]],
                 call: Callable[[Awaitable[Any]], Awaitable[Any]]) -> None:  # fmt: skip
        self._sender = sender
        self._topology = topology
        self._journal = journal
        self._work = work  # what consumes
        self._sight = sight  # what counts, and may fail
        self._open_channel = open_channel
        self._call = call  # awaits an answer; a lost connection ends the lease
        self._consumers: dict[Line, Consumer] = {}
        self._source: dict[str, Consumer] = {}  # by consumer
        self._turn = 0  # which queue is served first

    def __iter__(self) -> Iterator[Consumer]:
        return iter(self._consumers.values())

    def clear(self) -> None:
        """Forget all: the connection is gone."""
        self._consumers.clear()
        self._source.clear()

    def of(self, line: Line) -> Consumer | None:
        """Return the consumer of a line, if there is one."""
        return self._consumers.get(line)

    def source(self, consumer_tag: str) -> Consumer | None:
        """Return the consumer that a consumer is, or was."""
        if consumer_tag not in self._source:
            queue, _, _ = consumer_tag.rpartition("#")
            for consumer in self._consumers.values():
                if consumer.queue == queue:
                    self._source[consumer_tag] = consumer
        return self._source.get(consumer_tag)

    async def fit(self, queues: Sequence[str], slots: Slots, counting: bool) -> tuple[int, float]:
        """Open and close consumers, so that the server pushes what fits into the slots.

        Returns how many are on their way to us (where that was counted), and in how many seconds to come again.
        """
        wanted = self._turned([queue for queue in queues if queue not in self._journal.paused])
        lines = {lane: self._lines(wanted, lane) for lane, free in slots.items() if free > 0}
        fresh = [line for lane in lines.values() for line in lane if line not in self._sender.server.declared]
        if fresh:
            await self._sender.server.ado(lambda: self._sender.declare(fresh, self._journal.lines))
        for line, consumer in self._consumers.items():
            if consumer.consumer_tag and (line.queue not in wanted):
                consumer.set(0)
        expected, pause = 0, 0.0
        for lane, its in lines.items():
            counts = await self._count(its) if counting or len(its) > 1 or not self._consumed(its) else []
            for number, (line, free) in enumerate(zip(its, _shares(its, counts, slots[lane]), strict=True)):
                consumer = self._at(line)
                pause = max(pause, consumer.fit(free, waiting=bool(counts) and counts[number] > 0))
                if counting:
                    expected += min(counts[number], consumer.room) + len(consumer.buffer)
        return min(expected, MOST_EXPECTED), pause

    def _turned(self, queues: list[str]) -> list[str]:
        """Let another queue be the first each time, as the port says."""
        self._turn = (self._turn + 1) % max(1, len(queues))
        return queues[self._turn :] + queues[: self._turn]

    def _lines(self, queues: Sequence[str], lane: str) -> list[Line]:
        """Return the lines of a lane, in the order in which they are served."""
        known = {self._topology.usual(queue, lane) for queue in queues}
        known |= {line for line in self._journal.lines if line.lane == lane and line.queue in queues
                  and (line.priority is not None) == self._topology.quorum}  # fmt: skip
        return sorted(known, key=lambda line: (-(line.priority or 0), queues.index(line.queue)))

    def _at(self, line: Line) -> Consumer:
        if line not in self._consumers:
            self._consumers[line] = Consumer(self._work, line, self._topology.name(line))
        return self._consumers[line]

    def _consumed(self, lines: Sequence[Line]) -> bool:
        """Say whether we consume from all; of those alone the server says so when they are deleted."""
        return all((consumer := self._consumers.get(line)) is not None and consumer.consumer_tag for line in lines)

    async def _count(self, lines: Sequence[Line]) -> list[int]:
        """Return how many messages wait in each line; those that were deleted are made again."""
        asked = [
            self._sight.ask(commands.Queue.Declare(queue=self._topology.name(line), passive=True)) for line in lines
        ]
        try:
            return [(await self._call(one)).message_count for one in asked]
        except ChannelClosed as error:  # a queue was deleted
            log.warning("%s", error)
            self._sender.server.declared.clear()
            self._sight = await self._call(self._open_channel())
            await self._sender.server.ado(lambda: self._sender.declare(lines, self._journal.lines))
            return [0] * len(lines)


def _shares(lines: Sequence[Line], counts: Sequence[int], free: int) -> list[int]:
    """Divide free slots among lines: of one priority evenly, then the next; what is left over, waits at each line."""
    if len(lines) == 1 or not counts:
        return [free] * len(lines)
    shares = [0] * len(lines)
    for _, group in groupby(range(len(lines)), key=lambda number: lines[number].priority):
        busy = [number for number in group if counts[number]]
        while busy and free:
            part = max(1, free // len(busy))
            for number in busy:
                more = min(part, counts[number] - shares[number], free)
                shares[number] += more
                free -= more
            busy = [number for number in busy if shares[number] < counts[number]]
    return [share or min(1, free) for share in shares]


def _seen(answer: asyncio.Future[Any]) -> None:
    """Look at how a call ended; a lost connection is told to the lease anyway."""
    if not answer.cancelled():
        answer.exception()
