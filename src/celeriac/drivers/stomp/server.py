"""One STOMP server, for every thread, event loop and process that uses it.

Requests come as a *procedure*: a generator that yields lists of publications, which are sent and confirmed, and
`Browse`, and receives the answers. `do` drives it on a blocking connection from a pool, `ado` on the event loop's own
connection; so nothing is written twice. Connections are opened at first use, by the process that uses them (a forked
child opens its own), and closed with their loop. Waiting is bounded by the time-out, and errors are Celeriac's.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from celeriac.drivers.hosts import Hosts
from celeriac.drivers.loop_session import LoopSession
from celeriac.drivers.registry import Registry
from celeriac.drivers.stomp.address import Address
from celeriac.drivers.stomp.aio import AioConnection
from celeriac.drivers.stomp.blocking import Connection
from celeriac.drivers.stomp.error_translation import unavailable
from celeriac.drivers.stomp.frames import Frame, Publication
from celeriac.drivers.stomp.opening import Browse, Facts
from celeriac.errors import BrokerError
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["Batch", "Procedure", "Server", "adrive", "server"]

Result = TypeVar("Result")
Procedure = Callable[[], Generator[Any, Any, Result]]

TRIES = 3
PAUSE = 0.05  # seconds before a lost connection is tried again
IDLE_CONNECTIONS = 64  # kept for the next callers


class Batch(list[Publication]):
    """Publications that are sent in one step with the acknowledgements of who sends them."""


class Server:
    """A STOMP server (one host, or several nodes), and the prefix of Celeriac's own names on it."""

    facts: Facts  # known when the first connection is open

    def __init__(self, url: str, prefix: str = "celeriac", timeout: float = 10.0, codec: Codec = PLAIN_CODEC) -> None:
        self.address = Address.of(url)
        self.hosts = Hosts(self.address.hosts)
        self.prefix = prefix
        self.timeout = timeout
        self.codec = codec
        self.declared: set[Any] = set()  # what is known to exist
        self._idle: list[Connection] = []
        self._local = threading.local()
        _registry.know(self)

    # --- Procedures -----------------------------------------------------------------------------------

    def do(self, procedure: Procedure[Result], within: float | None = None) -> Result:
        """Carry out a procedure, blocking. It must be repeatable: it is begun again after a lost connection.

        Raises `BrokerUnavailable` within so many seconds (the time-out), or `BrokerError`.
        """
        timeout = self.timeout if within is None else within
        deadline = time.monotonic() + timeout
        tries = TRIES
        while True:
            tries -= 1
            connection: Connection | None = None
            try:
                connection = self._borrow(deadline)
                result = _drive(connection, procedure(), deadline)
            except OSError as error:
                if connection is not None:
                    connection.give_up()
                    self._close_idle()  # the server may not answer on these either
                if connection is None or not tries or isinstance(error, TimeoutError | BrokerError):
                    raise unavailable(error, self.address, timeout) from error
                time.sleep(PAUSE)
                continue
            except BaseException:  # also a time limit's exception, between a request and its answer
                if connection is not None:
                    connection.abandon()
                raise
            self._give(connection)
            return result

    async def ado(self, procedure: Procedure[Result], within: float | None = None) -> Result:
        """Coroutine version of `do`. If it is cancelled, the procedure may have been carried out."""
        started = time.monotonic()
        deadline = started + (self.timeout if within is None else within)
        tries = TRIES
        while True:
            tries -= 1
            try:
                async with asyncio.timeout(max(0.01, deadline - time.monotonic())):
                    return await adrive(await self._opened(), procedure())
            except OSError as error:
                connection = self.session().connection
                if isinstance(error, TimeoutError) and connection is not None and connection.received_at < started:
                    connection.give_up()
                if not tries or isinstance(error, TimeoutError | BrokerError):
                    raise unavailable(error, self.address, self.timeout) from error
            await asyncio.sleep(PAUSE)

    async def learn(self) -> Facts:
        """Return what the server says of itself; connects if this process has not yet."""
        if not hasattr(self, "facts"):
            await self.ado(_nothing)
        return self.facts

    @asynccontextmanager
    async def answering(self, within: float | None = None) -> AsyncGenerator[None, None]:
        """Bound a block by so many seconds (the time-out).

        Raises `BrokerUnavailable` where the server cannot be reached, or does not answer.
        """
        try:
            async with asyncio.timeout(self.timeout if within is None else within):
                yield
        except OSError as error:
            raise unavailable(error, self.address, self.timeout) from error

    # --- Connections ----------------------------------------------------------------------------------

    def _borrow(self, deadline: float) -> Connection:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not connection.stale():
                return connection
        return self.connect(deadline - time.monotonic())

    def connect(self, within: float, heartbeat: float = 0.0) -> Connection:
        """Return a new blocking connection. Raises `OSError`, `BrokerUnavailable`."""
        connection = Connection(self.address, within, heartbeat, self.hosts)
        self.facts = connection.facts
        return connection

    async def open(self, heartbeat: float) -> AioConnection:
        """Return a new connection of the running event loop, closed with it. Raises `BrokerUnavailable`."""
        try:
            connection = await AioConnection.connect(self.address, self.timeout, heartbeat, self.hosts)
        except OSError as error:
            raise unavailable(error, self.address, self.timeout) from error
        self.facts = connection.facts
        self.session().others.add(connection)
        return connection

    async def _opened(self) -> AioConnection:
        session = self.session()
        async with session.opening:
            if session.connection is None or session.connection.lost is not None:
                session.connection = await AioConnection.connect(self.address, self.timeout, hosts=self.hosts)
                self.facts = session.connection.facts
        return session.connection

    def session(self) -> LoopSession[AioConnection]:
        """Return the session of the running event loop."""
        loop = asyncio.get_running_loop()
        session: LoopSession[AioConnection] | None = getattr(self._local, "session", None)
        if session is None or session.loop is not loop:
            session = self._local.session = LoopSession()
            with contextlib.suppress(StopIteration):
                session.end.asend(None).send(None)  # begins it, so that the loop will close it
        return session

    def _give(self, connection: Connection) -> None:
        if len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close the connections that no thread is using, and those of the running event loop."""
        self._close_idle()
        session: LoopSession[AioConnection] | None = getattr(self._local, "session", None)
        if session is not None:
            with contextlib.suppress(RuntimeError):
                if session.loop is asyncio.get_running_loop():
                    session.close()

    def forget(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        for connection in self._idle:
            connection.abandon()  # this process's copy of the socket
        self._idle = []
        _registry.inherited.append(self._local)
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"<Server {self.address} {self.prefix}>"


def _drive(connection: Connection, work: Generator[Any, Any, Result], deadline: float) -> Result:
    answer: list[Frame] | None = None
    try:
        while True:
            ask = work.send(answer)
            left = max(0.01, deadline - time.monotonic())
            if isinstance(ask, Browse):
                answer = connection.browse(ask, left)
            else:
                answer = None
                connection.publish(ask, left)
    except StopIteration as end:
        result: Result = end.value
        return result


async def adrive(connection: AioConnection, work: Generator[Any, Any, Result],
                 acknowledged: Sequence[str] = ()) -> Result:  # fmt: skip
    """Carry out a procedure on a connection, and acknowledge messages in the step that sends a `Batch`."""
    answer: list[Frame] | None = None
    try:
        while True:
            ask = work.send(answer)
            if isinstance(ask, Browse):
                answer = await connection.browse(ask)
            else:
                answer = None
                await connection.publish(ask, acknowledged if isinstance(ask, Batch) else ())
    except StopIteration as end:
        result: Result = end.value
        return result


def _nothing() -> Generator[Any, Any, None]:
    yield []


def server(url: str, prefix: str = "celeriac", timeout: float = 10.0, codec: Codec = PLAIN_CODEC) -> Server:
    """Return the one `Server` of this process for a URL, so that broker and backend share it."""
    return _registry.of(url, prefix, timeout, codec)


_registry: Registry[Server] = Registry(Server)
