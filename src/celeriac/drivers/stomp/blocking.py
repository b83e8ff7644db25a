"""A blocking connection, for threads: sends and browses."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence

from celeriac.drivers.blocking_connection import BlockingConnection
from celeriac.drivers.hosts import Hosts
from celeriac.drivers.stomp.address import Address
from celeriac.drivers.stomp.error_translation import refused
from celeriac.drivers.stomp.frames import Frame, Parser, Publication, frame
from celeriac.drivers.stomp.opening import WINDOW, Browse, facts_of, hello, packed, subscribe

__all__ = ["Connection"]


class Connection(BlockingConnection):
    """A connection. After any error it cannot be used: close it.

    Raises only `OSError` (with `TimeoutError` and `ConnectionLost`), `BrokerUnavailable` and `Refused`.
    """

    address: Address

    def __init__(self, address: Address, within: float, hosts: Hosts | None = None) -> None:
        super().__init__(address, within, hosts)

    def begin(self) -> None:
        self._parser = Parser()
        self._frames: deque[Frame] = deque()  # received, and not read
        self._numbers = itertools.count(1)
        self._reach()
        try:
            self._write(hello(self.address, 0.0))
            self.facts = facts_of(self._next(), self.address, 0.0)
        except BaseException:
            self._socket.close()
            raise

    def farewell(self) -> bytes:
        return frame("DISCONNECT", {})

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

    # --- What arrives ---------------------------------------------------------------------------------

    def stale(self) -> bool:
        return super().stale() or any(found.command == "ERROR" for found in self._frames)

    def take(self, data: bytes) -> None:
        self._frames.extend(self._parser.feed(data))

    def _read(self) -> Frame:
        """Return the next frame. Raises `Refused` for an ERROR."""
        found = self._next()
        if found.command == "ERROR":
            raise refused(found.headers.get("message", ""), found.body)
        return found

    def _next(self) -> Frame:
        while not self._frames:
            self.take(self._receive())
        return self._frames.popleft()
