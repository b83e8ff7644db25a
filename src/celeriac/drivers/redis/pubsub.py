"""Subscribing to channels, with one connection for all coroutines of an event loop.

A callback that joins a channel is called with every payload from then on, and with None after the connection was lost
and opened again: it may have missed payloads then, and has to check the state itself. `Subscriber` is for coroutines; a
thread that waits borrows a `PubSub` (see `Server.pubsub`) and pumps it. Their connections use RESP3, which allows other
commands on a subscribed connection: subscribing and checking the state takes one round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

import hiredis

from celeriac.drivers.redis.connection import CHUNK, Connection
from celeriac.drivers.redis.error_translation import refused
from celeriac.errors import BrokerError, CeleriacError

__all__ = ["Callback", "PubSub", "Subscriber"]

Callback = Callable[[bytes | None], None]
PAUSES = (0.05, 1.0)  # seconds between attempts to reconnect: the first pause, and the longest
AT_ONCE = 0.0  # the deadline of writes that must not block: a connection whose buffers are full counts as lost
OPEN_SECONDS = 3.0  # the time-out of one attempt to connect: a program that stops waits for it


class PubSub:
    """A connection with subscriptions. The server confirms them in order; `sent` and `confirmed` count them."""

    def __init__(self, connection: Connection, hear: Callable[[str, bytes], None]) -> None:
        self.connection = connection
        self.sent = 0
        self.confirmed = 0
        self.hear = hear
        self.trouble: Exception = ConnectionResetError("the server closed the connection")  # why it became unusable
        self._replies: list[Any] = []

    def subscribe(self, channels: Iterable[str]) -> None:
        """Subscribe to channels."""
        self._send(self._packed("SUBSCRIBE", channels), AT_ONCE)

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Unsubscribe from channels."""
        self._send(self._packed("UNSUBSCRIBE", channels), AT_ONCE)

    def ask(self, command: tuple[Any, ...], seconds: float, channels: Iterable[str] = ()) -> Any:
        """Subscribe, then carry out a command; return its reply, blocking. Raises `TimeoutError`."""
        deadline = time.monotonic() + seconds
        self._send(self._packed("SUBSCRIBE", channels) + hiredis.pack_command(cast(Any, command)), deadline)
        while not self._replies:
            self._pump_until(deadline)
        return self._replies.pop()

    def _packed(self, name: str, channels: Iterable[str]) -> bytes:
        names = list(channels)
        self.sent += len(names)
        return hiredis.pack_command(cast(Any, (name, *names))) if names else b""

    def _send(self, packed: bytes, deadline: float) -> None:
        if packed:
            self.connection.socket.write(packed, deadline)

    def pump(self, seconds: float) -> None:
        """Block until a payload, a confirmation or a reply has arrived, or until the time is over."""
        with contextlib.suppress(TimeoutError):
            self._feed(self.connection.socket.read(CHUNK, time.monotonic() + seconds))

    def _pump_until(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.pump(left)

    def readable(self) -> None:
        """Process all input that has arrived, without blocking."""
        while (data := self.connection.socket.read_nowait(CHUNK)) is not None:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self.connection.reader.feed(data)
        while (frame := self.connection.reader.gets()) is not False:
            if isinstance(frame, hiredis.ReplyError):
                raise refused(frame, self.connection.address)
            self._take(frame)

    def _take(self, frame: Any) -> None:
        if not isinstance(frame, hiredis.PushNotification):
            self._replies.append(frame)
        elif frame[0] == b"message":
            self.hear(frame[1].decode(), frame[2])
        else:
            self.confirmed += 1


class Subscriber:
    """The subscriptions of one event loop. Reconnects by itself while there are callbacks."""

    def __init__(self, connect: Callable[[float], Connection], timeout: float) -> None:
        self._connect = connect
        self._timeout = timeout
        self._callbacks: dict[str, list[Callback]] = {}
        self._pubsub: PubSub | None = None
        self._confirmed = asyncio.Event()
        self._connecting = asyncio.Lock()
        self._reconnecting: asyncio.Task[None] | None = None

    async def join(self, channel: str, callback: Callback) -> None:
        """Call back with each payload sent on a channel after this returns. Raises `OSError`, `BrokerError`."""
        self._callbacks.setdefault(channel, []).append(callback)
        try:
            async with asyncio.timeout(self._timeout):
                await self._joined(channel)
        except BaseException:
            self.leave(channel, callback)
            raise

    async def _joined(self, channel: str) -> None:
        if self._pubsub is None:
            async with self._connecting:
                if self._pubsub is None:  # connecting subscribes to all channels
                    self._adopt(await asyncio.to_thread(self._connect, min(self._timeout, OPEN_SECONDS)))
        elif len(self._callbacks[channel]) == 1:
            self._send(PubSub.subscribe, channel)
        await self._all_confirmed()

    def leave(self, channel: str, callback: Callback) -> None:
        """Undo a `join`."""
        callbacks = self._callbacks.get(channel, [])
        if callback in callbacks:
            callbacks.remove(callback)
            if not callbacks:
                del self._callbacks[channel]
                self._send(PubSub.unsubscribe, channel)

    def close(self) -> None:
        """Close the connection. Callbacks stay registered and hear nothing until the next `join`."""
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            self._reconnecting = None
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with contextlib.suppress(RuntimeError, ValueError):
                asyncio.get_running_loop().remove_reader(pubsub.connection.socket.socket.fileno())
            pubsub.connection.close()

    # --- Inside ---------------------------------------------------------------------------------------

    def _send(self, command: Callable[[PubSub, list[str]], None], channel: str) -> None:
        pubsub = self._pubsub
        if pubsub is not None:
            try:
                command(pubsub, [channel])
            except OSError:
                self._lost(pubsub)

    def _adopt(self, connection: Connection) -> None:
        """Use a new connection for all subscriptions. Raises `OSError` if it is lost already."""
        pubsub = self._pubsub = PubSub(connection, self._hear)
        self._send(lambda pubsub, _: pubsub.subscribe(self._callbacks), "")
        if self._pubsub is not pubsub:
            raise pubsub.trouble
        asyncio.get_running_loop().add_reader(connection.socket.socket.fileno(), self._readable, pubsub)

    def _readable(self, pubsub: PubSub) -> None:
        try:
            pubsub.readable()
        except (OSError, BrokerError) as error:
            pubsub.trouble = error
            self._lost(pubsub)
        self._confirmed.set()

    async def _all_confirmed(self) -> None:
        """Wait until all subscriptions sent so far are confirmed. Raises the error of the connection if it is lost."""
        pubsub = self._pubsub
        if pubsub is None:
            raise ConnectionResetError("the server closed the connection")
        wanted = pubsub.sent
        while pubsub.confirmed < wanted:
            if self._pubsub is not pubsub:
                raise pubsub.trouble
            self._confirmed.clear()
            await self._confirmed.wait()

    def _hear(self, channel: str, payload: bytes) -> None:
        for callback in list(self._callbacks.get(channel, ())):
            callback(payload)

    def _lost(self, pubsub: PubSub) -> None:
        if self._pubsub is pubsub:
            self.close()
            self._confirmed.set()
            if self._callbacks:
                self._reconnecting = asyncio.ensure_future(self._reconnect())

    async def _reconnect(self) -> None:
        pause = PAUSES[0]
        while self._callbacks and self._pubsub is None:
            try:
                async with self._connecting:
                    if self._pubsub is None:
                        self._adopt(await asyncio.to_thread(self._connect, min(self._timeout, OPEN_SECONDS)))
                async with asyncio.timeout(self._timeout):
                    await self._all_confirmed()
            except (OSError, CeleriacError):
                if self._pubsub is None:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, PAUSES[1])
        for callbacks in list(self._callbacks.values()):
            for callback in list(callbacks):
                callback(None)
