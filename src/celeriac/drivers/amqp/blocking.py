"""A blocking connection with one channel, for threads: publish, call and be answered, wait for deliveries."""

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
from celeriac.drivers.amqp.error_translation import ChannelClosed, ConnectionLost, NoConfirms, Refused, ended
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
from celeriac.drivers.sockets import TimedSocket
from celeriac.errors import BrokerMisconfigured, BrokerUnavailable

__all__ = ["Connection"]

CHANNEL = 1
CHUNK = 65536
LEAST_SECONDS = 0.01  # to write in, however late it is
WINDOW = 500  # publications that are sent before their confirms are read


class Connection:
    """One socket. After any error but `ChannelClosed` it is of no use: close it.

    Raises `OSError` (with `TimeoutError` and `ConnectionLost`), `BrokerUnavailable` and `ChannelClosed` alone.
    """

    def __init__(self, address: Address, within: float, heartbeat: int = 0, name: str = "celeriac") -> None:
        """Connect to the first host that answers, within so many seconds."""
        self.address = address
        self.blocked = ""  # why the server takes nothing from us for now
        self.open = False
        deadline = time.monotonic() + within
        trouble: Exception | None = None
        for number, (host, port) in enumerate(address.hosts):
            left = max(0.01, (deadline - time.monotonic()) / (len(address.hosts) - number))
            try:
                self._open(host, port, left, heartbeat, name)
                return
            except BrokerMisconfigured:
                raise  # the next host would say the same
            except OSError as error:
                trouble = error
        raise trouble or ConnectionError("no host is named")

    def _open(self, host: str, port: int, within: float, heartbeat: int, name: str, ask: bool = True) -> None:
        self._parser = Parser()
        self._events: deque[Event] = deque()
        self._confirms = Confirms()
        self._deadline = time.monotonic() + within
        self._heard = self._said = time.monotonic()
        self._greeted = False
        self._socket = TimedSocket(self.address.connect(host, port, within))
        try:
            self._greet(heartbeat, name, ask)
        except BaseException as error:
            self._socket.close()
            if not isinstance(error, NoConfirms):
                raise
            self._open(host, port, max(0.01, self._deadline - time.monotonic()), heartbeat, name, ask=False)
        self.open = True

    def _greet(self, heartbeat: int, name: str, ask: bool) -> None:
        steps = opening(self.address, heartbeat, name, ask)
        data = next(steps)
        while True:
            self._write(data)
            try:
                data = steps.send(self._read())
            except StopIteration as end:
                self.facts = end.value
                self._greeted = True
                break
        self.call(commands.Channel.Open(), self._deadline)
        if self.facts.confirms:
            self.call(commands.Confirm.Select(), self._deadline)

    # --- Asking ---------------------------------------------------------------------------------------

    def call(self, what: Any, deadline: float) -> Any:
        """Call a method, and return its answer. Raises `ChannelClosed`; the channel is open again then."""
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
        """Return what the server sends next, or None when nothing came in time.

        Raises `ConnectionLost` when nothing, not even a heartbeat, has come for two heartbeats.
        """
        self._deadline = time.monotonic() + seconds
        try:
            return self._read()
        except TimeoutError:
            silence = time.monotonic() - self._heard
            if self.facts.heartbeat and silence > 2 * self.facts.heartbeat:
                raise ConnectionLost(f"no word from it for {silence:.0f} s") from None
            return None

    def rest(self) -> list[Event]:
        """Return what has come already."""
        events = list(self._events)
        self._events.clear()
        return events

    def send(self, data: bytes) -> None:
        """Send something that has no answer."""
        self._deadline = time.monotonic() + 10.0
        self._write(data)

    def beat(self) -> None:
        """Send a heartbeat, if it is time for one."""
        if self.facts.heartbeat and time.monotonic() - self._said > self.facts.heartbeat / 2:
            self.send(HEARTBEAT)

    # --- The socket -----------------------------------------------------------------------------------

    def stale(self) -> bool:
        """Say whether the server has closed the connection, or said something, while nobody looked."""
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
        self._said = time.monotonic()
        self._socket.write(data, max(self._deadline, self._said + LEAST_SECONDS))

    def _read(self) -> Event:
        """Return the next event that is not dealt with here."""
        while not self._events:
            self._take(self._receive())
        return self._events.popleft()

    def _receive(self) -> bytes:
        data = self._socket.read(CHUNK, self._deadline)
        if not data:
            raise ConnectionLost("it closed the connection")
        self._heard = time.monotonic()
        return data

    def _take(self, data: bytes) -> None:
        closed: Any = None
        for event in self._parser.feed(data):
            if isinstance(event, Confirmed):
                self._confirms.heard(event)
            elif isinstance(event, Content):
                if event.returned:
                    self._confirms.returned(event)
                else:
                    self._events.append(event)
            elif isinstance(event.frame, commands.Connection.Blocked):
                self.blocked = event.frame.reason
            elif isinstance(event.frame, commands.Connection.Unblocked):
                self.blocked = ""
            elif isinstance(event.frame, commands.Connection.Close) and self._greeted:
                self._write(method(0, commands.Connection.CloseOk()))
                raise ended(event.frame)
            elif isinstance(event.frame, commands.Channel.Close) and self._greeted:
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
        raise ChannelClosed(close.reply_code, close.reply_text)

    # --- The end --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Say good-bye, and close."""
        if self.open:
            with contextlib.suppress(OSError):
                self._socket.write(method(0, commands.Connection.Close(200, "", 0, 0)), time.monotonic() + 1.0)
        self.abandon()

    def wake(self) -> None:
        """End a wait in another thread; the connection is of no use then."""
        with contextlib.suppress(OSError):
            self._socket.socket.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        """Close the socket without a word."""
        self.open = False
        self._socket.close()

    def __del__(self) -> None:
        found: TimedSocket | None = getattr(self, "_socket", None)
        if found is not None:
            found.close()
