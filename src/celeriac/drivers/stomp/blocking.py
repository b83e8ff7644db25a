"""A blocking connection, for threads: sends, browses, waits for messages."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections import deque
from collections.abc import Sequence

from celeriac.drivers.hosts import Hosts
from celeriac.drivers.sockets import TimedSocket
from celeriac.drivers.stomp.address import Address
from celeriac.drivers.stomp.error_translation import ConnectionLost, refused
from celeriac.drivers.stomp.frames import HEARTBEAT, Frame, Parser, Publication, frame
from celeriac.drivers.stomp.opening import WINDOW, Browse, facts_of, hello, packed, subscribe
from celeriac.errors import BrokerError, BrokerMisconfigured

__all__ = ["Connection"]

CHUNK = 65536
LEAST_SECONDS = 0.01  # for a write, even after the deadline


class Connection:
    """A connection. After any error it cannot be used: close it.

    Raises only `OSError` (with `TimeoutError` and `ConnectionLost`), `BrokerUnavailable` and `Refused`.
    """

    def __init__(self, address: Address, within: float, heartbeat: float = 0.0, hosts: Hosts | None = None) -> None:
        """Connect to the first host that answers, within so many seconds."""
        self.address = address
        self._hosts = hosts or Hosts(address.hosts)
        self.open = False
        deadline = time.monotonic() + within
        failure: Exception | None = None
        order = self._hosts.in_turn()
        for number, self._host in enumerate(order):
            left = max(0.01, (deadline - time.monotonic()) / (len(order) - number))
            try:
                self._open(*self._host, left, heartbeat)
                return
            except BrokerMisconfigured:
                raise  # the other hosts have the same users
            except OSError as error:
                self._hosts.failed(self._host)
                failure = error
        raise failure or ConnectionError("the URL names no host")

    def _open(self, host: str, port: int, within: float, heartbeat: float) -> None:
        self._parser = Parser()
        self._frames: deque[Frame] = deque()  # received, and not read
        self._numbers = itertools.count(1)
        self._deadline = time.monotonic() + within
        self._received_at = self._sent = time.monotonic()
        self._socket = TimedSocket(self.address.connect(host, port, within))
        try:
            self._write(hello(self.address, heartbeat))
            self.facts = facts_of(self._next(), self.address, heartbeat)
        except BaseException:
            self._socket.close()
            raise
        self.open = True

    # --- Requests -------------------------------------------------------------------------------------

    def publish(self, items: Sequence[Publication], within: float) -> None:
        """Send, and wait until the server has confirmed all (`within` seconds for each window)."""
        for start in range(0, len(items), WINDOW):
            self._deadline = time.monotonic() + within
            part = items[start : start + WINDOW]
            first = next(self._numbers)
            data, count = packed(part, (), self.facts.dialect, first)
            self._numbers = itertools.count(first + count)
            self._write(data)
            waiting = {str(number) for number in range(first, first + count)}
            while waiting:
                found = self._read()
                if found.command == "RECEIPT":
                    waiting.discard(found.headers.get("receipt-id", ""))

    def browse(self, what: Browse, within: float) -> list[Frame]:
        """Return messages of a queue, without taking them."""
        self._deadline = time.monotonic() + within
        id = f"browse{next(self._numbers)}"
        self._write(subscribe(id, what.destination, "auto", what.headers))
        found: list[Frame] = []
        while True:
            message = self._read()
            if message.command == "MESSAGE" and message.headers.get("subscription") == id:
                if message.headers.get("browser") == "end":
                    break
                found.append(message)
        self._write(frame("UNSUBSCRIBE", {"id": id}))
        return found[: what.limit]

    def wait(self, seconds: float) -> list[Frame]:
        """Return the next frames; none if there are none in time.

        Raises `ConnectionLost` if nothing was received for two heartbeats.
        """
        self._deadline = time.monotonic() + seconds
        try:
            found = [self._read()]
        except TimeoutError:
            silence = time.monotonic() - self._received_at
            if self.facts.receives and silence > 2 * self.facts.receives:
                raise ConnectionLost(f"no heartbeat from it for {silence:.0f} s") from None
            return []
        while self._frames:
            found.append(self._read())
        return found

    def send(self, data: bytes) -> None:
        """Send frames that have no answer."""
        self._deadline = time.monotonic() + 10.0
        self._write(data)

    def beat(self) -> None:
        """Send a heartbeat, if one is due."""
        if self.facts.sends and time.monotonic() - self._sent > self.facts.sends / 3:
            self.send(HEARTBEAT)

    # --- The socket -----------------------------------------------------------------------------------

    def stale(self) -> bool:
        """Say whether the connection cannot be used any more; handles what the server has sent meanwhile."""
        if not self.open:
            return True
        try:
            while self._socket.has_input():
                self._deadline = time.monotonic() + 1.0
                self._receive()
            while self._frames:
                self._read()
        except (OSError, BrokerError):
            self.abandon()
            return True
        return False

    def _write(self, data: bytes) -> None:
        self._sent = time.monotonic()
        self._socket.write(data, max(self._deadline, self._sent + LEAST_SECONDS))

    def _read(self) -> Frame:
        """Return the next frame. Raises `Refused` for an ERROR."""
        found = self._next()
        if found.command == "ERROR":
            raise refused(found.headers.get("message", ""), found.body)
        return found

    def _next(self) -> Frame:
        while not self._frames:
            self._receive()
        return self._frames.popleft()

    def _receive(self) -> None:
        data = self._socket.read(CHUNK, self._deadline)
        if not data:
            raise ConnectionLost("the server closed the connection")
        self._received_at = time.monotonic()
        self._frames.extend(self._parser.feed(data))

    # --- Closing --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection as the protocol demands."""
        if self.open:
            with contextlib.suppress(OSError):
                self._socket.write(frame("DISCONNECT", {}), time.monotonic() + 1.0)
        self.abandon()

    def wake(self) -> None:
        """End a wait in another thread; the connection cannot be used after that."""
        with contextlib.suppress(OSError):
            self._socket.socket.shutdown(socket.SHUT_RDWR)

    def give_up(self) -> None:
        """Close a connection that has failed. The next ones try other hosts first."""
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

