"""What transports have in common whose driver has one `Server` for threads and event loops.

It knows no protocol: a driver's server is named by what is asked of it.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from celeriac.brokers.queue_server.topology import Topology
from celeriac.brokers.queue_server.transport import (
    Inspection,
    Keep,
    Procedure,
    Subscription,
    Transport,
    WorkerConnection,
)
from celeriac.errors import BrokerError
from celeriac.model.codec import Codec
from celeriac.model.pauses import Pauses

__all__ = ["Connected", "ConnectedInspection", "ConnectedWorker", "DriverServer", "Ended", "ServerTransport"]

log = logging.getLogger("celeriac.brokers")

SUBSCRIBER_HEARTBEAT = 60.0  # seconds

Result = TypeVar("Result")
Ended = Callable[[object], None]  # is told why the server has ended a subscription


class Connected(Protocol):
    """A driver's connection of an event loop."""

    on_lost: Callable[[], None] | None

    @property
    def lost(self) -> Exception | None:
        """Why it has ended."""

    def close(self) -> None:
        """Close it as the protocol demands."""

    def abandon(self, why: str = ...) -> None:
        """Close the socket alone."""


class DriverServer(Protocol):
    """A driver's server."""

    timeout: float
    codec: Codec
    declared: set[Any]
    product: str

    def do(self, procedure: Callable[[], Procedure[Result]], within: float | None = None) -> Result:
        """Carry out a procedure, blocking."""

    async def ado(self, procedure: Callable[[], Procedure[Result]], within: float | None = None) -> Result:
        """Coroutine version of `do`."""

    async def learn(self) -> None:
        """Learn what the server says of itself."""

    async def open(self, heartbeat: float, name: str = "") -> Any:
        """Return a new connection of the running event loop."""

    async def begun(self, heartbeat: float, name: str, begin: Callable[[Any], Awaitable[None]]) -> Any:
        """Return a new connection on which something was begun."""

    def answering(self, within: float | None = None) -> AbstractAsyncContextManager[None]:
        """Bound a block."""

    def close(self) -> None:
        """Close connections."""


S = TypeVar("S", bound=DriverServer)
T = TypeVar("T", bound=Topology)
C = TypeVar("C", bound=Connected)


class ServerTransport(Transport, Generic[S, T, C]):
    """A queue server, as a driver's `Server` reaches it."""

    def __init__(self, server: S) -> None:
        self.server = server
        self.timeout = server.timeout
        self.codec = server.codec
        self.declared = server.declared
        self._topology: T | None = None

    @abstractmethod
    def names(self) -> T:
        """Return the names on the server, to which a connection was made before."""

    @abstractmethod
    async def follow(self, connection: C, channel: str, take: Callable[[bytes], None], ended: Ended) -> None:
        """Call `take` with each payload of a channel, on a subscriber's or a worker's connection.

        Call `ended` if the server ends that; it may also be called when the connection is lost.
        """

    @abstractmethod
    async def read_journal(self, connection: C, channel: str, keep: Keep) -> None:
        """Read the journal, on any connection: see `Inspection.read_journal`."""

    @abstractmethod
    def inspection(self, connection: C) -> Inspection:
        """Return what inspects queues on a connection."""

    @property
    def product(self) -> str:  # type: ignore[override]
        return self.server.product

    @property
    def topology(self) -> T:
        if self._topology is None:
            self._topology = self.names()
        return self._topology

    def do(self, procedure: Callable[[], Procedure[Result]], within: float | None = None) -> Result:
        return self.server.do(procedure, within)

    async def ado(self, procedure: Callable[[], Procedure[Result]], within: float | None = None) -> Result:
        return await self.server.ado(procedure, within)

    async def learn(self) -> None:
        await self.server.learn()

    def answering(self, within: float | None = None) -> AbstractAsyncContextManager[None]:
        return self.server.answering(within)

    async def subscribe(self, channel: str, take: Callable[[bytes], None], lost: Callable[[], None]) -> Subscription:
        await self.learn()
        connection: C = await self.server.begun(
            SUBSCRIBER_HEARTBEAT, f"celeriac listens to {channel}",
            lambda opened: self.follow(opened, channel, take, lambda why: opened.abandon(str(why))),
        )  # fmt: skip
        connection.on_lost = lost
        return _Subscriber(connection)

    @asynccontextmanager
    async def inspecting(self) -> AsyncGenerator[Inspection, None]:
        connection: C = await self.server.open(SUBSCRIBER_HEARTBEAT, "celeriac looks")
        try:
            yield self.inspection(connection)
        finally:
            connection.close()

    def close(self) -> None:
        self.server.close()

    def __str__(self) -> str:
        return str(self.server)


class ConnectedWorker(WorkerConnection, Generic[T, C]):
    """A worker's connection, as a driver has it."""

    def __init__(self, connection: C, transport: ServerTransport[Any, T, C]) -> None:
        self.connection = connection
        self._transport = transport
        self._topology = transport.topology
        self._journal: tuple[str, Keep] | None = None  # as it was read
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def lost(self) -> Exception | None:  # type: ignore[override]
        return self.connection.lost

    async def follow(self, channel: str, take: Callable[[bytes], None]) -> None:
        begin = partial(self._transport.follow, self.connection, channel, take)
        await self.lasting(f"the channel {channel!r}", begin)

    async def lasting(self, what: str, begin: Callable[[Ended], Awaitable[None]]) -> None:
        """Subscribe to something by `begin`; and again, after a pause, whenever the server ends it."""
        pauses = Pauses()

        def ended(why: object) -> None:
            if self.lost is None:
                log.warning("%s has ended the worker's subscription to %s: %s. The worker subscribes again.",
                            self._transport, what, why)  # fmt: skip
                self.start(again())

        async def again() -> None:
            begun = False
            while self.lost is None:
                await asyncio.sleep(pauses.next())
                with suppress(BrokerError):
                    async with self._transport.answering():
                        if not begun:
                            await begin(ended)
                            begun = True
                        await self.read_again()  # for what was sent meanwhile
                        return

        await begin(ended)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something besides. An error that nobody expects ends the connection: a new one does it all anew."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self.lost is None:
            log.error("The worker's connection to %s ends, for the worker can hear no more: %s", self._transport, error,
                      exc_info=None if isinstance(error, BrokerError) else error)  # fmt: skip
            self.abandon(f"{type(error).__name__}: {error}")

    async def read_journal(self, channel: str, keep: Keep) -> None:
        self._journal = channel, keep
        await self.read_again()

    async def read_again(self) -> None:
        """Read the journal again, if it was read before."""
        if self._journal is not None:
            await self._transport.read_journal(self.connection, *self._journal)

    def close(self) -> None:
        self.connection.close()

    def abandon(self, why: str = "this process closed it") -> None:
        self.connection.abandon(why)


class ConnectedInspection(Inspection, Generic[T, C]):
    """Inspects queues on a driver's connection."""

    def __init__(self, connection: C, transport: ServerTransport[Any, T, C]) -> None:
        self._connection = connection
        self._transport = transport
        self._topology = transport.topology

    async def read_journal(self, channel: str, keep: Keep) -> None:
        await self._transport.read_journal(self._connection, channel, keep)


class _Subscriber(Subscription):
    def __init__(self, connection: Connected) -> None:
        self._connection = connection

    @property
    def lost(self) -> bool:
        return self._connection.lost is not None

    def close(self) -> None:
        self._connection.close()
