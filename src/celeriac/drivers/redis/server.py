"""One Redis server, for every thread, event loop and process that uses it.

Threads borrow blocking connections from a pool; each event loop has one connection for all its commands, and one
`Subscriber`. All are opened on first use, by the process that uses them (a forked child opens its own), and closed with
their loop. The first connection checks whether the server is fit. Waiting is bounded by the time-out, errors are ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis

from celeriac.drivers.redis.address import Address
from celeriac.drivers.redis.connection import Connection, resolve
from celeriac.drivers.redis.error_translation import BUSY, InDoubt, code_of, is_our_limit, refused, silent, unsuitable
from celeriac.drivers.redis.pubsub import Callback, PubSub, Subscriber
from celeriac.drivers.redis.scripts import SCRIPTS
from celeriac.drivers.redis.wire import Wire
from celeriac.drivers.registry import Registry
from celeriac.errors import BrokerError
from celeriac.model.clock import Clock

__all__ = ["Command", "Server", "server"]

Command = tuple[Any, ...]

IDLE_CONNECTIONS = 64  # kept for the next threads
PAUSE = 0.05  # seconds between questions to a server that is busy for now

_pack: Callable[[Command], bytes] = hiredis.pack_command


class _Session:
    """What one event loop has open; closed when the loop shuts down its asynchronous generators, at its end."""

    def __init__(self, server: Server) -> None:
        self.loop = asyncio.get_running_loop()
        self.wire: Wire | None = None
        self.connections = 0
        self.connecting = asyncio.Lock()
        self.subscriber = Subscriber(server.connect_ear, server.timeout)
        self.end = self._until_the_end()

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        self.subscriber.close()
        if self.wire is not None:
            self.wire.close()
            self.wire = None


class Server:
    """A Redis server, and the prefix of our keys on it."""

    def __init__(self, url: str, prefix: str = "celeriac", timeout: float = 10.0) -> None:
        self.address = Address.of(url)
        self.prefix = prefix
        self.timeout = timeout
        self._route = f"{prefix}:queues"
        self._idle: list[Connection] = []
        self._idle_ears: list[PubSub] = []
        self._local = threading.local()
        self._proved = False
        self._trial = _pack(("PUBLISH", f"{prefix}:bell:", b""))  # nobody hears that; a script would fail half done
        _registry.know(self)

    # --- Commands -------------------------------------------------------------------------------------

    def script(self, name: str, *arguments: Any) -> Command:
        """Return the command that runs a script; the prefix comes first of its arguments."""
        return ("EVALSHA", SCRIPTS[name].sha, 1, self._route, self.prefix, *arguments)

    def moment(self, clock: Clock) -> str:
        """Return `now` as the scripts take it: the server's own, but for a clock that a test has set."""
        return "" if type(clock) is Clock else repr(clock.now())

    def do(self, command: Command, again: bool = True) -> Any:
        """Carry out one command, blocking; return its reply."""
        return self.do_all((command,), again)[0]

    def do_all(self, commands: Sequence[Command], again: bool = True) -> list[Any]:
        """Carry out commands in one round trip. After a lost connection they are tried again, once.

        Without `again`, what may have been carried out is not sent twice: that is `InDoubt`. Else raises
        `BrokerUnavailable` within the time-out, or `BrokerError`.
        """
        packed = _pack(commands[0]) if len(commands) == 1 else b"".join(map(_pack, commands))
        deadline: float | None = None
        tries = 2
        while True:
            connection: Connection | None = None
            try:
                try:
                    connection = self._idle.pop()
                except IndexError:
                    tries = 1
                    deadline = deadline or time.monotonic() + self.timeout
                    connection = self.connect(max(0.01, deadline - time.monotonic()))
                replies = connection.exchange(packed, len(commands))
            except OSError as error:
                if connection is not None:
                    connection.close()
                if isinstance(error, BrokerError):
                    raise
                if connection is None or is_our_limit(error):
                    raise self.silent(error) from error
                self._forget_idle()
                tries -= 1
                if not again or tries <= 0:
                    raise self._doubt(error) from error
                continue
            except BaseException:  # a time limit's exception, between the command and its reply
                if connection is not None:
                    connection.close()
                raise
            trouble = self._trouble(replies)
            if trouble is None:
                self._give(connection)
                return replies
            if not again and len(replies) > 1 and not all(isinstance(reply, hiredis.ReplyError) for reply in replies):
                connection.close()
                raise self._doubt(trouble)
            if code_of(trouble) == "NOSCRIPT":
                try:
                    loaded = connection.exchange(_LOAD, len(SCRIPTS))
                except BaseException as error:
                    connection.close()
                    if isinstance(error, OSError):
                        raise self.silent(error) from error
                    raise
                self._give(connection)
                self._raise_for(loaded)
                continue
            deadline = deadline or time.monotonic() + self.timeout
            if code_of(trouble) in BUSY and time.monotonic() + PAUSE < deadline:
                self._give(connection)
                time.sleep(PAUSE)
                continue
            connection.close()  # of a master that became a replica, perhaps
            raise refused(trouble, self.address)

    async def ado(self, command: Command, again: bool = True) -> Any:
        """Do as `do`, for coroutines. Cancelled, the command may have been carried out, or not."""
        return (await self.ado_all((command,), again))[0]

    async def ado_all(self, commands: Sequence[Command], again: bool = True) -> list[Any]:
        """Do as `do_all`, for coroutines. Without `again`, what may have been carried out is not sent twice."""
        packed = _pack(commands[0]) if len(commands) == 1 else b"".join(map(_pack, commands))
        deadline: float | None = None
        tries = 2
        while True:
            session = self.session()
            wire = session.wire
            if wire is not None and not wire.open:
                wire = None
            try:
                if wire is None:
                    tries = 1
                    async with asyncio.timeout(self.timeout):
                        wire = await self._wire(session)
                        replies = await wire.exchange(packed, len(commands))
                else:
                    replies = await wire.exchange(packed, len(commands))
            except OSError as error:
                if isinstance(error, BrokerError):
                    raise
                if wire is None or is_our_limit(error):
                    raise self.silent(error) from error
                tries -= 1
                if not again or tries <= 0:
                    raise self._doubt(error) from error
                continue
            trouble = self._trouble(replies)
            if trouble is None:
                return replies
            if not again and len(replies) > 1 and not all(isinstance(reply, hiredis.ReplyError) for reply in replies):
                raise self._doubt(trouble)
            deadline = deadline or time.monotonic() + self.timeout
            if code_of(trouble) == "NOSCRIPT":
                try:
                    self._raise_for(await wire.exchange(_LOAD, len(SCRIPTS)))
                except OSError as error:
                    raise self.silent(error) from error
            elif code_of(trouble) in BUSY and time.monotonic() + PAUSE < deadline:
                await asyncio.sleep(PAUSE)
            else:
                wire.close()
                raise refused(trouble, self.address)

    def post(self, command: Command) -> None:
        """Send a command on this loop's connection, in order with the others; whatever becomes of it."""
        wire = self.session().wire
        if wire is not None and wire.open:
            with contextlib.suppress(OSError):
                wire.send(_pack(command), 1)

    def _trouble(self, replies: list[Any]) -> hiredis.ReplyError | None:
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                return reply
        return None

    def _raise_for(self, replies: list[Any]) -> None:
        trouble = self._trouble(replies)
        if trouble is not None:
            raise refused(trouble, self.address)

    def silent(self, error: OSError) -> BrokerError:
        """Return our error for one of the network's."""
        return error if isinstance(error, BrokerError) else silent(error, self.address, self.timeout)

    def _doubt(self, error: Exception) -> InDoubt:
        return InDoubt(f"Redis at {self.address}: the connection was lost before the answer came ({error}).")

    # --- Connections ----------------------------------------------------------------------------------

    def connect(self, within: float) -> Connection:
        """Return a new blocking connection to a server that is fit. Raises `OSError`, `BrokerError`, …"""
        connection = Connection(resolve(self.address, within), self.timeout, within)
        try:
            self._raise_for(connection.greetings)
            if not self._proved and self._says_it_is_fit(connection.exchange(_INFO, 1)[0]):
                self._raise_for(connection.exchange(self._trial, 1))
                self._proved = True
        except BaseException:
            connection.close()
            raise
        return connection

    def connect_ear(self, within: float) -> Connection:
        """Return a new connection for a `PubSub`."""
        connection = self.connect(within)
        try:
            self._raise_for(connection.exchange(_pack(("HELLO", 3)), 1))
        except BaseException:
            connection.close()
            raise
        return connection

    async def _wire(self, session: _Session) -> Wire:
        async with session.connecting:
            if session.wire is None or not session.wire.open:
                address = self.address
                if address.sentinels:
                    address = await asyncio.to_thread(resolve, address, self.timeout)
                wire, greetings = await Wire.connect(address, self.timeout)
                try:
                    self._raise_for(greetings)
                    if not self._proved and self._says_it_is_fit((await wire.exchange(_INFO, 1))[0]):
                        self._raise_for(await wire.exchange(self._trial, 1))
                        self._proved = True
                except BaseException:
                    wire.close()
                    raise
                session.wire = wire
                session.connections += 1
            return session.wire

    def _says_it_is_fit(self, info: Any) -> bool:
        """Raise if the server is not fit; return False if it does not say for now."""
        if isinstance(info, bytes):
            unfit = unsuitable(info, self.address)
            if unfit is not None:
                raise unfit
        elif code_of(info) in BUSY:
            return False
        elif code_of(info) != "NOPERM":  # else this user may not ask; go on
            raise refused(info, self.address)
        return True

    def session(self) -> _Session:
        """Return what the running event loop has open here."""
        loop = asyncio.get_running_loop()
        session: _Session | None = getattr(self._local, "session", None)
        if session is None or session.loop is not loop:
            session = self._local.session = _Session(self)
            with contextlib.suppress(StopIteration):
                session.end.asend(None).send(None)  # begins it, so that the loop knows of it
        return session

    def connections(self) -> int:
        """Return how many connections for commands the running event loop has had here."""
        return self.session().connections

    async def hear(self, channel: str, callback: Callback) -> None:
        """Call back with what is sent on a channel from when this returns; see `Subscriber`."""
        try:
            await self.session().subscriber.join(channel, callback)
        except OSError as error:
            raise self.silent(error) from error

    def hear_now(self, channel: str, callback: Callback) -> None:
        """Do as `hear`, blocking the running event loop for a moment."""
        try:
            self.session().subscriber.join_now(channel, callback)
        except OSError as error:
            raise self.silent(error) from error

    def unhear(self, channel: str, callback: Callback) -> None:
        """Undo a `hear`."""
        self.session().subscriber.leave(channel, callback)

    @contextmanager
    def pubsub(self, hear: Any) -> Iterator[PubSub]:
        """Lend a blocking pub/sub connection, for a thread that waits; `hear` is called with channel and payload.

        Raises `BrokerUnavailable` if none can be made.
        """
        try:
            pubsub = self._idle_ears.pop()
            pubsub.hear = hear
        except IndexError:
            try:
                pubsub = PubSub(self.connect_ear(self.timeout), hear)
            except OSError as error:
                raise self.silent(error) from error
        try:
            yield pubsub
        except BaseException as error:
            pubsub.connection.close()
            if isinstance(error, OSError):
                self._forget_idle()
            raise
        self._idle_ears.append(pubsub)

    def _give(self, connection: Connection) -> None:
        if len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()

    def _forget_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        subscribers, self._idle_ears = self._idle_ears, []
        for pubsub in subscribers:
            pubsub.connection.close()

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
        self._forget_idle()  # closes this process's copies of their sockets; the parent's stay open
        _registry.inherited.append(self._local)
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"<Server {self.address} {self.prefix}>"


def server(url: str, prefix: str = "celeriac", timeout: float = 10.0) -> Server:
    """Return the one `Server` of this process for a URL, so that broker and backend share it."""
    return _registry.of(url, prefix, timeout)


_INFO = _pack(("INFO",))
_LOAD = b"".join(_pack(("SCRIPT", "LOAD", script.source)) for script in SCRIPTS.values())
_registry: Registry[Server] = Registry(Server)
