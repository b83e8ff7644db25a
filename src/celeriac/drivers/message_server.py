"""One message server (AMQP 0-9-1, AMQP 1.0, STOMP), for every thread, event loop and process that uses it.

Requests come as *procedures* (`procedures.py`). Connections are opened at first use, by the process that uses them
(a forked child opens its own), and closed with their loop. Waiting is bounded by the time-out, and errors are
Celeriac's. A driver derives its `Server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from celeriac.drivers.hosts import Hosts
from celeriac.drivers.loop_session import LoopSession
from celeriac.drivers.loop_thread import LoopThread
from celeriac.drivers.procedures import Procedure, adrive
from celeriac.drivers.registry import Registry
from celeriac.drivers.server_address import ServerAddress
from celeriac.drivers.sockets import distrust
from celeriac.errors import BrokerError, BrokerMisconfigured, BrokerUnavailable
from celeriac.model.codec import Codec

__all__ = ["PAUSE", "TRIES", "LoopConnected", "MessageServer"]

TRIES = 3
PAUSE = 0.05  # seconds before a lost connection is tried again

Result = TypeVar("Result")


class _Connection(Protocol):
    """A connection of an event loop."""

    received_at: float  # by the monotonic clock

    @property
    def lost(self) -> Exception | None:
        """Why it has ended."""

    def blocked_by(self) -> str:
        """Return why the server accepts no messages at present."""

    def give_up(self) -> None:
        """Close one that does not answer."""

    def close(self) -> None:
        """Close it."""


LoopConnected = TypeVar("LoopConnected", bound=_Connection)


class MessageServer(ABC, Generic[LoopConnected]):
    """A server (one host, or several nodes), and the prefix of Celeriac's own names on it."""

    registry: ClassVar[Registry[Any]]  # of each driver's servers
    address: ServerAddress
    known = False  # what the server says of itself: after the first connection
    silent_when_blocked = False  # a server that accepts no messages may say nothing for long

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.registry = Registry(cls)

    def __init__(self, address: ServerAddress, prefix: str, timeout: float, codec: Codec) -> None:
        self.address = address
        self.product = f"The {address.protocol} server"  # as errors name it: what it calls itself, once that is known
        self.hosts = Hosts(address.hosts)
        self.prefix = prefix
        self.timeout = timeout
        self.codec = codec
        self.declared: set[Any] = set()  # what is known to exist (queues, exchanges), and whatever brokers add
        self._local = threading.local()
        self._thread: LoopThread | None = None  # for those that block
        self._lock = threading.Lock()
        self.registry.know(self)

    @classmethod
    def shared(cls, *key: Any) -> Self:
        """Return the one server of this process that is made with these arguments: broker and backend share it."""
        made: Self = cls.registry.of(*key)
        return made

    # --- For each protocol ----------------------------------------------------------------------------

    @abstractmethod
    async def connect_loop(self, heartbeat: float, name: str) -> LoopConnected:
        """Return a new connection of the running event loop. Raises `OSError`."""

    @abstractmethod
    async def answer(self, connection: LoopConnected, ask: Any) -> Any:
        """Send a request of a procedure on a connection, and return its answer."""

    # --- Errors ---------------------------------------------------------------------------------------

    def unavailable(self, error: BaseException, timeout: float, blocked: str = "") -> BrokerUnavailable:
        """Return the error for a server that cannot be reached, does not answer, or takes no messages (`blocked`)."""
        if isinstance(error, BrokerUnavailable):
            return error
        protocol = self.address.protocol
        ways = {tls: f"{scheme}:// is {protocol} {'over' if tls else 'without'} TLS"
                for scheme, (_, tls) in self.address.schemes.items()}  # fmt: skip
        secure = next(scheme for scheme, (_, tls) in self.address.schemes.items() if tls)
        if distrusted := distrust(error, f"the {protocol} server at {self.address}", f"{secure}://"):
            return BrokerMisconfigured(distrusted)
        if blocked:
            return BrokerUnavailable(f"{self} accepts no messages at present: {blocked}. Give it more memory or disk, "
                                     f"or let workers catch up. {self.advice(is_blocked=True)}")  # fmt: skip
        way = f"{ways[self.address.tls]}, and {ways[not self.address.tls]}"
        if isinstance(error, TimeoutError):
            doubt = "" if self.known else f" Or this port is for something else: {way}."
            return BrokerUnavailable(f"{self} did not answer within {timeout:g} s (`broker_publish_timeout`). If it is "
                                     f"running, see its log: it may be out of memory or disk.{doubt}")  # fmt: skip
        if isinstance(error, ssl.SSLError):
            return BrokerUnavailable(f"{self} cannot be reached: {error}. This port may speak no TLS, or "
                                     f"another version of it: {way}. {self.advice(is_blocked=False)}")  # fmt: skip
        return BrokerUnavailable(f"{self} cannot be reached: {error}. Is it running, and does it speak {protocol} on "
                                 f"this port ({way})? {self.advice(is_blocked=False)}")  # fmt: skip

    def advice(self, is_blocked: bool) -> str:
        """Return how to find out why the server takes no messages, or cannot be reached."""
        host, port = self.address.hosts[0]
        return "See its log." if is_blocked else f"`nc -vz {host} {port}`"

    # --- Procedures -----------------------------------------------------------------------------------

    def do(self, procedure: Procedure[Result], within: float | None = None) -> Result:
        """Carry out a procedure, blocking. It must be repeatable: it is begun again after a lost connection.

        Raises `BrokerUnavailable` within so many seconds (the time-out), or `BrokerError`.
        """
        return self.thread().run(self.ado(procedure, within))

    async def ado(self, procedure: Procedure[Result], within: float | None = None) -> Result:
        """Coroutine version of `do`. If it is cancelled, the procedure may have been carried out."""
        timeout = self.timeout if within is None else within
        deadline = time.monotonic() + timeout

        def work(connection: LoopConnected) -> Awaitable[Result]:
            return adrive(procedure(), partial(self.answer, connection))

        return await self.repeat(work, deadline, timeout)

    async def repeat(
        self, work: Callable[[LoopConnected], Awaitable[Result]], deadline: float, timeout: float,
        connect: Callable[[], Awaitable[LoopConnected]] | None = None,
    ) -> Result:  # fmt: skip
        """Do something on a connection (of those that `connect` returns; the loop's own), again after a lost one.

        `timeout` is what errors tell.
        """
        started = time.monotonic()
        tries = TRIES
        while True:
            tries -= 1
            connection: LoopConnected | None = None
            try:
                async with asyncio.timeout(max(0.01, deadline - time.monotonic())):
                    connection = await (connect or self._opened)()
                    return await work(connection)
            except OSError as error:
                blocked = ""
                if isinstance(error, TimeoutError) and connection is not None:
                    blocked = connection.blocked_by()
                    if connection.received_at < started and not (blocked and self.silent_when_blocked):
                        connection.give_up()
                if not tries or isinstance(error, TimeoutError | BrokerError):
                    raise self.unavailable(error, timeout, blocked) from error
            await asyncio.sleep(PAUSE)

    async def learn(self) -> None:
        """Learn what the server says of itself; connects if this process has not yet."""
        if not self.known:
            await self.ado(_nothing)

    def thread(self) -> LoopThread:
        """Return the thread whose event loop works for all threads of this process."""
        with self._lock:
            if self._thread is None:
                self._thread = LoopThread(f"celeriac-{next(iter(self.address.schemes))}")
            return self._thread

    # --- Connections of event loops -------------------------------------------------------------------

    def session(self) -> LoopSession[LoopConnected]:
        """Return the session of the running event loop."""
        loop = asyncio.get_running_loop()
        session: LoopSession[LoopConnected] | None = getattr(self._local, "session", None)
        if session is None or session.loop is not loop:
            session = self._local.session = self.new_session()
            with contextlib.suppress(StopIteration):
                session.end.asend(None).send(None)  # begins it, so that the loop will close it
        return session

    def new_session(self) -> LoopSession[LoopConnected]:
        """Return what a loop will have open."""
        return LoopSession()

    async def open(self, heartbeat: float, name: str = "celeriac") -> LoopConnected:
        """Return a new connection of the running event loop, closed with it. Raises `BrokerUnavailable`."""
        try:
            return await self._another(heartbeat, name)
        except OSError as error:
            raise self.unavailable(error, self.timeout) from error

    async def begun(self, heartbeat: float, name: str,
                    begin: Callable[[LoopConnected], Awaitable[None]]) -> LoopConnected:  # fmt: skip
        """Return a new connection on which something was begun; again on another one, if it is lost meanwhile.

        Raises `BrokerUnavailable` within the time-out.
        """

        async def work(connection: LoopConnected) -> LoopConnected:
            try:
                await begin(connection)
            except BaseException:
                connection.close()
                raise
            return connection

        async with self.answering():
            connect = partial(self._another, heartbeat, name)
            return await self.repeat(work, time.monotonic() + self.timeout, self.timeout, connect)

    async def _another(self, heartbeat: float, name: str) -> LoopConnected:
        """Return a new connection, closed with the loop. Raises `OSError`."""
        connection = await self.connect_loop(heartbeat, name)
        self.session().others.add(connection)
        return connection

    async def _opened(self) -> LoopConnected:
        session = self.session()
        async with session.opening:
            if session.connection is None or session.connection.lost is not None:
                session.connection = await self.connect_loop(60.0, "celeriac")
            return session.connection

    @asynccontextmanager
    async def answering(self, within: float | None = None) -> AsyncGenerator[None, None]:
        """Bound a block by so many seconds (the time-out).

        Raises `BrokerUnavailable` where the server cannot be reached, or does not answer.
        """
        try:
            async with asyncio.timeout(self.timeout if within is None else within):
                yield
        except OSError as error:
            raise self.unavailable(error, self.timeout) from error

    # --- The end --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections of the running event loop, and those that no thread is using."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()
        session: LoopSession[LoopConnected] | None = getattr(self._local, "session", None)
        if session is not None:
            with contextlib.suppress(RuntimeError):
                if session.loop is asyncio.get_running_loop():
                    session.close()

    def forget(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        self.registry.inherited += [self._local, self._thread]
        self._local, self._thread, self._lock = threading.local(), None, threading.Lock()

    def __str__(self) -> str:
        return f"{self.product} at {self.address}"

    def __repr__(self) -> str:
        return f"<Server {self.address} {self.prefix}>"


def _nothing() -> Generator[Any, Any, None]:
    yield from ()
