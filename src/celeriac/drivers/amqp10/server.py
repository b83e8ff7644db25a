"""One AMQP 1.0 server, for every thread, event loop and process that uses it.

Requests come as a *procedure*: a generator that yields nodes (to be attached to), lists of items (to be sent) and
`Passive` questions, and receives the answers. `ado` drives it on a connection of the event loop; `do` does so on the
loop of a thread that all threads of a process share, so that neither the driver nor a procedure is written twice.
Connections are opened at first use, by the process that uses them, and closed with their loop.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from celeriac.drivers.amqp10.address import Address
from celeriac.drivers.amqp10.connection import Connection
from celeriac.drivers.amqp10.dialect import RABBITMQ, Dialect, dialect_of
from celeriac.drivers.amqp10.error_translation import Refused, unavailable
from celeriac.drivers.amqp10.links import Node
from celeriac.drivers.hosts import Hosts
from celeriac.drivers.loop_session import LoopSession
from celeriac.drivers.registry import Registry
from celeriac.errors import BrokerError, BrokerUnavailable
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["Passive", "Procedure", "Server", "server"]

Result = TypeVar("Result")
Procedure = Callable[[], Generator[Any, Any, Result]]

TRIES = 3
PAUSE = 0.05  # seconds before a lost connection is tried again
IDLE = 60.0  # seconds
CLOSING_SECONDS = 2.0


class Passive(NamedTuple):
    """Asks whether a node exists, by attaching to it."""

    node: Node


class Server:
    """An AMQP 1.0 server (one host, or several that stand in for each other), and the prefix of our own names on it."""

    dialect: Dialect  # known when the first connection is open

    def __init__(self, url: str, prefix: str = "celeriac", timeout: float = 10.0, codec: Codec = PLAIN_CODEC) -> None:
        self.address = Address.of(url)
        self.hosts = Hosts(self.address.hosts)
        self.prefix = prefix
        self.timeout = timeout
        self.codec = codec
        self.declared: set[Any] = set()  # nodes that are known to exist, and whatever brokers add
        self._vhost = self.address.vhost
        self._local = threading.local()
        self._thread: _LoopThread | None = None
        self._lock = threading.Lock()
        _registry.know(self)

    # --- Procedures -----------------------------------------------------------------------------------

    def do(self, procedure: Procedure[Result], within: float | None = None) -> Result:
        """Carry out a procedure, blocking. It must be repeatable: it is begun again after a lost connection.

        Raises `BrokerUnavailable` within so many seconds (the time-out), or `BrokerError`.
        """
        return self.thread().run(self.ado(procedure, within))

    async def ado(self, procedure: Procedure[Result], within: float | None = None) -> Result:
        """Coroutine version of `do`. If it is cancelled, the procedure may have been carried out."""
        started = time.monotonic()
        timeout = self.timeout if within is None else within
        tries = TRIES
        while True:
            tries -= 1
            connection: Connection | None = None
            try:
                async with asyncio.timeout(max(0.01, started + timeout - time.monotonic())):
                    connection = await self._opened()
                    return await self._drive(connection, procedure())
            except OSError as error:
                blocked = connection.blocked() if connection is not None and isinstance(error, TimeoutError) else ""
                if isinstance(error, TimeoutError) and connection is not None and connection.received_at < started:
                    connection.give_up()
                if not tries or isinstance(error, TimeoutError | BrokerError):
                    raise unavailable(error, self.address, timeout, blocked) from error
            await asyncio.sleep(PAUSE)

    async def _drive(self, connection: Connection, work: Generator[Any, Any, Result]) -> Result:
        try:
            ask = next(work)
            while True:
                try:
                    if isinstance(ask, list):
                        answer: Any = await connection.send(ask)
                    elif isinstance(ask, Passive):
                        answer = await _exists(connection, ask.node)
                    else:
                        answer = await connection.sender(ask)
                except Refused as error:
                    ask = work.throw(error)
                    continue
                ask = work.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def learn(self) -> None:
        """Learn what the server says of itself; connects if this process has not yet."""
        if not hasattr(self, "dialect"):
            await self.ado(_nothing)

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

    async def open(self, idle: float, name: str) -> Connection:
        """Return a new connection of the running event loop, closed with it. Raises `BrokerUnavailable`."""
        try:
            connection = await self._connect(idle, name)
        except OSError as error:
            raise unavailable(error, self.address, self.timeout) from error
        self.session().others.add(connection)
        return connection

    async def _opened(self) -> Connection:
        session = self.session()
        async with session.opening:
            if session.connection is None or session.connection.lost is not None:
                session.connection = await self._connect(IDLE, "celeriac")
            return session.connection

    async def _connect(self, idle: float, name: str) -> Connection:
        made = await Connection.connect(self.address, self.hosts, self.timeout, name, idle, self._vhost)
        if not hasattr(self, "dialect"):
            dialect = dialect_of(made.engine.properties, made.engine.capabilities)
            wanted = self.address.vhost
            if dialect.kind == RABBITMQ and wanted and not wanted.startswith("vhost:"):
                self._vhost = f"vhost:{wanted}"  # it takes every other name for its default
                made.close()
                made = await Connection.connect(self.address, self.hosts, self.timeout, name, idle, self._vhost)
            self.dialect = dialect
        return made

    def session(self) -> LoopSession[Connection]:
        """Return the session of the running event loop."""
        loop = asyncio.get_running_loop()
        session: LoopSession[Connection] | None = getattr(self._local, "session", None)
        if session is None or session.loop is not loop:
            session = self._local.session = LoopSession()
            with contextlib.suppress(StopIteration):
                session.end.asend(None).send(None)  # begins it, so that the loop will close it
        return session

    def thread(self) -> _LoopThread:
        """Return the thread whose event loop works for all threads of this process."""
        with self._lock:
            if self._thread is None:
                self._thread = _LoopThread()
            return self._thread

    def close(self) -> None:
        """Close the connections of the shared thread, and those of the running event loop."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()
        session: LoopSession[Connection] | None = getattr(self._local, "session", None)
        if session is not None:
            with contextlib.suppress(RuntimeError):
                if session.loop is asyncio.get_running_loop():
                    session.close()

    def forget(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        _registry.inherited.append(self._local)
        _inherited.append(self._thread)
        self._local, self._thread, self._lock = threading.local(), None, threading.Lock()

    def __repr__(self) -> str:
        return f"<Server {self.address} {self.prefix}>"


class _LoopThread:
    """A thread with an event loop, for those who block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        atexit.register(self.stop)
        self._thread = threading.Thread(target=self._run, name="celeriac-amqp10", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    self._loop.run_until_complete(task)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())  # closes connections
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def submit(self, work: Coroutine[Any, Any, Result]) -> concurrent.futures.Future[Result]:
        """Run a coroutine in the thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return the result of a coroutine that the thread runs."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:  # a time limit's exception, between the call and its answer
            future.cancel()
            raise

    def stop(self) -> None:
        """Close what is open, and end the thread."""
        atexit.unregister(self.stop)
        if self._pid != os.getpid():
            return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSING_SECONDS)


async def _exists(connection: Connection, node: Node) -> bool:
    session = connection.session()
    try:
        await connection.attached(session.receiver(node))
    except Refused as error:
        if isinstance(error, BrokerUnavailable) or not error.missing:
            raise
        return False
    finally:
        session.close()
        connection.soon()
    return True


def _nothing() -> Generator[Any, Any, None]:
    yield from ()


def server(url: str, prefix: str = "celeriac", timeout: float = 10.0, codec: Codec = PLAIN_CODEC) -> Server:
    """Return the one `Server` of this process for a URL, so that broker and backend share it."""
    return _registry.of(url, prefix, timeout, codec)


_inherited: list[_LoopThread | None] = []
"""The threads of the process that this one was forked from; kept, so that nothing closes their sockets."""
_registry: Registry[Server] = Registry(Server)
