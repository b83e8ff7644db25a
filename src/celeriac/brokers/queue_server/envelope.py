"""A message as it is stored in a queue of the server: one byte, and the message.

The byte counts the deliveries that ended otherwise than with a connection (the server counts those that did); its
highest bit says that the message may have been sent twice.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from celeriac.model.codec import Codec
from celeriac.model.gate import Unreadable
from celeriac.model.message import Message
from celeriac.ports.operations import Dead, unreadable
from celeriac.ports.operations import read_dead as decode_dead

__all__ = ["Envelope", "Parcel", "encode_dead", "read_dead", "unpack"]

AGAIN = 0x80
MAX_DELIVERIES = 0x7F


class Envelope(NamedTuple):
    """A message to be sent to its line."""

    message: Message
    deliveries: int = 0
    again: bool = False  # it may have been sent before

    def pack(self, codec: Codec) -> bytes:
        """Return it as bytes."""
        first = min(max(self.deliveries, 0), MAX_DELIVERIES) | (AGAIN if self.again else 0)
        return bytes((first,)) + codec.encode(self.message)


class Parcel(NamedTuple):
    """Bytes to be sent to an address: a dead letter, or an envelope that was packed before."""

    address: str
    body: bytes


def unpack(body: bytes, queue: str, codec: Codec) -> Envelope:
    """Read an envelope of a queue. Raises `Unreadable`, a `ValueError`."""
    if not body:
        raise Unreadable("it is empty")
    return Envelope(codec.decode(memoryview(body)[1:], queue), body[0] & MAX_DELIVERIES, bool(body[0] & AGAIN))


def encode_dead(message: Message, reason: str, at: float, codec: Codec) -> bytes:
    """Return a dead letter as bytes."""
    return codec.seal("dead", msgspec.msgpack.encode(Dead(message=message, reason=reason, at=at)))


def read_dead(body: bytes, queue: str, codec: Codec) -> Dead:
    """Read a dead letter; bytes that are none become the body of one."""
    try:
        return decode_dead(codec.open("dead", body))
    except ValueError as error:
        return unreadable(body, queue, str(error))


