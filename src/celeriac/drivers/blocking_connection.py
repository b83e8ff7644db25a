"""A blocking connection, for threads, over a protocol of our own: opening, deadlines, the end. AMQP 0-9-1 and STOMP.

A driver derives its connection, which sends requests and reads their answers.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod

from celeriac.drivers.hosts import Hosts
from celeriac.drivers.server_address import ServerAddress
from celeriac.drivers.server_errors import ConnectionLost
from celeriac.drivers.sockets import TimedSocket
from celeriac.errors import BrokerError, BrokerMisconfigured

__all__ = ["BlockingConnection"]

CHUNK = 65536
LEAST_SECONDS = 0.01  # for a write, even after the deadline


class BlockingConnection(ABC):
    """A connection. After an error it cannot be used, unless the driver says otherwise: close it."""

    blocked = ""  # why the server accepts no messages at present
    silence: float | None = None  # the longest pause (seconds) in answers, after which the connection is lost

    def __init__(self, address: ServerAddress, within: float, hosts: Hosts | None) -> None:
        """Connect to the first host that answers, within so many seconds."""
        self.address = address
        self._hosts = hosts or Hosts(address.hosts)
        self.open = False
        deadline = time.monotonic() + within
        failure: Exception | None = None
        order = self._hosts.in_turn()
        for tried, self._host in enumerate(order):
            self._deadline = time.monotonic() + max(0.01, (deadline - time.monotonic()) / (len(order) - tried))
            try:
                self.begin()
                self.open = True
                return
            except BrokerMisconfigured:
                raise  # the other hosts have the same users
            except OSError as error:
                self._hosts.failed(self._host)
                failure = error
        raise failure or ConnectionError("the URL names no host")

    def _reach(self) -> None:
        """Connect to the host, until the deadline. Raises `OSError`."""
        self._socket = TimedSocket(self.address.connect(*self._host, max(0.01, self._deadline - time.monotonic())))

    @abstractmethod
    def begin(self) -> None:
        """Connect to the host, and open the connection; closes its socket if that fails. Raises `OSError`."""

    @abstractmethod
    def farewell(self) -> bytes:
        """Return the frame that closes a connection as the protocol demands."""

    @abstractmethod
    def take(self, data: bytes) -> None:
        """Handle received bytes, or keep what they say until it is read."""

    # --- The socket -----------------------------------------------------------------------------------

    def stale(self) -> bool:
        """Say whether the connection cannot be used any more; handles what the server has sent meanwhile."""
        if not self.open:
            return True
        try:
            while self._socket.has_input():
                self._deadline = time.monotonic() + 1.0
                self.take(self._receive())
        except (OSError, BrokerError):
            self.abandon()
            return True
        return False

    def _write(self, data: bytes) -> None:
        self._socket.write(data, max(self._deadline, time.monotonic() + LEAST_SECONDS))

    def _receive(self) -> bytes:
        data = self._socket.read(CHUNK, self._deadline) if self.silence is None else self._heard(self.silence)
        if not data:
            raise ConnectionLost("the server closed the connection")
        return data

    def _heard(self, silence: float) -> bytes:
        """Read. Raises an error for a lost connection after so many seconds, `TimeoutError` at the deadline."""
        until = time.monotonic() + silence
        try:
            return self._socket.read(CHUNK, min(until, self._deadline))
        except TimeoutError:
            if until >= self._deadline:
                raise
            if self.blocked:
                return self._socket.read(CHUNK, self._deadline)
            raise ConnectionLost(f"it did not answer for {silence:.1f} s") from None

    # --- Closing --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection as the protocol demands."""
        if self.open:
            with contextlib.suppress(OSError):
                self._socket.write(self.farewell(), time.monotonic() + 1.0)
        self.abandon()

    def give_up(self) -> None:
        """Close a connection that has failed. The next ones try other hosts first."""
        if not self.blocked:
            self._hosts.failed(self._host)
        self.abandon()

    def abandon(self) -> None:
        """Close the socket without closing the connection first."""
        self.open = False
        self._socket.close()

    def __del__(self) -> None:
        found: TimedSocket | None = getattr(self, "_socket", None)
        if found is not None:
            found.close()
