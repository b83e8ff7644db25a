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
from celeriac.drivers.amqp.confirms import Batch, Confirms
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
from celeriac.drivers.amqp.refusals import ChannelClosed, ConnectionLost, Refused, ended
from celeriac.drivers.sockets import TimedSocket
from celeriac.errors import BrokerUnavailable

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
        self.open = True
        self._deadline = time.monotonic() + within
        self._parser = Parser()
        self._events: deque[Event] = deque()
        self._confirms = Confirms()
        self._said = time.monotonic()
        trouble: Exception | None = None
        for number, (host, port) in enumerate(address.hosts):
            left = (self._deadline - time.monotonic()) / (len(address.hosts) - number)
            try:
                self._socket = TimedSocket(address.connect(host, port, max(0.01, left)))
                break
            except OSError as error:
                trouble = error
        else:
            raise trouble or ConnectionError("no host is named")
        try:
            self._greet(heartbeat, name)
        except BaseException:
            self.abandon()
            raise

    def _greet(self, heartbeat: int, name: str) -> None:
        steps = opening(self.address, heartbeat, name)
        data = next(steps)
        while True:
            self._write(data)
            try:
                data = steps.send(self._read())
            except StopIteration as end:
                self.facts = end.value
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
                if isinstance(event, Method):
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
            batch = self._confirms.sent(part)
            self._write(b"".join([publish(CHANNEL, item, self.facts.frame_max) for item in part]))
            self._confirmed(batch)
            returned += batch.returned
        return returned

    def _confirmed(self, batch: Batch) -> None:
        if not self.facts.confirms:
            return
        kept: list[Event] = []
        while batch.left:
            event = self._read()
            if isinstance(event, Content) and not event.returned:
                kept.append(event)
        self._events.extendleft(reversed(kept))
        if batch.refused:
            raise Refused(batch.refused, len(batch.items))

    def wait(self, seconds: float) -> Event | None:
        """Return what the server sends next, or None when nothing came in time."""
        self._deadline = time.monotonic() + seconds
        try:
            return self._read()
        except TimeoutError:
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
            while self._socket.stirs():
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
        return data

    def _take(self, data: bytes) -> None:
        for event in self._parser.feed(data):
            if isinstance(event, Confirmed):
                self._confirms.heard(event)
                self._events.append(event)  # wakes who waits for it
            elif isinstance(event, Content):
                if event.returned:
                    self._confirms.returned(event)
                else:
                    self._events.append(event)
            elif isinstance(event.frame, commands.Connection.Blocked):
                self.blocked = event.frame.reason
            elif isinstance(event.frame, commands.Connection.Unblocked):
                self.blocked = ""
            elif isinstance(event.frame, commands.Connection.Close) and hasattr(self, "facts"):
                self._write(method(0, commands.Connection.CloseOk()))
                raise ended(event.frame)
            elif isinstance(event.frame, commands.Channel.Close):
                self._reopen(event.frame)
            else:
                self._events.append(event)

    def _reopen(self, close: Any) -> None:
        self._write(method(CHANNEL, commands.Channel.CloseOk()) + method(CHANNEL, commands.Channel.Open()))
        self._parser, self._confirms = Parser(), Confirms()
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
