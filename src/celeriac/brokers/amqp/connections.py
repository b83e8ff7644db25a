"""AMQP 0-9-1 connections: of workers, of subscribers, and for inspecting queues."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from pamqp import commands

from celeriac.brokers.amqp.channel_window import ChannelWindow
from celeriac.brokers.amqp.topology import AmqpTopology
from celeriac.brokers.amqp.work_channel import WorkChannel, parted
from celeriac.brokers.queue_server.server_transport import ConnectedInspection, ConnectedWorker, Ended, ServerTransport
from celeriac.brokers.queue_server.transport import QueueMissing, Taken
from celeriac.drivers.amqp.aio import AioConnection, Channel
from celeriac.drivers.amqp.error_translation import ChannelClosed, RightsMissing
from celeriac.drivers.amqp.frames import Content, acknowledge, method
from celeriac.drivers.amqp.server import FRESH_SECONDS
from celeriac.errors import BrokerUnavailable

__all__ = ["AmqpInspection", "AmqpWorkerConnection"]

MOMENT = 0.001  # seconds, in which the server pushes some more
RETURN_SECONDS = 1.0  # for a queue to put back messages that were inspected
MOST_PREFETCH = 65535


class AmqpWorkerConnection(ConnectedWorker[AmqpTopology, AioConnection]):
    """A worker's connection: a channel that consumes, one that counts, one for each channel that is followed."""

    def __init__(self, connection: AioConnection, transport: ServerTransport[Any, AmqpTopology, AioConnection],
                 work: Channel) -> None:  # fmt: skip
        super().__init__(connection, transport)
        self._work = WorkChannel(work, 0)
        self._earlier: dict[int, WorkChannel] = {}  # by number: those that hold messages, and the one that ends
        self._fresh_until = time.monotonic() + FRESH_SECONDS
        self._counting: Channel | None = None  # its calls may fail, which closes it
        self._begun: dict[str, tuple[Channel, asyncio.Future[Any]]] = {}  # by consumer tag: answers to `Basic.Consume`
        self._window = ChannelWindow(self._ask_window) if self._topology.dialect.windows_of_channels else None

    def listen(self, delivered: Callable[[Any], None], cancelled: Callable[[str], None],
               lost: Callable[[], None]) -> None:  # fmt: skip
        def ended(consumer_tag: str) -> None:
            self._begun.pop(consumer_tag, None)
            if self._window is not None:
                self._window.close(consumer_tag)
            cancelled(consumer_tag)

        taken = delivered if self._window is None else partial(self._noted, self._window, delivered)
        self._listen = partial(WorkChannel.listen, delivered=taken, cancelled=ended, failed=self._failed)
        self._listen(self._work)
        self.connection.on_lost = lost

    def _failed(self, error: Exception) -> None:
        if isinstance(error, RightsMissing):
            self.refusal = error
        if self.connection.lost is None:
            self._transport.declared.clear()  # a queue may have been deleted
            self.connection.abandon(f"the server closed its channel: {error}")

    def renew(self, begin_again: Callable[[], None]) -> None:
        if self._transport.server.is_cluster and time.monotonic() >= self._fresh_until:
            self._fresh_until = math.inf
            self.start(self._change_channel(begin_again))

    async def _change_channel(self, begin_again: Callable[[], None]) -> None:
        """Let all consumers begin again in another channel. The one before is closed as soon as it holds nothing."""
        try:
            channel = await self.connection.channel()
        except BrokerUnavailable:  # there are too many
            self._fresh_until = time.monotonic() + FRESH_SECONDS
            return
        before, self._work = self._work, WorkChannel(channel, self._work.number + 1)
        self._earlier[before.number] = before
        self._listen(self._work)
        begin_again()
        for _ in range(2):  # after one answer, none that was cancelled still begins; after two, all of them have ended
            await before.channel.call(commands.Basic.Qos(prefetch_count=1))
        before.is_over = True
        before.close_if_done()
        if before.channel.failed is not None:
            del self._earlier[before.number]
        self._fresh_until = time.monotonic() + FRESH_SECONDS

    # --- Consuming ------------------------------------------------------------------------------------

    def _noted(self, window: ChannelWindow, delivered: Callable[[Any], None], content: Content) -> None:
        window.pushed(content.tag, content.consumer_tag)
        delivered(content)

    def _ask_window(self, size: int) -> None:
        asked = self._work.channel.ask(commands.Basic.Qos(prefetch_count=min(size, MOST_PREFETCH)))
        asked.add_done_callback(_ignore_error)

    def consume(self, address: str, consumer_tag: str, window: int) -> asyncio.Future[Any]:
        if self._window is None:
            self._ask_window(window)
        else:
            self._window.open(consumer_tag, window)
        channel = self._work.channel
        begun = channel.ask(commands.Basic.Consume(queue=address, consumer_tag=consumer_tag))
        self._begun[consumer_tag] = channel, begun
        return begun

    def cancel(self, consumer_tag: str) -> None:
        if self._window is not None:
            self._window.close(consumer_tag)
        # RabbitMQ 3.10 crashes the channel when a consumer is cancelled before the server has confirmed it.
        found = self._begun.pop(consumer_tag, None)
        if found is None:
            return
        channel, begun = found
        if begun.done():
            _cancel(channel, consumer_tag, begun)
        else:
            begun.add_done_callback(lambda begun: _cancel(channel, consumer_tag, begun))

    def acknowledge(self, tags: Sequence[int], oldest: int | None) -> None:
        if not self._earlier:
            self._work.acknowledge(tags, oldest)
        else:  # one by one: those of several channels need not have come in the order of their tags
            for number, some in parted(tags):
                work = self._earlier.get(number, self._work)
                work.acknowledge(some, oldest=0)
                if work.channel.failed is not None:
                    self._earlier.pop(number, None)
        if self._window is not None:
            self._window.settled(tags)

    async def sync(self) -> None:
        # The answer comes after all that was pushed before; a window of the channel stays as it is.
        size = 1 if self._window is None else self._window.size
        question = commands.Basic.Qos(prefetch_count=min(size, MOST_PREFETCH))
        await asyncio.gather(*[work.channel.call(question) for work in self._open()])

    async def count(self, addresses: Sequence[str]) -> list[int]:
        if self._counting is None or self._counting.failed is not None:
            self._counting = await self.connection.channel()
        asked = [self._counting.ask(commands.Queue.Declare(queue=address, passive=True)) for address in addresses]
        try:
            counts = [(await answer).message_count for answer in asked]
        except ChannelClosed as error:
            raise QueueMissing(str(error)) from error
        if self._window is None:
            return counts
        # Also counted: what this worker holds, and what others do.
        return [max(0, count - self._window.held(address)) for count, address in zip(counts, addresses, strict=True)]

    async def stop(self) -> None:
        close = commands.Channel.Close(200, "", 0, 0)
        await asyncio.gather(*[work.channel.call(close) for work in self._open()])

    def _open(self) -> list[WorkChannel]:
        return [*self._earlier.values(), self._work]

    # --- Everything else ------------------------------------------------------------------------------

    async def announce(self) -> None:
        await self.lasting("the queue of its presence", self._announce)

    async def _announce(self, ended: Ended) -> None:
        channel = await self.connection.channel()
        for declaration in self._topology.declare_presence():
            await channel.call(declaration)
        await channel.call(commands.Basic.Consume(queue=self._topology.presence, no_ack=True))
        channel.tell_end(ended)


class _AmqpTaken(Taken):
    def __init__(self, channel: Channel, messages: list[Content]) -> None:
        self.messages = messages
        self.held = len(messages)  # how many go back to the queue
        self._channel = channel

    def acknowledge(self, tags: Sequence[int]) -> None:
        self.held -= len(tags)
        for tag in tags:
            self._channel.tell(acknowledge(self._channel.number, tag, multiple=False))


class AmqpInspection(ConnectedInspection[AmqpTopology, AioConnection]):
    """Inspects queues; each question on a channel of its own, which a failure closes."""

    async def size(self, address: str) -> int:
        return (await self._counts(address))[0]

    async def workers(self) -> int:
        return (await self._counts(self._topology.presence))[1]

    async def _counts(self, address: str) -> tuple[int, int]:
        """Return how many messages are ready in a queue, and how many consumers it has; 0 where there is none."""
        channel = await self._connection.channel()
        try:
            answer = await channel.call(commands.Queue.Declare(queue=address, passive=True))
        except ChannelClosed:
            return 0, 0
        channel.close()
        return answer.message_count, answer.consumer_count

    @asynccontextmanager
    async def taking(self, address: str, limit: int) -> AsyncGenerator[Taken, None]:
        size = min(limit, await self.size(address))
        channel = await self._connection.channel()
        try:
            asked = [channel.ask(commands.Basic.Get(queue=address)) for _ in range(size)]
            messages = [answer for one in asked if isinstance(answer := await one, Content)]
            taken = _AmqpTaken(channel, messages)
            yield taken
            if messages:
                channel.tell(method(channel.number, commands.Basic.Nack(0, multiple=True, requeue=True)))
                await channel.call(commands.Basic.Qos(prefetch_count=0))  # answered after all that was sent before
                await self._wait_for_return(address, taken.held)
        finally:
            channel.close()

    async def _wait_for_return(self, address: str, count: int) -> None:
        """Wait until so many messages are ready again: a quorum queue puts them back after it has answered.

        Otherwise the next inspection would miss some. A worker may take them first, so the wait is bounded.
        """
        deadline = time.monotonic() + RETURN_SECONDS
        while await self.size(address) < count and time.monotonic() < deadline:
            await asyncio.sleep(MOMENT)


def _ignore_error(answer: asyncio.Future[Any]) -> None:
    """Retrieve the error of a call, which the channel's end reports as well."""
    if not answer.cancelled():
        answer.exception()


def _cancel(channel: Channel, consumer_tag: str, begun: asyncio.Future[Any]) -> None:
    if not begun.cancelled() and begun.exception() is None:
        channel.ask(commands.Basic.Cancel(consumer_tag)).add_done_callback(_ignore_error)
