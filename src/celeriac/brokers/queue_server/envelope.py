"""A message as it is stored in a queue of the server: one byte, and the message.

The byte counts the deliveries that ended otherwise than with a connection (the server counts those that did); its
highest bit says that the message may have been sent twice.

Durations are waited for by the server's clock. A message whose `countdown` is set has a duration, and `due_at` is only
what the sender expected: whoever receives it knows that the server has waited, whatever clocks say. A message with a
`due_at` alone waits for an instant (an ETA), by the clock of who sends it, and then of who receives it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from celeriac.model.codec import Codec
from celeriac.model.gate import Unreadable
from celeriac.model.message import Message
from celeriac.ports.operations import Dead, unreadable
from celeriac.ports.operations import read_dead as decode_dead

__all__ = ["Envelope", "Parcel", "encode_dead", "read_dead", "returned", "unpack"]

AGAIN = 0x80
MAX_DELIVERIES = 0x7F


class Envelope(NamedTuple):
    """A message to be sent to its line."""

    message: Message
    deliveries: int = 0
    again: bool = False  # it may have been sent before
    delay: float | None = None  # seconds that it is held before its line; None: as long as the message says; not packed
    returns: bool = False  # it takes the place of what was delivered under its id; not packed

    def seconds(self, now: float) -> float:
        """Return how long it must be held before its line; 0 or less: not at all."""
        if self.delay is not None:
            return self.delay
        message = self.message
        if message.due_at is None:
            return 0.0
        return message.due_at - now if message.countdown is None else message.countdown

    def pack(self, codec: Codec) -> bytes:
        """Return it as bytes."""
        first = min(max(self.deliveries, 0), MAX_DELIVERIES) | (AGAIN if self.again else 0)
        return bytes((first,)) + codec.encode(self.message)


def returned(message: Message, deliveries: int, again: bool, delay: float | None) -> Envelope:
    """Return the envelope of a message that goes back to its line: after a delay, or when it says so.

    A countdown that the message was called with has passed by now, and the delay takes its place.
    """
    if delay is not None:
        return Envelope(replace(message, countdown=delay), deliveries, again, delay, returns=True)
    return Envelope(message, deliveries, again, None if message.countdown is None else 0.0, returns=True)


class Parcel(NamedTuple):
    """Bytes to be sent to an address: a dead letter, or an envelope that was packed before."""

    address: str
    body: bytes


def unpack(body: bytes, queue: str | None, codec: Codec) -> Envelope:
    """Read an envelope of a queue (None: of any). Raises `Unreadable`, a `ValueError`."""
    if not body:
        raise Unreadable("it is empty")
    return Envelope(codec.decode(body[1:], queue), body[0] & MAX_DELIVERIES, bool(body[0] & AGAIN))


def encode_dead(message: Message, reason: str, at: float, codec: Codec) -> bytes:
    """Return a dead letter as bytes."""
    return codec.seal("dead", msgspec.msgpack.encode(Dead(message=message, reason=reason, at=at)))


def read_dead(body: bytes, queue: str, codec: Codec) -> Dead:
    """Read a dead letter; bytes that are none become the body of one."""
    try:
        return decode_dead(codec.open("dead", body))
    except ValueError as error:
        return unreadable(body, queue, str(error))


