"""A blocking connection with one channel, for threads: publishes, calls methods, waits for deliveries."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from pamqp import commands

from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.confirms import Confirms
from celeriac.drivers.amqp.error_translation import (
    ChannelClosed,
    ConnectionLost,
    NoConfirms,
    Refused,
    channel_closed,
    ended,
)
from celeriac.drivers.amqp.frames import (
    HEARTBEAT,
    Confirmed,
    Content,
    Event,
    Method,
    Parser,
    Publication,
    method,
    publish,
)
from celeriac.drivers.amqp.opening import opening
from celeriac.drivers.hosts import Hosts
from celeriac.drivers.sockets import TimedSocket
from celeriac.errors import BrokerMisconfigured, BrokerUnavailable

__all__ = ["Connection"]

CHANNEL = 1
CHUNK = 65536
LEAST_SECONDS = 0.01  # for a write, even after the deadline
WINDOW = 500  # publications that are sent before their confirms are read


class Connection:
    """A connection. After any error but `ChannelClosed` it cannot be used: close it.

    Raises only `OSError` (with `TimeoutError` and `ConnectionLost`), `BrokerUnavailable` and `ChannelClosed`.
    """

    def __init__(self, address: Address, within: float, heartbeat: int = 0, name: str = "celeriac",
                 hosts: Hosts | None = None, silence: float | None = None) -> None:  # fmt: skip
        """Connect to the first host that answers, within so many seconds.

        `silence`: the longest pause (seconds) in answers, after which the connection is lost.
        """
        self.address = address
        self._silence = silence
        self._hosts = hosts or Hosts(address.hosts)
        self.blocked = ""  # why the server accepts no messages at present
        self.open = False
        deadline = time.monotonic() + within
        failure: Exception | None = None
        order = self._hosts.in_turn()
        for number, self._host in enumerate(order):
            left = max(0.01, (deadline - time.monotonic()) / (len(order) - number))
            try:
                self._open(*self._host, left, heartbeat, name)
                return
            except BrokerMisconfigured:
                raise  # the other hosts have the same users and vhosts
            except OSError as error:
                self._hosts.failed(self._host)
                failure = error
        raise failure or ConnectionError("the URL names no host")

    def _open(self, host: str, port: int, within: float, heartbeat: int, name: str, ask: bool = True) -> None:
        self._parser = Parser()
        self._events: deque[Event] = deque()
        self._confirms = Confirms()
        self._deadline = time.monotonic() + within
        self._received_at = self._sent = time.monotonic()  # when something was last received, and sent
        self._opened = False
        self._socket = TimedSocket(self.address.connect(host, port, within))
        try:
            self._shake_hands(heartbeat, name, ask)
        except BaseException as error:
            self._socket.close()
            if not isinstance(error, NoConfirms):
                raise
            self._open(host, port, max(0.01, self._deadline - time.monotonic()), heartbeat, name, ask=False)
        self.open = True

    def _shake_hands(self, heartbeat: int, name: str, ask: bool) -> None:
        steps = opening(self.address, heartbeat, name, ask)
        data = next(steps)
        while True:
            self._write(data)
            try:
                data = steps.send(self._read())
            except StopIteration as end:
                self.facts = end.value
                self._opened = True
                break
        self.call(commands.Channel.Open(), self._deadline)
        if self.facts.confirms:
            self.call(commands.Confirm.Select(), self._deadline)

    # --- Requests -------------------------------------------------------------------------------------

    def call(self, what: Any, deadline: float) -> Any:
        """Call a method, and return its answer. Raises `ChannelClosed`, after which the channel is open again."""
        self._deadline = deadline
        self._write(method(CHANNEL, what))
        kept: list[Event] = []
        try:
            while True:
                event = self._read()
                if isinstance(event, Method) and not isinstance(event.frame, commands.Basic.Cancel):
                    return event.frame
                if isinstance(event, Content) and event.fetched:
                    return event
                kept.append(event)
        finally:
            self._events.extendleft(reversed(kept))

    def publish(self, items: Sequence[Publication], within: float) -> list[Publication]:
        """Publish, and wait for all confirms (`within` seconds for each window); return what could not be routed."""
        returned: list[Publication] = []
        for start in range(0, len(items), WINDOW):
            self._deadline = time.monotonic() + within
            part = items[start : start + WINDOW]
            data = b"".join([publish(CHANNEL, item, self.facts.frame_max) for item in part])
            if not self.facts.confirms:
                self._write(data)
                continue
            batch = self._confirms.sent(part)
            self._write(data)
            while batch.left:
                self._take(self._receive())
            returned += batch.returned
            if batch.refused:
                left = [*returned, *batch.refused, *items[start + len(part) :]]
                raise Refused(len(batch.refused), len(part), left)
        return returned

    def wait(self, seconds: float) -> Event | None:
        """Return the next event, or None if there is none in time.

        Raises `ConnectionLost` if nothing was received for two heartbeats.
        """
        self._deadline = time.monotonic() + seconds
        try:
            return self._read()
        except TimeoutError:
            silence = time.monotonic() - self._received_at
            if self.facts.heartbeat and silence > 2 * self.facts.heartbeat:
                raise ConnectionLost(f"no heartbeat from it for {silence:.0f} s") from None
            return None

    def rest(self) -> list[Event]:
        """Return the events that were received before."""
        events = list(self._events)
        self._events.clear()
        return events

    def send(self, data: bytes) -> None:
        """Send frames that have no answer."""
        self._deadline = time.monotonic() + 10.0
        self._write(data)

    def beat(self) -> None:
        """Send a heartbeat, if one is due."""
        if self.facts.heartbeat and time.monotonic() - self._sent > self.facts.heartbeat / 2:
            self.send(HEARTBEAT)

    # --- The socket -----------------------------------------------------------------------------------

    def stale(self) -> bool:
        """Say whether the connection cannot be used any more; handles what the server has sent meanwhile."""
        if not self.open:
            return True
        try:
            while self._socket.has_input():
                self._deadline = time.monotonic() + 1.0
                self._take(self._receive())
        except (OSError, BrokerUnavailable, ChannelClosed):
            self.abandon()
            return True
        return False

    def _write(self, data: bytes) -> None:
        self._sent = time.monotonic()
        self._socket.write(data, max(self._deadline, self._sent + LEAST_SECONDS))

    def _read(self) -> Event:
        """Return the next event, without those that the connection handles itself."""
        while not self._events:
            self._take(self._receive())
        return self._events.popleft()

    def _receive(self) -> bytes:
        data = self._socket.read(CHUNK, self._deadline) if self._silence is None else self._heard(self._silence)
        if not data:
            raise ConnectionLost("the server closed the connection")
        self._received_at = time.monotonic()
        return data

    def _heard(self, silence: float) -> bytes:
        """Read. Raises `ConnectionLost` after so many seconds, `TimeoutError` at the deadline."""
        until = time.monotonic() + silence
        try:
            return self._socket.read(CHUNK, min(until, self._deadline))
        except TimeoutError:
            if until >= self._deadline:
                raise
            if self.blocked:
                return self._socket.read(CHUNK, self._deadline)
            raise ConnectionLost(f"it did not answer for {silence:.1f} s") from None

    def _take(self, data: bytes) -> None:
        closed: Any = None
        for event in self._parser.feed(data):
            if isinstance(event, Confirmed):
                self._confirms.confirmed(event)
            elif isinstance(event, Content):
                if event.returned:
                    self._confirms.returned(event)
                else:
                    self._events.append(event)
            elif isinstance(event.frame, commands.Connection.Blocked):
                self.blocked = event.frame.reason
            elif isinstance(event.frame, commands.Connection.Unblocked):
                self.blocked = ""
            elif isinstance(event.frame, commands.Connection.Close) and self._opened:
                self._write(method(0, commands.Connection.CloseOk()))
                raise ended(event.frame)
            elif isinstance(event.frame, commands.Channel.Close) and self._opened:
                closed = event.frame
            else:
                self._events.append(event)
        if closed is not None:
            self._reopen(closed)

    def _reopen(self, close: Any) -> None:
        self._write(method(CHANNEL, commands.Channel.CloseOk()) + method(CHANNEL, commands.Channel.Open()))
        self._confirms = Confirms()
        self._events.clear()
        self._read()  # Channel.OpenOk
        if self.facts.confirms:
            self._write(method(CHANNEL, commands.Confirm.Select()))
            self._read()
        raise channel_closed(close.reply_code, close.reply_text)

    # --- Closing --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection as the protocol demands."""
        if self.open:
            with contextlib.suppress(OSError):
                self._socket.write(method(0, commands.Connection.Close(200, "", 0, 0)), time.monotonic() + 1.0)
        self.abandon()

    def wake(self) -> None:
        """End a wait in another thread; the connection cannot be used after that."""
        with contextlib.suppress(OSError):
            self._socket.socket.shutdown(socket.SHUT_RDWR)

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
