"""A blocking connection with one channel, for threads: publishes, and calls methods."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from pamqp import commands

from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.confirms import Confirms
from celeriac.drivers.amqp.error_translation import NoConfirms, Refused, channel_closed, ended
from celeriac.drivers.amqp.frames import (
    Confirmed,
    Content,
    Method,
    Parser,
    Publication,
    method,
    publish,
)
from celeriac.drivers.amqp.opening import opening
from celeriac.drivers.blocking_connection import BlockingConnection
from celeriac.drivers.hosts import Hosts

__all__ = ["Connection"]

CHANNEL = 1
WINDOW = 500  # publications that are sent before their confirms are read


class Connection(BlockingConnection):
    """A connection. After any error but `ChannelClosed` it cannot be used: close it.

    Raises only `OSError` (with `TimeoutError` and `ConnectionLost`), `BrokerUnavailable` and `ChannelClosed`.
    """

    address: Address

    def __init__(self, address: Address, within: float, hosts: Hosts | None = None,
                 silence: float | None = None) -> None:  # fmt: skip
        """Connect to the first host that answers, within so many seconds."""
        self.silence = silence
        super().__init__(address, within, hosts)

    def begin(self, ask: bool = True) -> None:
        self._parser = Parser()
        self._answers: deque[Method | Content] = deque()  # received, and not read
        self._confirms = Confirms()
        self._opened = False
        self._reach()
        try:
            self._shake_hands(ask)
        except BaseException as error:
            self._socket.close()
            if not isinstance(error, NoConfirms):
                raise
            self.begin(ask=False)

    def farewell(self) -> bytes:
        return method(0, commands.Connection.Close(200, "", 0, 0))

    def _shake_hands(self, ask: bool) -> None:
        steps = opening(self.address, 0, "celeriac", ask)
        data = next(steps)
        while True:
            self._write(data)
            try:
                data = steps.send(self._read())
            except StopIteration as end:
                self.facts = end.value
                self._opened = True
                self._confirms = Confirms(self.facts.dialect.refuses_unroutable)
                break
        self.call(commands.Channel.Open(), self._deadline)
        if self.facts.confirms:
            self.call(commands.Confirm.Select(), self._deadline)

    # --- Requests -------------------------------------------------------------------------------------

    def call(self, what: Any, deadline: float) -> Any:
        """Call a method, and return its answer. Raises `ChannelClosed`, after which the channel is open again."""
        self._deadline = deadline
        self._write(method(CHANNEL, what))
        answer = self._read()
        return answer if isinstance(answer, Content) else answer.frame

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
                self.take(self._receive())
            returned += batch.returned
            if batch.refused:
                left = [*returned, *batch.refused, *items[start + len(part) :]]
                raise Refused(len(batch.refused), len(part), left, self.facts.dialect)
        return returned

    # --- What arrives ---------------------------------------------------------------------------------

    def _read(self) -> Method | Content:
        """Return the next answer."""
        while not self._answers:
            self.take(self._receive())
        return self._answers.popleft()

    def take(self, data: bytes) -> None:
        closed: Any = None
        for event in self._parser.feed(data):
            if isinstance(event, Confirmed):
                self._confirms.confirmed(event)
            elif isinstance(event, Content):
                if event.returned:
                    self._confirms.returned(event)
                elif event.fetched:  # nothing else comes: nobody consumes here
                    self._answers.append(event)
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
                self._answers.append(event)
        if closed is not None:
            self._reopen(closed)

    def _reopen(self, close: Any) -> None:
        self._write(method(CHANNEL, commands.Channel.CloseOk()) + method(CHANNEL, commands.Channel.Open()))
        self._confirms = Confirms(self.facts.dialect.refuses_unroutable)
        self._answers.clear()
        self._read()  # Channel.OpenOk
        if self.facts.confirms:
            self._write(method(CHANNEL, commands.Confirm.Select()))
            self._read()
        raise channel_closed(close.reply_code, close.reply_text, self.facts.dialect)
