"""A blocking line to the hub, for one thread at a time. Lent by `Server`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import zmq

from celeriac.drivers.zmq.address import Address
from celeriac.drivers.zmq.conversation import Ask, Conversation
from celeriac.drivers.zmq.error_translation import not_let_in, silent
from celeriac.drivers.zmq.sockets import Happening, Line

__all__ = ["Channel"]

LOOK_MS: Final = 50  # how often a waiting thread looks whether the connection was lost
WINDOW: Final = 8  # requests that are under way together


class Channel:
    """A conversation and its line."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._line = Line(address)
        self._line.socket.setsockopt(zmq.RCVTIMEO, LOOK_MS)
        self._conversation = Conversation(str(address))

    def ask_all(self, asks: Sequence[Ask], wait: float, timeout: float) -> None:
        """Have requests answered, one after the other, several of them under way. Raises `BrokerError`.

        Each answer has to come within `wait` and the time-out, counted from the one before. After an error, the channel
        must not be used again.
        """
        conversation, line, started = self._conversation, self._line, 0
        deadline = time.monotonic() + wait + timeout
        while started < len(asks) or conversation.pending:
            while started < len(asks) and len(conversation.pending) < WINDOW:
                conversation.begin(asks[started])
                self._send(asks[started])
                started += 1
            try:
                if not line.is_open:
                    line.wait(LOOK_MS)
                frame = line.socket.recv(0 if line.is_open else zmq.NOBLOCK)
            except zmq.Again:
                self._look()
                if time.monotonic() > deadline:
                    raise silent(self._address, timeout, line.is_open) from None
                continue
            if conversation.hear(frame):
                deadline = time.monotonic() + wait + timeout

    def _send(self, ask: Ask) -> None:
        ask.sent = self._line.send(self._conversation.frame(ask)) or ask.sent

    def _look(self) -> None:
        """Deal with what has happened to the line: on a new connection, everything is sent again."""
        is_new = False
        for happening in self._line.happenings():
            if happening is Happening.REFUSED:
                raise not_let_in(str(self._address))
            is_new = is_new or happening is Happening.OPENED
        for ask in list(self._conversation.pending.values()):
            if is_new or not ask.sent:
                self._send(ask)

    def close(self) -> None:
        """Close the line."""
        self._line.close()
