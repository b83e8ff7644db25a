"""One AMQP server, for every thread, event loop and process that uses it.

What is to be done is a *procedure*: a generator that yields calls (pamqp methods) and lists of publications, and
takes the answers. `do` drives it on a blocking connection from a pool, `ado` on the event loop's own; so nothing is
written twice. Connections are opened on first use, by the process that uses them (a fork's child begins anew), and
closed with their loop. Waiting is bounded by the time-out, errors are ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar

from pamqp import commands

from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.aio import AioConnection, Channel
from celeriac.drivers.amqp.blocking import Connection
from celeriac.drivers.amqp.error_translation import ChannelClosed, silent
from celeriac.drivers.amqp.frames import Publication
from celeriac.drivers.amqp.opening import Facts
from celeriac.drivers.amqp.topology import Topology
from celeriac.drivers.registry import Registry
from celeriac.errors import BrokerError, BrokerUnavailable, ImproperlyConfigured

__all__ = ["Procedure", "Server", "each", "server"]

Result = TypeVar("Result")
Procedure = Callable[[], Generator[Any, Any, Result]]

TRIES = 3
PAUSE = 0.05  # seconds before a lost connection is tried again
LONG_PAUSE = 0.2  # … before a queue that is not there yet is
IDLE_CONNECTIONS = 64  # kept for the next threads
QUEUE_TYPES = ("auto", "quorum", "classic")


class _Session:
    """What one event loop has open; closed when the loop shuts down its asynchronous generators, at its end."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.connection: AioConnection | None = None
        self.channel: Channel | None = None  # for publishing
        self.office: Channel | None = None  # for calls, which may fail, and close the channel
        self.opening = asyncio.Lock()
        self.calling = asyncio.Lock()
        self.aside: Channel | None = None  # for publishing once more, one caller after the other
        self.stepping_aside = asyncio.Lock()
        self.called: asyncio.Future[Any] | None = None  # what was asked last on the office channel
        self.others: weakref.WeakSet[AioConnection] = weakref.WeakSet()
        self.end = self._until_the_end()

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        for connection in [*self.others, *([self.connection] if self.connection is not None else [])]:
            connection.close()
        self.leave()

    def give_up(self, started: float) -> None:
        """Let go of a connection on which nothing was heard since a call began that was not answered."""
        if self.connection is not None and self.connection.heard < started:
            self.connection.abandon()

    def leave(self) -> None:
        self.connection = self.channel = self.office = self.aside = None


class Server:
    """An AMQP server (one host, or the nodes of a cluster), and our prefix on it."""

    topology: Topology  # known when the first connection is open

    def __init__(self, url: str, prefix: str = "celeriac", queue_type: str = "auto", timeout: float = 10.0) -> None:
        if queue_type not in QUEUE_TYPES:
            raise ImproperlyConfigured(f"amqp_queue_type: one of {', '.join(QUEUE_TYPES)}, not {queue_type!r}.")
        self.address = Address.of(url)
        self.prefix = prefix
        self.timeout = timeout
        self.declared: set[Any] = set()  # what has been made, by us or before our eyes
        self._queue_type = queue_type
        self._idle: list[Connection] = []
        self._local = threading.local()
        _registry.know(self)

    # --- Doing ----------------------------------------------------------------------------------------

    def do(self, procedure: Procedure[Result], within: float | None = None) -> Result:
        """Carry out a procedure, blocking. It must bear being repeated: a lost connection is tried again.

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
                result = self._drive(connection, procedure(), deadline)
            except OSError as error:
                if connection is not None:
                    connection.abandon()
                    if not connection.blocked:
                        self._forget_idle()  # they may be silent too
                if connection is None or not tries or isinstance(error, TimeoutError | BrokerError):
                    raise silent(error, self.address, timeout, connection.blocked if connection else "") from error
                time.sleep(PAUSE)
                continue
            except ChannelClosed as error:
                assert connection is not None
                self._give(connection)
                if not error.passes:
                    raise
                if time.monotonic() + LONG_PAUSE > deadline:
                    raise BrokerUnavailable(str(error)) from error
                tries = TRIES
                time.sleep(LONG_PAUSE)
                continue
            except BaseException:  # a time limit's exception, between the call and its answer
                if connection is not None:
                    connection.abandon()
                raise
            self._give(connection)
            return result

    def _drive(self, connection: Connection, work: Generator[Any, Any, Result], deadline: float) -> Result:
        try:
            ask = next(work)
            while True:
                try:
                    if isinstance(ask, list):
                        answer: Any = connection.publish(ask, max(0.01, deadline - time.monotonic()))
                    else:
                        answer = connection.call(ask, deadline)
                except ChannelClosed as error:
                    ask = work.throw(error)
                    continue
                ask = work.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def ado(self, procedure: Procedure[Result], within: float | None = None) -> Result:
        """Do as `do`, for coroutines; within another time-out, if need be. Cancelled, it may have been carried out."""
        started = time.monotonic()
        deadline = started + (self.timeout if within is None else within)
        tries = TRIES
        alone = False
        while True:
            tries -= 1
            blocked = ""
            try:
                async with asyncio.timeout(max(0.01, deadline - time.monotonic())):
                    session = await self._opened()
                    assert session.connection is not None
                    try:
                        return await self._adrive(session, procedure(), alone)
                    finally:
                        blocked = session.connection.blocked if session.connection is not None else ""
            except OSError as error:
                if isinstance(error, TimeoutError) and not blocked:
                    self.session().give_up(started)
                if not tries or isinstance(error, TimeoutError | BrokerError):
                    raise silent(error, self.address, self.timeout, blocked) from error
            except ChannelClosed as error:
                if error.shared and not alone:
                    alone = True
                    continue
                if not error.passes:
                    raise
                if time.monotonic() + LONG_PAUSE > deadline:
                    raise BrokerUnavailable(str(error)) from error
                tries = TRIES
                await asyncio.sleep(LONG_PAUSE)
            await asyncio.sleep(PAUSE)

    async def _adrive(self, session: _Session, work: Generator[Any, Any, Result], alone: bool) -> Result:
        try:
            ask = next(work)
            while True:
                try:
                    if not isinstance(ask, list):
                        answer: Any = await self._call(session, ask)
                    elif alone:
                        answer = await self._publish_alone(session, ask)
                    else:
                        answer = await self._publish(session, ask)
                except ChannelClosed as error:
                    if error.shared:
                        raise  # it may be somebody else's: all is to be done again, alone
                    ask = work.throw(error)
                    continue
                ask = work.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _publish(self, session: _Session, items: Sequence[Publication]) -> list[Publication]:
        async with session.opening:
            if session.channel is None or session.channel.failed is not None:
                assert session.connection is not None
                session.channel = await session.connection.channel(confirms=True)
            channel = session.channel
        return await channel.publish(items)

    async def _publish_alone(self, session: _Session, items: Sequence[Publication]) -> list[Publication]:
        async with session.stepping_aside:
            if session.aside is None or session.aside.failed is not None:
                assert session.connection is not None
                session.aside = await session.connection.channel(confirms=True)
            return await session.aside.publish(items)

    async def _call(self, session: _Session, what: Any) -> Any:
        """Call a method on a channel where nobody else's call is under way, for what fails, fails for the channel.

        The call of somebody who was cancelled is still under way.
        """
        async with session.calling:
            if session.called is not None:
                await asyncio.wait([session.called])
            if session.office is None or session.office.failed is not None:
                assert session.connection is not None
                session.office = await session.connection.channel()
            session.called = session.office.ask(what)
            return await asyncio.shield(session.called)

    async def learn(self) -> Topology:
        """Return the topology; connects if nobody has yet."""
        if not hasattr(self, "topology"):
            await self.ado(_nothing)
        return self.topology

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

    def connect(self, within: float, heartbeat: int = 0, name: str = "celeriac") -> Connection:
        """Return a new blocking connection. Raises `OSError`, `BrokerUnavailable`."""
        connection = Connection(self.address, within, heartbeat, name)
        self._know(connection.facts)
        return connection

    async def open(self, heartbeat: float, name: str) -> AioConnection:
        """Return a new connection of the running event loop, closed with it. Raises `BrokerUnavailable`."""
        try:
            connection = await AioConnection.connect(self.address, self.timeout, heartbeat, name)
        except OSError as error:
            raise silent(error, self.address, self.timeout) from error
        self._know(connection.facts)
        self.session().others.add(connection)
        return connection

    async def _opened(self) -> _Session:
        session = self.session()
        async with session.opening:
            if session.connection is None or session.connection.lost is not None:
                session.leave()
                session.connection = await AioConnection.connect(self.address, self.timeout)
                self._know(session.connection.facts)
        return session

    def _know(self, facts: Facts) -> None:
        if not hasattr(self, "topology"):
            if self._queue_type == "quorum" and not facts.has_quorum:
                raise ImproperlyConfigured(f"{facts.product} {facts.version} at {self.address} is too old for "
                                           "`amqp_queue_type = 'quorum'`: RabbitMQ 3.10 or later.")  # fmt: skip
            quorum = self._queue_type == "quorum" or (self._queue_type == "auto" and facts.prefers_quorum)
            self.topology = Topology(self.prefix, quorum, limits=facts.prefers_quorum)

    def session(self) -> _Session:
        """Return what the running event loop has open here."""
        loop = asyncio.get_running_loop()
        session: _Session | None = getattr(self._local, "session", None)
        if session is None or session.loop is not loop:
            session = self._local.session = _Session()
            with contextlib.suppress(StopIteration):
                session.end.asend(None).send(None)  # begins it, so that the loop knows of it
        return session

    def _give(self, connection: Connection) -> None:
        if len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()

    def _forget_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close what no thread uses now, and what the running event loop has open."""
        self._forget_idle()
        session: _Session | None = getattr(self._local, "session", None)
        if session is not None:
            with contextlib.suppress(RuntimeError):
                if session.loop is asyncio.get_running_loop():
                    session.close()

    def forget(self) -> None:
        """In a fork's child: leave the parent's connections alone."""
        for connection in self._idle:
            connection.abandon()  # this process's copy of the socket
        self._idle = []
        _registry.inherited.append(self._local)
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"<Server {self.address} {self.prefix}>"


def each(methods: Iterable[Any]) -> Generator[Any, Any, None]:
    """Call methods one after the other: a procedure."""
    for method in methods:  # noqa: UP028 - a list takes no answers
        yield method


def _nothing() -> Generator[Any, Any, None]:
    yield commands.Basic.Qos(prefetch_count=0)


def server(url: str, prefix: str = "celeriac", queue_type: str = "auto", timeout: float = 10.0) -> Server:
    """Return the one `Server` of this process for a URL, so that broker and backend share it."""
    return _registry.of(url, prefix, queue_type, timeout)


_registry: Registry[Server] = Registry(Server)
