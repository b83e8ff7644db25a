"""A conversation with the hub, without I/O: requests are numbered, and repeated after each new connection.

`Channel` (blocking) and `Session` (asyncio) carry the frames. A request stays pending until its answer has come or its
caller has given up; the hub answers a number that it has answered before with the same answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import msgspec

from celeriac.drivers.zmq.error_translation import error_of, version_error
from celeriac.drivers.zmq.frames import OtherVersion, Request, decode_reply, encode_request
from celeriac.drivers.zmq.verbs import VERBS
from celeriac.errors import CeleriacError
from celeriac.model.gate import Unreadable

__all__ = ["Ask", "Conversation"]

MOST_OVER: Final = 256  # numbers in one request; the hub forgets the others later

_encode: Final = msgspec.msgpack.Encoder().encode


class Ask:
    """A request, and its answer once there is one."""

    __slots__ = ("again", "answered", "arguments", "error", "number", "result", "sent", "verb")

    def __init__(self, verb: str, arguments: tuple[Any, ...],
                 again: Callable[[], tuple[Any, ...]] | None = None) -> None:  # fmt: skip
        self.number = -1
        self.sent = False
        self.verb = verb
        self.arguments = msgspec.Raw(_encode(arguments))
        self.again = again  # returns the arguments with which it is repeated, where they are others
        self.answered = False
        self.result: Any = None
        self.error: CeleriacError | None = None

    def value(self) -> Any:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.result


class Conversation:
    """The requests of one client, in their order."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._session = os.urandom(16)
        self._last = 0
        self.pending: dict[int, Ask] = {}
        self._over: list[int] = []  # numbers that ended since the last request was sent, and not the oldest

    def begin(self, ask: Ask) -> None:
        """Number a request. It is pending until it is answered, or given up."""
        self._last += 1
        ask.number = self._last
        self.pending[ask.number] = ask

    def frame(self, ask: Ask) -> bytes:
        """Return the frame of a pending request. If it was sent before, that is said, since it may be carried out."""
        if ask.sent and ask.again is not None:
            ask.arguments, ask.again = msgspec.Raw(_encode(ask.again())), None
        oldest = next(iter(self.pending))
        over, self._over = [number for number in self._over if number > oldest], []
        return encode_request(Request(self._session, ask.number, oldest, ask.sent, ask.verb, ask.arguments, over))

    def hear(self, frame: bytes) -> list[Ask]:
        """Take a frame; return the requests that it answers: one, or none, or all that are pending."""
        try:
            reply = decode_reply(frame)
        except OtherVersion as error:
            return self.fail(version_error(self._server, error.version))
        except Unreadable:
            return []
        ask = self._end(reply.number)
        if ask is None:  # its caller has given up, or it is the second answer
            return []
        ask.answered = True
        try:
            if reply.kind:
                ask.error = error_of(reply.kind, msgspec.msgpack.decode(reply.body, type=str), self._server)
            else:
                ask.result = VERBS[ask.verb].result(reply.body)
        except (ValueError, TypeError) as error:
            ask.error = error_of("BrokerError", f"its answer to `{ask.verb}` cannot be read: {error}", self._server)
        return [ask]

    def fail(self, error: CeleriacError) -> list[Ask]:
        """Answer all pending requests with an error; return them."""
        failed = list(self.pending.values())
        self.pending.clear()
        for ask in failed:
            ask.answered, ask.error = True, error
        return failed

    def give_up(self, ask: Ask) -> None:
        """Note that nobody waits for a request any more."""
        self._end(ask.number)

    def _end(self, number: int) -> Ask | None:
        ask = self.pending.pop(number, None)
        if ask is not None and len(self._over) < MOST_OVER:
            self._over.append(number)
        return ask
