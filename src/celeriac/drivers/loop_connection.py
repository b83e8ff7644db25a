"""A connection of an event loop to a message server: opening, heartbeats, the end. AMQP 0-9-1, AMQP 1.0, STOMP.

A driver derives its connection, which turns received bytes into events, and says how the protocol begins and ends.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple, cast

from celeriac.drivers.hosts import Host, Hosts
from celeriac.drivers.server_address import ServerAddress
from celeriac.drivers.server_errors import ConnectionLost
from celeriac.drivers.sockets import prepare

__all__ = ["Beats", "LoopConnection"]

CLOSED = "this process closed it"


class Beats(NamedTuple):
    """When to send and to expect heartbeats (seconds; 0: never)."""

    interval: float  # … of looking at it
    quiet: float  # after which this side has to say something
    silence: float  # of the server, after which the connection is lost
    data: bytes  # a heartbeat


class LoopConnection(asyncio.Protocol):
    """A connection of the running event loop."""

    def __init__(self, address: ServerAddress, hosts: Hosts, host: Host) -> None:
        self.address = address
        self.host = host
        self.lost: Exception | None = None
        self.on_lost: Callable[[], None] | None = None
        self._hosts = hosts
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.received_at = self._sent = time.monotonic()  # when something was last received, and sent
        self._heartbeat: asyncio.TimerHandle | None = None

    async def reach(self) -> None:
        """Connect to the host. Raises `OSError`."""
        await self._loop.create_connection(lambda: self, *self.host, ssl=self.address.tls_context())

    @abstractmethod
    def farewell(self) -> bytes:
        """Return the frame that closes a connection as the protocol demands."""

    @abstractmethod
    def ended(self, error: Exception) -> None:
        """Fail all that waits for an answer."""

    def blocked_by(self) -> str:
        """Return why the server accepts no messages at present; empty if it does, or does not say."""
        return ""

    # --- Called by the event loop ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        plain = transport.get_extra_info("socket")
        if plain is not None:
            prepare(plain)

    def pause_writing(self) -> None:
        """Make publishers wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let publishers continue."""
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail all that waits for an answer."""
        if self.lost is None:
            self._hosts.failed(self.host)
        self.lose(ConnectionLost(str(error) if error is not None else "the server closed the connection"))

    # --- Heartbeats -----------------------------------------------------------------------------------

    def keep_alive(self, beats: Beats) -> None:
        """Send a heartbeat if nothing else was sent; end a connection on which nothing was received for too long."""
        now = time.monotonic()
        silence = now - self.received_at
        if beats.silence and silence > beats.silence:
            self.fall_silent(f"no heartbeat from it for {silence:.0f} s")
            return
        if beats.quiet and now - self._sent > beats.quiet:
            self.write(beats.data)
        self._heartbeat = self._loop.call_later(beats.interval, self.keep_alive, beats)

    def fall_silent(self, why: str) -> None:
        """Note that the server says nothing. The next connections try other hosts first."""
        self._hosts.failed(self.host)
        self.lose(ConnectionLost(why))

    # --- Bytes, and the end ---------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection is lost."""
        if self._transport is not None and self.lost is None:
            self._sent = time.monotonic()
            self._transport.write(data)

    def lose(self, error: Exception) -> None:
        """Note that the connection has ended, and tell whoever waits."""
        if self.lost is not None:
            return
        self.lost = error
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._writable.set()
        self.ended(error)
        if self.on_lost is not None:
            self.on_lost()

    def close(self) -> None:
        """Close the connection as the protocol demands."""
        if self.lost is None and self._transport is not None:
            self.write(self.farewell())
            transport, self._transport = self._transport, None
            self.end(transport)
        self.lose(ConnectionLost(CLOSED))

    def end(self, transport: asyncio.Transport) -> None:
        """End what carries the connection, once all is sent that was written."""
        transport.close()

    def give_up(self) -> None:
        """Close a connection that does not answer. The next ones try other hosts first."""
        self._hosts.failed(self.host)
        self.abandon()

    def abandon(self, why: str = CLOSED) -> None:
        """Close the socket without closing the connection first, as the end of the process would."""
        self.lose(ConnectionLost(why))
