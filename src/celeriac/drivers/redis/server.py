"""One Redis server, for every thread, event loop and process that uses it.

Threads borrow blocking connections from a pool. Each event loop has a `Session`: one connection for all its commands
and one `Subscriber`. Connections are opened on first use, by the process that uses them (a forked child opens its own),
and closed with their loop. The first connection checks whether the server is suitable. `calls` decides what is sent
again and which errors are raised. All waiting ends at the time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celeriac.drivers.redis.address import Address
from celeriac.drivers.redis.calls import PAUSE, Call, Command, Step, all_scripts, first_error, pack
from celeriac.drivers.redis.connection import Connection, resolve
from celeriac.drivers.redis.error_translation import silent
from celeriac.drivers.redis.opening import Opening, raise_for
from celeriac.drivers.redis.pubsub import Callback, PubSub, Subscriber
from celeriac.drivers.redis.scripts import SCRIPTS
from celeriac.drivers.redis.session import Session
from celeriac.drivers.redis.wire import Wire
from celeriac.drivers.registry import Registry
from celeriac.errors import BrokerError
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["Command", "Server", "server"]

IDLE_CONNECTIONS = 64  # blocking connections kept for the next threads


class Server:
    """A Redis server, and the prefix of Celeriac's keys on it."""

    def __init__(self, url: str, prefix: str = "celeriac", timeout: float = 10.0, codec: Codec = PLAIN_CODEC) -> None:
        self.address = Address.of(url)
        self.prefix = prefix
        self.timeout = timeout
        self.codec = codec
        self._route = f"{prefix}:queues"
        self._idle: list[Connection] = []
        self._idle_pubsubs: list[PubSub] = []
        self._local = threading.local()
        self._opening = Opening(self.address, prefix)
        _registry.know(self)

    # --- Commands -------------------------------------------------------------------------------------

    def script(self, name: str, *arguments: Any) -> Command:
        """Return the command that runs a script; the prefix comes first of its arguments."""
        return ("EVALSHA", SCRIPTS[name].sha, 1, self._route, self.prefix, *arguments)

    def moment(self, clock: Clock) -> str:
        """Return `now` as the scripts take it: empty for the server's own clock, unless a test has set another."""
        return "" if type(clock) is Clock else repr(clock.now())

    def do(self, command: Command, again: bool = True) -> Any:
        """Carry out one command, blocking; return its reply."""
        return self.do_all((command,), again)[0]

    def do_all(self, commands: Sequence[Command], again: bool = True) -> list[Any]:
        """Carry out commands in one round trip, blocking; return their replies.

        If the connection is lost, they are sent once more; without `again`, commands that may have been carried out are
        not, and `InDoubt` is raised. Else raises `BrokerUnavailable` within the time-out, or `BrokerError`.
        """
        packed = pack(commands[0]) if len(commands) == 1 else b"".join(map(pack, commands))
        connection: Connection | None = None
        result: list[Any] | OSError | None = None
        try:
            if self._idle:
                connection = self._idle.pop()
                result = connection.exchange(packed, len(commands))
                if first_error(result) is None:
                    self._give(connection)
                    return result
        except IndexError:  # another thread has taken it
            pass
        except OSError as error:
            result = error
        except BaseException:  # the exception of a time limit may come between a command and its reply
            if connection is not None:
                connection.close()
            raise
        return self._drive(Call(packed, len(commands), again, self.address, self.timeout), connection, result)

    def _drive(self, call: Call, connection: Connection | None, result: list[Any] | OSError | None) -> list[Any]:
        steps = call.steps(result)
        try:
            if isinstance(result, OSError) and connection is not None:
                connection.close()
                connection = None
            step = next(steps)
            while True:
                done: list[Any] | None = None
                try:
                    if step is Step.SEND:
                        if connection is None:
                            connection = self._borrow(call)
                        done = connection.exchange(call.packed, call.count)
                    elif step is Step.LOAD and connection is not None:
                        done = connection.exchange(*all_scripts())
                    elif step is Step.PAUSE:
                        time.sleep(PAUSE)
                    elif step is Step.FORGET:
                        self._forget_idle()
                except OSError as error:
                    if connection is not None:
                        connection.close()
                        connection = None
                    step = steps.throw(error)
                else:
                    step = steps.send(done)
        except StopIteration as end:
            if connection is not None:
                self._give(connection)
            return end.value  # type: ignore[no-any-return]
        except BaseException:
            if connection is not None:
                connection.close()
            raise

    def _borrow(self, call: Call) -> Connection:
        call.connected = call.fresh = False
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.connect(call.left())
            call.fresh = True
        call.connected = True
        return connection

    async def ado(self, command: Command, again: bool = True) -> Any:
        """Coroutine version of `do`. If it is cancelled, the command may or may not have been carried out."""
        return (await self.ado_all((command,), again))[0]

    async def ado_all(self, commands: Sequence[Command], again: bool = True) -> list[Any]:
        """Coroutine version of `do_all`."""
        packed = pack(commands[0]) if len(commands) == 1 else b"".join(map(pack, commands))
        result: list[Any] | OSError | None = None
        wire = self.session().open_wire()
        if wire is not None:
            try:
                result = await wire.exchange(packed, len(commands))
                if first_error(result) is None:
                    return result
            except OSError as error:
                result = error
        return await self._adrive(Call(packed, len(commands), again, self.address, self.timeout), wire, result)

    async def _adrive(self, call: Call, wire: Wire | None, result: list[Any] | OSError | None) -> list[Any]:
        steps = call.steps(result)
        try:
            step = next(steps)
            while True:
                done: list[Any] | None = None
                try:
                    if step is Step.SEND:
                        session = self.session()
                        wire = session.open_wire()
                        call.connected, call.fresh = wire is not None, wire is None
                        if wire is None:
                            async with asyncio.timeout(self.timeout):
                                wire = await self._wire(session)
                                call.connected = True
                                done = await wire.exchange(call.packed, call.count)
                        else:
                            done = await wire.exchange(call.packed, call.count)
                    elif step is Step.LOAD and wire is not None:
                        done = await wire.exchange(*all_scripts())
                    elif step is Step.PAUSE:
                        await asyncio.sleep(PAUSE)
                    elif step is Step.CLOSE and wire is not None:
                        wire.close()
                except OSError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(done)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def post(self, command: Command) -> None:
        """Send a command on this loop's connection, after those sent before, and ignore its reply and all failures."""
        wire = self.session().open_wire()
        if wire is not None:
            with contextlib.suppress(OSError):
                wire.send(pack(command), 1)

    def silent(self, error: OSError) -> BrokerError:
        """Return Celeriac's error for one of the network's."""
        return error if isinstance(error, BrokerError) else silent(error, self.address, self.timeout)

    # --- Connections ----------------------------------------------------------------------------------

    def connect(self, within: float) -> Connection:
        """Return a new blocking connection to a suitable server, within so many seconds.

        Raises `OSError`, `BrokerError`, …
        """
        deadline = time.monotonic() + within
        connection = Connection(resolve(self.address, within), self.timeout, deadline)
        try:
            checks = self._opening.check(connection.greetings)
            with contextlib.suppress(StopIteration):
                packed = next(checks)
                while True:
                    packed = checks.send(connection.check(packed)[0])
        except BaseException:
            connection.close()
            raise
        return connection

    def connect_pubsub(self, within: float) -> Connection:
        """Return a new connection for a `PubSub`, within so many seconds."""
        connection = self.connect(within)
        try:
            raise_for(connection.check(pack(("HELLO", 3))), self.address)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _wire(self, session: Session) -> Wire:
        async with session.connecting:
            wire = session.open_wire()
            if wire is None:
                address = self.address
                if address.sentinels:
                    address = await asyncio.to_thread(resolve, address, self.timeout)
                wire, greetings = await Wire.connect(address, self.timeout)
                try:
                    checks = self._opening.check(greetings)
                    with contextlib.suppress(StopIteration):
                        packed = next(checks)
                        while True:
                            packed = checks.send((await wire.exchange(packed, 1))[0])
                except BaseException:
                    wire.close()
                    raise
                session.wire = wire
                session.connections += 1
            return wire

    def session(self) -> Session:
        """Return what the running event loop has open on this server."""
        loop = asyncio.get_running_loop()
        session: Session | None = getattr(self._local, "session", None)
        if session is None or session.loop is not loop:
            session = self._local.session = Session(Subscriber(self.connect_pubsub, self.timeout))
        return session

    def connections(self) -> int:
        """Return how many connections for commands the running event loop has opened to this server so far."""
        return self.session().connections

    async def hear(self, channel: str, callback: Callback) -> None:
        """Call back with each payload sent on a channel after this returns; see `Subscriber`."""
        try:
            await self.session().subscriber.join(channel, callback)
        except OSError as error:
            raise self.silent(error) from error

    def unhear(self, channel: str, callback: Callback) -> None:
        """Undo a `hear`."""
        self.session().subscriber.leave(channel, callback)

    @contextmanager
    def pubsub(self, hear: Any) -> Iterator[PubSub]:
        """Lend a blocking pub/sub connection to a thread that waits; `hear` is called with channel and payload.

        Raises `BrokerUnavailable` if no connection can be opened.
        """
        try:
            pubsub = self._idle_pubsubs.pop()
            pubsub.hear = hear
        except IndexError:
            try:
                pubsub = PubSub(self.connect_pubsub(self.timeout), hear)
            except OSError as error:
                raise self.silent(error) from error
        try:
            yield pubsub
        except BaseException as error:
            pubsub.connection.close()
            if isinstance(error, OSError):
                self._forget_idle()
            raise
        self._idle_pubsubs.append(pubsub)

    def _give(self, connection: Connection) -> None:
        if len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()

    def _forget_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        pubsubs, self._idle_pubsubs = self._idle_pubsubs, []
        for pubsub in pubsubs:
            pubsub.connection.close()

    def close(self) -> None:
        """Close the idle connections of all threads, and the session of the running event loop."""
        self._forget_idle()
        session: Session | None = getattr(self._local, "session", None)
        if session is not None:
            with contextlib.suppress(RuntimeError):
                if session.loop is asyncio.get_running_loop():
                    session.close()

    def forget(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        self._forget_idle()  # closes this process's copies of their sockets; the parent's stay open
        _registry.inherited.append(self._local)
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"<Server {self.address} {self.prefix}>"


def server(url: str, prefix: str = "celeriac", timeout: float = 10.0, codec: Codec = PLAIN_CODEC) -> Server:
    """Return the process's one `Server` for these arguments, so that broker and backend share it."""
    return _registry.of(url, prefix, timeout, codec)


_registry: Registry[Server] = Registry(Server)
