"""One AMQP server, for every thread, event loop and process that uses it.

Requests come as a *procedure*: a generator that yields calls (pamqp methods) and lists of publications, and receives
the answers. `do` drives it on a blocking connection from a pool, `ado` on the event loop's own connection; so nothing
is written twice. Connections are opened at first use, by the process that uses them (a forked child opens its own),
and closed with their loop. Waiting is bounded by the time-out, and errors are Celeriac's.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pamqp import commands

from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.aio import AioConnection
from celeriac.drivers.amqp.blocking import Connection
from celeriac.drivers.amqp.error_translation import ChannelClosed, Refused, unavailable
from celeriac.drivers.amqp.opening import Facts
from celeriac.drivers.amqp.session import Session
from celeriac.drivers.hosts import Hosts
from celeriac.drivers.registry import Registry
from celeriac.errors import BrokerError, BrokerUnavailable, ImproperlyConfigured
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["Procedure", "Server", "each", "server"]

Result = TypeVar("Result")
Procedure = Callable[[], Generator[Any, Any, Result]]

TRIES = 3
PAUSE = 0.05  # seconds before a lost connection is tried again
LONG_PAUSE = 0.2  # seconds before a request is tried again that the server refuses only for now
IDLE_CONNECTIONS = 64  # kept for the next callers
QUEUE_TYPES = ("auto", "quorum", "classic")


class Server:
    """An AMQP server (one host, or the nodes of a cluster), and the prefix of Celeriac's own names on it."""

    facts: Facts  # known when the first connection is open
    quorum: bool  # likewise: whether to declare quorum queues

    def __init__(self, url: str, prefix: str = "celeriac", queue_type: str = "auto", timeout: float = 10.0,
                 codec: Codec = PLAIN_CODEC) -> None:  # fmt: skip
        if queue_type not in QUEUE_TYPES:
            raise ImproperlyConfigured(f"amqp_queue_type: one of {', '.join(QUEUE_TYPES)}, not {queue_type!r}.")
        self.address = Address.of(url)
        self.hosts = Hosts(self.address.hosts)
        self.prefix = prefix
        self.timeout = timeout
        nodes = len(self.address.hosts)
        self._silence = timeout / nodes if nodes > 1 else None  # … of a node, after which a request goes to another
        self.codec = codec
        self.declared: set[Any] = set()  # queues and exchanges that are known to exist, and whatever brokers add
        self._queue_type = queue_type
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
                result = self._drive(connection, procedure(), deadline)
            except OSError as error:
                if connection is not None:
                    connection.give_up()
                    if not connection.blocked:
                        self._close_idle()  # the server may not answer on these either
                if connection is None or not tries or isinstance(error, TimeoutError | BrokerError):
                    raise unavailable(error, self.address, timeout, connection.blocked if connection else "") from error
                time.sleep(PAUSE)
                continue
            except ChannelClosed as error:
                assert connection is not None
                if isinstance(error, Refused):
                    connection.abandon()  # its channel may stay refused: session.py says why
                else:
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
        """Coroutine version of `do`. If it is cancelled, the procedure may have been carried out."""
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
                    raise unavailable(error, self.address, self.timeout, blocked) from error
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

    async def _adrive(self, session: Session, work: Generator[Any, Any, Result], alone: bool) -> Result:
        try:
            ask = next(work)
            while True:
                try:
                    if not isinstance(ask, list):
                        answer: Any = await session.call(ask)
                    elif alone:
                        answer = await session.publish_alone(ask)
                    else:
                        answer = await session.publish(ask)
                except ChannelClosed as error:
                    if error.shared:
                        raise  # another caller's publication may be the cause: begin again, alone
                    ask = work.throw(error)
                    continue
                ask = work.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def learn(self) -> Facts:
        """Return what the server says of itself; connects if this process has not yet."""
        if not hasattr(self, "facts"):
            await self.ado(_nothing)
        return self.facts

    @asynccontextmanager
    async def answering(self, within: float | None = None) -> AsyncGenerator[None, None]:
        """Bound a block by so many seconds (the time-out).

        Raises `BrokerUnavailable` where the server cannot be reached, does not answer, or refuses only for now.
        """
        try:
            async with asyncio.timeout(self.timeout if within is None else within):
                yield
        except OSError as error:
            raise unavailable(error, self.address, self.timeout) from error
        except ChannelClosed as error:
            if not error.passes:
                raise
            raise BrokerUnavailable(str(error)) from error

    # --- Connections ----------------------------------------------------------------------------------

    def _borrow(self, deadline: float) -> Connection:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not connection.stale():
                return connection
        return self.connect(deadline - time.monotonic(), silence=self._silence)

    def connect(self, within: float, heartbeat: int = 0, name: str = "celeriac",
                silence: float | None = None) -> Connection:  # fmt: skip
        """Return a new blocking connection. Raises `OSError`, `BrokerUnavailable`."""
        connection = Connection(self.address, within, heartbeat, name, self.hosts, silence)
        self._know(connection.facts)
        return connection

    async def open(self, heartbeat: float, name: str) -> AioConnection:
        """Return a new connection of the running event loop, closed with it. Raises `BrokerUnavailable`."""
        try:
            connection = await AioConnection.connect(self.address, self.timeout, heartbeat, name, self.hosts)
        except OSError as error:
            raise unavailable(error, self.address, self.timeout) from error
        self._know(connection.facts)
        self.session().others.add(connection)
        return connection

    async def _opened(self) -> Session:
        session = self.session()
        async with session.opening:
            if session.connection is None or session.connection.lost is not None:
                session.forget()
                session.connection = await AioConnection.connect(
                    self.address, self.timeout, hosts=self.hosts, silence=self._silence
                )
                self._know(session.connection.facts)
        return session

    def _know(self, facts: Facts) -> None:
        if not hasattr(self, "facts"):
            if self._queue_type == "quorum" and not facts.has_quorum:
                raise ImproperlyConfigured(f"{facts.product} {facts.version} at {self.address} is too old for "
                                           "`amqp_queue_type = 'quorum'`: RabbitMQ 3.10 or later.")  # fmt: skip
            self.quorum = self._queue_type == "quorum" or (self._queue_type == "auto" and self._prefers_quorum(facts))
            self.facts = facts

    def _prefers_quorum(self, facts: Facts) -> bool:
        """Say whether `auto` is quorum: where there is a cluster, which loses the queues of a node otherwise."""
        return facts.prefers_quorum or (facts.has_quorum and len(self.address.hosts) > 1)

    @property
    def may_lose_delayed(self) -> bool:
        """Whether this is a cluster that may lose delayed messages; known when the first connection is open."""
        return self.quorum and len(self.address.hosts) > 1 and self.facts.may_lose_delayed

    def session(self) -> Session:
        """Return the session of the running event loop."""
        loop = asyncio.get_running_loop()
        session: Session | None = getattr(self._local, "session", None)
        if session is None or session.loop is not loop:
            session = self._local.session = Session()
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
        session: Session | None = getattr(self._local, "session", None)
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


def each(methods: Iterable[Any]) -> Generator[Any, Any, None]:
    """Call methods one after the other: a procedure."""
    for method in methods:  # noqa: UP028 - `yield from` a list cannot receive answers
        yield method


def _nothing() -> Generator[Any, Any, None]:
    yield commands.Basic.Qos(prefetch_count=0)


def server(url: str, prefix: str = "celeriac", queue_type: str = "auto", timeout: float = 10.0,
           codec: Codec = PLAIN_CODEC) -> Server:  # fmt: skip
    """Return the one `Server` of this process for a URL, so that broker and backend share it."""
    return _registry.of(url, prefix, queue_type, timeout, codec)


_registry: Registry[Server] = Registry(Server)
