"""AMQP 1.0 connections: of workers, of subscribers, and for inspecting queues.

A consumer is a link, whose credit is the window less what is unsettled: so the server never sends more than there are
free slots. A link stays attached while its consumer ends and begins again; only its credit changes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from celeriac.brokers.amqp10.bookkeeping import DOUBLED, Bookkeeping
from celeriac.brokers.amqp10.taking import Counting, Delivered, put_back, returned, taken
from celeriac.brokers.amqp10.topology import Amqp10Topology
from celeriac.brokers.queue_server.server_transport import ConnectedInspection, ConnectedWorker, ServerTransport
from celeriac.brokers.queue_server.transport import Keep, QueueMissing, Taken
from celeriac.drivers.amqp10.connection import Connection
from celeriac.drivers.amqp10.error_translation import Refused, RightsMissing, refused
from celeriac.drivers.amqp10.links import ACCEPTED, FAILED, RELEASED, Receiver, Session
from celeriac.drivers.amqp10.messages import Received
from celeriac.drivers.server_errors import ConnectionLost
from celeriac.model.message import new_id

__all__ = ["Amqp10Inspection", "Amqp10WorkerConnection"]

RETURN_SECONDS = 1.0  # for a queue to put back messages that were inspected
FEW = 64  # messages: where counting is looking, a worker looks at no more


class _Consumer:
    """A link from a queue, and the consumer that it serves at present."""

    __slots__ = ("out", "receiver", "tag", "window")

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.tag = ""
        self.window = 0
        self.out = 0  # messages of this consumer that are not settled

    def fit(self) -> None:
        """Let the server send as many messages as the window has room for."""
        self.receiver.allow(max(0, self.window - self.out))


class Amqp10WorkerConnection(ConnectedWorker[Amqp10Topology, Connection]):
    """A worker's connection: a session to consume in, one to count in, one for each channel that is followed."""

    def __init__(self, connection: Connection, transport: ServerTransport[Any, Amqp10Topology, Connection]) -> None:
        super().__init__(connection, transport)
        self._work: Session = connection.session()
        self._work.on_ended = self._session_ended
        self._counting = Counting(connection, self._topology.dialect)
        self._books = Bookkeeping(connection, self._topology)
        self._consumers: dict[str, _Consumer] = {}  # by address
        self._held: dict[int, tuple[Delivered, _Consumer]] = {}
        self._tags = 0
        self._name = b""  # as it is counted among the workers
        self._stopped = False

    def listen(self, delivered: Callable[[Any], None], cancelled: Callable[[str], None],
               lost: Callable[[], None]) -> None:  # fmt: skip
        self._delivered = delivered
        self._cancelled = cancelled
        self.connection.on_lost = lost

    # --- Consuming ------------------------------------------------------------------------------------

    def consume(self, address: str, consumer_tag: str, window: int) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        consumer = self._consumers.get(address)
        begun: asyncio.Future[Any]
        if consumer is None or consumer.receiver.error is not None:
            if self.connection.lost is not None:
                begun = loop.create_future()
                begun.cancel()
                return begun
            consumer = self._consumers[address] = _Consumer(self._work.receiver(self._topology.queue(address)))
            consumer.receiver.take = partial(self._take, consumer)
            begun = asyncio.ensure_future(self._begin(consumer))
        else:
            begun = loop.create_future()
            begun.set_result(None)
        consumer.tag, consumer.window, consumer.out = consumer_tag, window, 0
        consumer.fit()
        self.connection.soon()
        return begun

    async def _begin(self, consumer: _Consumer) -> None:
        try:
            await self.connection.attached(consumer.receiver)
        except (OSError, Refused) as error:
            self._failed(consumer, error)
        else:
            consumer.receiver.changed = lambda: self._failed(consumer, consumer.receiver.error)

    def _failed(self, consumer: _Consumer, error: Exception | None) -> None:
        """Handle the end of a link: its queue was deleted, or the user may not read it, or the session has ended.

        What was sent by it, the server has taken back, or deleted with the queue.
        """
        if self.connection.lost is not None or self._stopped:
            return
        if not isinstance(error, Refused):
            error = refused(f"a link from {consumer.receiver.node.address!r}", error or ConnectionLost())
        self._transport.declared.clear()
        if isinstance(error, RightsMissing):
            self.refusal = error
        elif self._work.error is not None:
            return  # it abandons the connection
        elif error.deleted or not any(held is consumer for _, held in self._held.values()):
            tag, consumer.tag = consumer.tag, ""
            asyncio.get_running_loop().call_soon(self._cancelled, tag)
            return
        self.connection.abandon(str(error))

    def _session_ended(self) -> None:
        if self.connection.lost is None and not self._stopped:
            self.connection.abandon(f"the server has ended its session: {self._work.error}")

    def _take(self, consumer: _Consumer, delivery: Any, received: Received) -> None:
        self._tags = tag = self._tags + 1
        pushed = Delivered(tag, consumer.tag, consumer.receiver, delivery, received)
        self._held[tag] = pushed, consumer
        consumer.out += 1
        if consumer.out > consumer.window:  # it was on its way when the window became smaller
            consumer.fit()
        self._delivered(pushed)

    def cancel(self, consumer_tag: str) -> None:
        consumer = self._consumers.get(consumer_tag.rpartition("#")[0])
        if consumer is not None and consumer.tag == consumer_tag and consumer.receiver.error is None:
            consumer.window = 0
            consumer.fit()
            self.connection.soon()

    def acknowledge(self, tags: Sequence[int], oldest: int | None) -> None:
        consumers: set[_Consumer] = set()
        for tag in tags:
            pushed, consumer = self._held.pop(tag)
            pushed.settle(ACCEPTED)
            if pushed.consumer_tag == consumer.tag:
                consumer.out -= 1
                consumers.add(consumer)
        for consumer in consumers:
            consumer.fit()
        self.connection.soon()

    async def sync(self) -> None:
        # What the server handles after this comes after what it has sent before. A server that serves each link by a
        # process of its own has sent it all only when it answers for the second time.
        target, _ = self._topology.dialect.topic(self._topology.channel("sync"))
        for _ in range(2):
            sender = await self.connection.attached(self._work.sender(target))
            sender.close()
        self.connection.soon()

    async def count(self, addresses: Sequence[str]) -> list[int]:
        try:
            return await self._counting.of([self._topology.queue(address) for address in addresses], FEW)
        except Refused as error:
            raise QueueMissing(str(error)) from error
        except ConnectionLost as error:
            if self.connection.lost is not None:
                raise
            raise QueueMissing(str(error)) from error

    async def stop(self) -> None:
        dialect = self._topology.dialect
        for pushed, _ in self._held.values():
            pushed.settle(FAILED if dialect.counts else RELEASED)
        self._held.clear()
        await self.sync()
        if self._name:
            await self._books.leave(self._name)
        self._stopped = True
        self._work.close()
        self.connection.flush()

    # --- Everything else ------------------------------------------------------------------------------

    async def announce(self) -> None:
        self._name = new_id().encode()
        await self._books.enter(self._name, self._work)

    async def read_journal(self, channel: str, keep: Keep) -> None:
        await self.follow(DOUBLED, lambda _: self.start(self._read_doubled()))
        await super().read_journal(channel, keep)

    async def _read_doubled(self) -> None:
        with contextlib.suppress(OSError):  # a lost connection ends the lease, and a new one reads
            await self.read_again()


class _Amqp10Taken(Taken):
    def __init__(self, connection: Connection, messages: list[Delivered]) -> None:
        self.messages = messages
        self.held = {message.tag: message for message in messages}  # they go back to the queue
        self._connection = connection

    def acknowledge(self, tags: Sequence[int]) -> None:
        for tag in tags:
            self.held.pop(tag).settle(ACCEPTED)
        self._connection.soon()


class Amqp10Inspection(ConnectedInspection[Amqp10Topology, Connection]):
    """Inspects queues."""

    def __init__(self, connection: Connection, transport: ServerTransport[Any, Amqp10Topology, Connection]) -> None:
        super().__init__(connection, transport)
        self._counting = Counting(connection, self._topology.dialect)

    async def size(self, address: str) -> int:
        try:
            return sum(await self._counting.of([self._topology.queue(address)]))
        except Refused as error:
            if error.missing:
                return 0
            raise

    async def workers(self) -> int:
        return await Bookkeeping(self._connection, self._topology).workers()

    @asynccontextmanager
    async def taking(self, address: str, limit: int) -> AsyncGenerator[Taken, None]:
        async with self._taken(address, limit, copy=False) as lent:
            yield lent

    @asynccontextmanager
    async def looking(self, address: str, limit: int) -> AsyncGenerator[Taken, None]:
        async with self._taken(address, limit, copy=self._topology.dialect.copies) as lent:
            lent.copies = self._topology.dialect.copies
            yield lent

    @asynccontextmanager
    async def _taken(self, address: str, limit: int, copy: bool) -> AsyncGenerator[_Amqp10Taken, None]:
        connection, dialect, node = self._connection, self._topology.dialect, self._topology.queue(address)
        session = connection.session()
        lent = _Amqp10Taken(connection, [])
        try:
            try:
                receiver = await connection.attached(session.receiver(node._replace(copy=copy)))
            except Refused as error:
                if not error.missing:  # there is no such queue, and the server makes none
                    raise
            else:
                lent = _Amqp10Taken(connection, await taken(connection, dialect, receiver, limit))
            yield lent
            put_back(list(lent.held.values()))
            connection.flush()
        finally:
            session.close()
            connection.flush()
        if lent.held and not copy:
            await returned(connection, self._counting, node, len(lent.held), RETURN_SECONDS)
