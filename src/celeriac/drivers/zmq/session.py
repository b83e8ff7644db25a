"""What one event loop has open to the hub: one line, on which all its requests are under way together.

ZeroMQ's file descriptor says that something has happened, once: so after each send and receive this looks again.
The monitor has one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any, Final

import zmq

from celeriac.drivers.zmq.address import Address
from celeriac.drivers.zmq.conversation import Ask, Conversation
from celeriac.drivers.zmq.error_translation import not_let_in, silent
from celeriac.drivers.zmq.sockets import Happening, Line
from celeriac.errors import BrokerError

__all__ = ["Session"]

AT_ONCE: Final = 64  # frames that are read before the loop serves others
FLUSH_SECONDS: Final = 0.02  # until what could not be sent is tried again


class Session:
    """A conversation and its line. Closed when the loop shuts down its asynchronous generators."""

    def __init__(self, address: Address, timeout: float) -> None:
        self.loop = asyncio.get_running_loop()
        self._address = address
        self._timeout = timeout
        self._line: Line | None = None
        self._conversation = Conversation(str(address))
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._unsent: deque[Ask] = deque()  # while very much is under way
        self._flushing: asyncio.TimerHandle | None = None
        self._looking = False
        self._end = self._until_the_end()
        with contextlib.suppress(StopIteration):
            self._end.asend(None).send(None)  # starts the generator, so that the loop shuts it down

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.close()

    async def ask(self, ask: Ask, wait: float) -> Any:
        """Return the answer to a request. Raises `BrokerError`, after `wait` and the time-out at the latest."""
        future: asyncio.Future[None] = self.loop.create_future()
        self._begin(ask)
        self._waiting[ask.number] = future
        timer = self.loop.call_later(wait + self._timeout, self._expire, ask, future)
        try:
            await future
        finally:
            timer.cancel()
            self._waiting.pop(ask.number, None)
            self._conversation.give_up(ask)
        return ask.value()

    def post(self, ask: Ask) -> None:
        """Send a request, after those sent before; its answer does not matter."""
        self._begin(ask)
        self.loop.call_later(self._timeout, self._conversation.give_up, ask)

    def _begin(self, ask: Ask) -> None:
        if self._line is None:
            self._open()
        self._conversation.begin(ask)
        self._send(ask)

    def _open(self) -> None:
        line = self._line = Line(self._address)
        self.loop.add_reader(line.socket.fileno(), self._look)
        self.loop.add_reader(line.monitor.fileno(), self._look_at_line)
        self.loop.call_soon(self._look_at_line)  # a descriptor tells nothing before the first look
        self._soon()

    # --- Sending --------------------------------------------------------------------------------------

    def _send(self, ask: Ask) -> None:
        if not self._unsent and self._try(ask):
            self._soon()
            return
        self._unsent.append(ask)
        self._flush_later()

    def _try(self, ask: Ask) -> bool:
        """Send a request; return False if it has to wait: until much less is under way, or for a connection."""
        done = self._line is not None and self._line.send(self._conversation.frame(ask))
        ask.sent = ask.sent or done
        return done

    def _flush_later(self) -> None:
        if self._flushing is None and self._line is not None and self._line.is_open:
            self._flushing = self.loop.call_later(FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        while self._unsent:
            if self._unsent[0].number in self._conversation.pending and not self._try(self._unsent[0]):
                self._flush_later()
                break
            self._unsent.popleft()
        self._soon()

    # --- Hearing --------------------------------------------------------------------------------------

    def _soon(self) -> None:
        if not self._looking:
            self._looking = True
            self.loop.call_soon(self._look_once)

    def _look_once(self) -> None:
        self._looking = False
        self._look()

    def _look(self) -> None:
        """Take what has come."""
        line = self._line
        if line is None:
            return
        try:
            for _ in range(AT_ONCE):
                self._settle(self._conversation.hear(line.socket.recv(zmq.NOBLOCK)))
            self._soon()
        except zmq.Again:
            pass

    def _look_at_line(self) -> None:
        """Take what has happened to the line. Nothing but this uses the monitor, so its descriptor misses nothing."""
        for happening in self._line.happenings() if self._line is not None else ():
            if happening is Happening.REFUSED:
                self._settle(self._conversation.fail(not_let_in(str(self._address))))
            elif happening is Happening.OPENED:
                self._unsent.clear()
                for ask in list(self._conversation.pending.values()):
                    self._send(ask)

    def _settle(self, answered: list[Ask]) -> None:
        for ask in answered:
            future = self._waiting.get(ask.number)
            if future is not None and not future.done():
                future.set_result(None)

    def _expire(self, ask: Ask, future: asyncio.Future[None]) -> None:
        if not future.done():
            self._look()  # the loop may have stood still while the answer came
            self._look_at_line()
        if not future.done():
            ask.error = silent(self._address, self._timeout, self._line is not None and self._line.is_open)
            future.set_result(None)

    @property
    def connections(self) -> int:
        """How many connections there have been."""
        return self._line.connections if self._line is not None else 0

    def close(self) -> None:
        """Close the line. Requests that are under way fail."""
        line, self._line = self._line, None
        if self._flushing is not None:
            self._flushing.cancel()
        if line is not None:
            if not self.loop.is_closed():
                self.loop.remove_reader(line.socket.fileno())
                self.loop.remove_reader(line.monitor.fileno())
            line.close()
        self._settle(self._conversation.fail(BrokerError(f"The line to the hub at {self._address} was closed.")))
