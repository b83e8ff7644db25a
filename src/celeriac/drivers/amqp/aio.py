"""A connection for an event loop, with any number of channels. It sends heartbeats by itself."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pamqp import commands

from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.confirms import Confirms
from celeriac.drivers.amqp.error_translation import NoConfirms, Refused, channel_closed, ended
from celeriac.drivers.amqp.frames import (
    HEARTBEAT,
    Confirmed,
    Content,
    Event,
    Method,
    Parser,
    Publication,
    method,
    publish,
)
from celeriac.drivers.amqp.opening import Facts, opening
from celeriac.drivers.hosts import Host, Hosts
from celeriac.drivers.loop_connection import Beats, LoopConnection
from celeriac.drivers.server_errors import ConnectionLost
from celeriac.errors import BrokerUnavailable

__all__ = ["AioConnection", "Channel"]

WINDOW = 1000  # publications that may wait for their confirms


class AioConnection(LoopConnection):
    """A connection of the running event loop. Made by `connect`."""

    address: Address
    facts: Facts  # known when the connection is open

    def __init__(self, address: Address, hosts: Hosts, host: Host, silence: float | None) -> None:
        super().__init__(address, hosts, host)
        self._silence = silence
        self._answer_timer: asyncio.TimerHandle | None = None  # while answers are waited for, unless silence is allowed
        self.blocked = ""  # why the server accepts no messages at present
        self._parser = Parser()
        self._handshake: asyncio.Queue[Event | None] | None = asyncio.Queue()  # while the connection is opened
        self._channels: dict[int, Channel] = {}
        self._numbers = 0
        self._free: list[int] = []  # numbers of channels that were closed

    @classmethod
    async def connect(cls, address: Address, timeout: float, heartbeat: float = 60.0, name: str = "celeriac",
                      hosts: Hosts | None = None, silence: float | None = None) -> AioConnection:  # fmt: skip
        """Return a connection to the first host that answers. Raises `OSError` or `BrokerUnavailable`.

        `silence`: the longest pause (seconds) in answers, after which the connection is lost.
        """
        hosts = hosts or Hosts(address.hosts)

        async def opened(host: Host) -> AioConnection:
            try:
                return await cls(address, hosts, host, silence)._open(heartbeat, name)
            except NoConfirms:
                return await cls(address, hosts, host, silence)._open(heartbeat, name, ask=False)

        return await hosts.first(timeout, opened)

    async def _open(self, heartbeat: float, name: str, ask: bool = True) -> AioConnection:
        await self.reach()
        try:
            await self._shake_hands(max(1, int(heartbeat)), name, ask)
        except BaseException:
            self.abandon()
            raise
        return self

    async def _shake_hands(self, heartbeat: int, name: str, ask: bool) -> None:
        steps = opening(self.address, heartbeat, name, ask)
        data = next(steps)
        assert self._handshake is not None
        while True:
            self.write(data)
            event = await self._handshake.get()
            if event is None:
                raise self.lost or ConnectionLost("the server closed the connection")
            try:
                data = steps.send(event)
            except StopIteration as end:
                self.facts = end.value
                break
        self._handshake = None
        if interval := self.facts.heartbeat:
            # The server sends a heartbeat after each half of the interval. Where there are other nodes, one that has
            # left out two is left.
            silence = (1.25 if len(self.address.hosts) > 1 else 2) * interval
            self._heartbeat = self._loop.call_later(
                interval / 2, self.keep_alive, Beats(interval / 2, interval / 2 - 0.1, silence, HEARTBEAT)
            )

    async def channel(self, confirms: bool = False) -> Channel:
        """Open a channel. Raises `BrokerUnavailable` if the server allows no more of them."""
        if self._free:
            number = self._free.pop()
        elif self._numbers < self.facts.channel_max:
            number = self._numbers = self._numbers + 1
        else:
            dialect = self.facts.dialect
            raise BrokerUnavailable(f"{dialect.product} at {self.address} allows {self.facts.channel_max} channels on "
                                    "a connection, and all are in use. Raise `channel_max`"
                                    f"{dialect.advice(' in rabbitmq.conf')}, or consume from fewer queues.")
        channel = self._channels[number] = Channel(self, number)
        await channel.call(commands.Channel.Open())
        if confirms and self.facts.confirms:
            await channel.call(commands.Confirm.Select())
            channel.confirming = True
        return channel

    def forget(self, channel: Channel) -> None:
        """Forget a channel that is closed; its number can be used again."""
        if self._channels.get(channel.number) is channel:
            del self._channels[channel.number]
            self._free.append(channel.number)

    # --- Called by the event loop ---------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Pass each event to its channel."""
        self.received_at = time.monotonic()
        for event in self._parser.feed(data):
            channel = self._channels.get(event.channel)
            if self._handshake is not None:
                self._handshake.put_nowait(event)
            elif isinstance(event, Content):
                if channel is not None:
                    channel.take(event)
            elif isinstance(event, Confirmed):
                if channel is not None:
                    channel.confirms.confirmed(event)
            elif event.channel == 0:
                self._handle(event)
            elif channel is not None:
                channel.handle(event.frame)

    def _handle(self, event: Method) -> None:
        if isinstance(event.frame, commands.Connection.Blocked):
            self.blocked = event.frame.reason
        elif isinstance(event.frame, commands.Connection.Unblocked):
            self.blocked = ""
        elif isinstance(event.frame, commands.Connection.Close):
            self.write(method(0, commands.Connection.CloseOk()))
            self.lose(ended(event.frame))

    def farewell(self) -> bytes:
        return method(0, commands.Connection.Close(200, "", 0, 0))

    def ended(self, error: Exception) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
        if self._handshake is not None:
            self._handshake.put_nowait(None)
        for channel in list(self._channels.values()):
            channel.fail(error)
        self._channels.clear()

    def blocked_by(self) -> str:
        return self.blocked

    def expect_answer(self) -> None:
        """See to it that the connection is lost if the server owes an answer and is silent for too long."""
        if self._silence is not None and self._answer_timer is None:
            self._answer_timer = self._loop.call_later(self._silence, self._check_answers, time.monotonic())

    def _check_answers(self, since: float) -> None:
        self._answer_timer = None
        if not any(channel.waiting for channel in self._channels.values()):
            return
        assert self._silence is not None
        if self.received_at > since or self.blocked:
            self.expect_answer()
        else:
            self.fall_silent(f"it did not answer for {self._silence:.1f} s")

    # --- For channels ---------------------------------------------------------------------------------

    async def writable(self) -> None:
        """Wait until the server reads what was sent before."""
        if not self._writable.is_set():
            await self._writable.wait()


class Channel:
    """A channel: calls, which are answered in order; publications, which are confirmed; deliveries to `on_content`."""

    def __init__(self, connection: AioConnection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.confirms = Confirms(connection.facts.dialect.refuses_unroutable)
        self.confirming = False
        self.failed: Exception | None = None
        self.on_content: Callable[[Content], None] | None = None
        self.on_cancel: Callable[[str], None] | None = None
        self.on_failure: Callable[[Exception], None] | None = None
        self._calls: deque[asyncio.Future[Any]] = deque()
        self._batches: set[asyncio.Future[None]] = set()
        self._closing = False  # by this process: the number is free when the server has confirmed it

    async def call(self, what: Any) -> Any:
        """Call a method, and return its answer."""
        return await self.ask(what)

    def ask(self, what: Any) -> asyncio.Future[Any]:
        """Call a method; the future is its answer."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.failed is not None or self.connection.lost is not None:
            future.set_exception(self.failed or self.connection.lost or ConnectionLost())
            return future
        self._closing = self._closing or isinstance(what, commands.Channel.Close)
        self._calls.append(future)
        self.connection.write(method(self.number, what))
        self.connection.expect_answer()
        return future

    def tell(self, data: bytes) -> None:
        """Send frames that have no answer."""
        if self.failed is None:
            self.connection.write(data)

    def tell_end(self, ended: Callable[[object], None]) -> None:
        """Call `ended`, with the reason, when the server ends a consumer or the channel, or the connection is lost."""

        def cancelled(_: str) -> None:
            self.close()
            ended("its queue was deleted, or the queue's node has failed")

        self.on_cancel = cancelled
        self.on_failure = ended

    @property
    def publishing(self) -> bool:
        """Whether publications wait for their confirms."""
        return bool(self._batches)

    @property
    def waiting(self) -> bool:
        """Whether the server owes an answer."""
        return bool(self._calls or self._batches)

    async def publish(self, items: Sequence[Publication]) -> list[Publication]:
        """Publish, and wait for all confirms; return what could not be routed."""
        returned: list[Publication] = []
        frame_max = self.connection.facts.frame_max
        for start in range(0, len(items), WINDOW):
            part = items[start : start + WINDOW]
            await self.connection.writable()
            if self.failed is not None or self.connection.lost is not None:
                raise self.connection.lost or ConnectionLost("another caller's message closed the channel")
            data = b"".join([publish(self.number, item, frame_max) for item in part])
            if not self.confirming:
                self.connection.write(data)
                continue
            confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            batch = self.confirms.sent(part, lambda it=confirmed: None if it.done() else it.set_result(None))  # type: ignore[misc]
            self.connection.write(data)
            self._batches.add(confirmed)
            self.connection.expect_answer()
            try:
                await confirmed
            finally:
                self._batches.discard(confirmed)
            returned += batch.returned
            if batch.refused:
                left = [*returned, *batch.refused, *items[start + len(part) :]]
                raise Refused(len(batch.refused), len(part), left, self.connection.facts.dialect)
        return returned

    # --- From the connection --------------------------------------------------------------------------

    def take(self, content: Content) -> None:
        """Pass on a message that the server has sent."""
        if content.returned:
            self.confirms.returned(content)
        elif content.fetched:
            self._answer(content)
        elif self.on_content is not None:
            self.on_content(content)

    def handle(self, frame: Any) -> None:
        """Handle an answer, or a method that the server calls."""
        if isinstance(frame, commands.Channel.Close):
            self.connection.write(method(self.number, commands.Channel.CloseOk()))
            if not self._closing:
                self.connection.forget(self)
            error = channel_closed(frame.reply_code or 0, frame.reply_text, self.connection.facts.dialect)
            error.shared = len(self._batches) > 1
            self.fail(error)
        elif isinstance(frame, commands.Basic.Cancel):
            if self.on_cancel is not None:
                self.on_cancel(frame.consumer_tag or "")
        else:
            if isinstance(frame, commands.Channel.CloseOk):
                self.connection.forget(self)
            self._answer(frame)

    def _answer(self, answer: Any) -> None:
        if self._calls:
            future = self._calls.popleft()
            if not future.done():
                future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Fail all calls and publications that wait."""
        self.failed = error
        for future in (*self._calls, *self._batches):
            if not future.done():
                future.set_exception(error)
                future.exception()  # retrieved, for its caller may be gone
        self._calls.clear()
        if self.on_failure is not None:
            self.on_failure(error)

    def close(self) -> None:
        """Close; the server puts back what was not acknowledged."""
        if self.failed is None and self.connection.lost is None:
            self._closing = True
            self.connection.write(method(self.number, commands.Channel.Close(200, "", 0, 0)))
            self.failed = ConnectionLost("this process closed the channel")
