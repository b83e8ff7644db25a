"""Inspects queues: counts and shows messages by browsing, and takes them for a while."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from celeriac.brokers.queue_server.server_transport import ConnectedInspection, ServerTransport
from celeriac.brokers.queue_server.topology import DEAD
from celeriac.brokers.queue_server.transport import NotCounted, Taken
from celeriac.brokers.stomp.connections import quiet
from celeriac.brokers.stomp.topology import StompTopology
from celeriac.brokers.stomp.uncounted import Uncounted
from celeriac.brokers.stomp.windows import Pushed, Window
from celeriac.drivers.stomp.aio import AioConnection
from celeriac.drivers.stomp.frames import Frame
from celeriac.drivers.stomp.opening import Browse
from celeriac.drivers.stomp.server import Server

__all__ = ["StompInspection"]

ANY_NUMBER = 1_000_000  # of workers may be connected: the server does not tell
PAGE = 400  # messages that ActiveMQ shows of a queue, unless it is set otherwise
PAGES = '<policyEntry queue=">" maxBrowsePageSize="1000000"/>'


class _StompTaken(Taken):
    def __init__(self, connection: AioConnection, window: Window) -> None:
        self.messages: list[Pushed] = []
        self.window = window
        self.acknowledged: set[int] = set()
        self._connection = connection

    def acknowledge(self, tags: Sequence[int]) -> None:
        self.acknowledged.update(tags)


class StompInspection(ConnectedInspection[StompTopology, AioConnection]):
    """Inspects queues."""

    def __init__(self, connection: AioConnection, transport: ServerTransport[Server, StompTopology, AioConnection],
                 uncounted: Uncounted) -> None:  # fmt: skip
        super().__init__(connection, transport)
        self._server = transport.server
        self._dialect = self._topology.dialect
        self._uncounted = uncounted

    async def size(self, address: str) -> int:
        dialect = self._dialect
        if not dialect.browses:
            raise NotCounted(f"{dialect.product} does not count the messages of a queue for those who reach it by "
                             "STOMP. Count them with its own tools, or use amqp://.", 0)  # fmt: skip
        count = len(await self._connection.browse(Browse(dialect.queue(address))))
        if count == PAGE:
            raise NotCounted(f"{dialect.product} shows no more than {PAGE} messages of a queue, so that they cannot be "
                             f"counted. Let it show more in activemq.xml: {PAGES}", PAGE)  # fmt: skip
        return count

    async def workers(self) -> int:
        """Return how many workers are connected: how many messages that stand for one are held by it.

        Those of workers that died were put back, and are removed.
        """
        if not self._dialect.browses:
            return ANY_NUMBER
        shown = await self._connection.browse(Browse(self._topology.workers))
        gone = [message for message in shown if message.headers.get("redelivered") == "true"]
        for message in gone:
            self._connection.subscribe(lambda _: None, self._topology.workers, "auto",
                                       {"selector": f"worker='{message.headers.get('worker', '')}'"})  # fmt: skip
        return len(shown) - len(gone)

    @asynccontextmanager
    async def taking(self, address: str, limit: int) -> AsyncGenerator[Taken, None]:
        dialect = self._dialect
        connection = await self._server.open(60.0)
        pushed: list[Pushed] = []

        def take(frame: Frame, window: Window) -> None:
            pushed.append(Pushed(frame, len(pushed) + 1, window))

        more = {**dialect.subscribing(limit, 0), **dialect.of_lines}
        window = Window(connection, dialect.queue(address), lambda *_: more, take, singly=False)
        try:
            window.open("", limit)
            await self._all_pushed(connection, window, pushed)
            taken = _StompTaken(connection, window)
            taken.messages = pushed[:limit]
            yield taken
            if taken.acknowledged:
                connection.acknowledge([one.ack for one in taken.messages if one.tag in taken.acknowledged])
                await self._all_pushed(connection, window, pushed)
            if not address.endswith(DEAD):
                await self._uncounted.note([one.body for one in pushed[len(taken.messages) :]])
            await connection.confirmed("DISCONNECT")
        finally:
            connection.close()

    async def _all_pushed(self, connection: AioConnection, window: Window, pushed: list[Pushed]) -> None:
        if self._dialect.browses:
            await connection.passed(window.destination)
        else:
            await quiet(lambda: len(pushed))
