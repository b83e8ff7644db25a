"""A message as it lies in an AMQP queue: one byte, and the message.

The byte counts the deliveries that are behind it and known to us (the server counts those that ended with a
connection); its highest bit says that the message may have been sent twice.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from celeriac.drivers.amqp.frames import Content, Publication, properties
from celeriac.drivers.amqp.topology import Line, Topology
from celeriac.model.message import Message, decode, encode
from celeriac.ports.operations import Dead, unreadable

__all__ = ["Envelope", "bury", "losses", "post", "read_dead", "unpack"]

AGAIN = 0x80
MOST = 0x7F


class Envelope(NamedTuple):
    """A message that is to be sent."""

    message: Message
    deliveries: int = 0
    again: bool = False  # it may have been sent before

    def pack(self) -> bytes:
        """Return it as bytes."""
        return bytes((min(max(self.deliveries, 0), MOST) | (AGAIN if self.again else 0),)) + encode(self.message)


def unpack(body: bytes) -> Envelope:
    """Read a parcel. Raises `ValueError`, as `msgspec.DecodeError` is one."""
    if not body:
        raise msgspec.DecodeError("it is empty")
    return Envelope(decode(memoryview(body)[1:]), body[0] & MOST, bool(body[0] & AGAIN))


def losses(content: Content) -> int | None:
    """Return how often the server has taken a message back, as it counts; None if it only says that it has.

    Quorum queues count; how a queue was declared, by us or others, need not be known.
    """
    if not content.redelivered:
        return 0
    counted: int | None = content.headers().get("x-delivery-count")
    return counted


def post(parcel: Envelope, topology: Topology, line: Line, now: float) -> Publication:
    """Address a parcel: to its line, or to the delays before it."""
    message = parcel.message
    marks = properties(message.priority, message.id, message.task) if _short(message) else properties(message.priority)
    if message.due_at is None or message.due_at <= now:
        return Publication("", topology.name(line), marks, parcel.pack())
    exchange, key = topology.delayed(message.due_at - now, line)
    return Publication(exchange, key, marks, parcel.pack())


def _short(message: Message) -> bool:
    """Say whether id and task fit into AMQP's properties, where people look for them."""
    return len(message.id) < 64 and len(message.task) < 64


def bury(message: Message, reason: str, at: float, topology: Topology) -> Publication:
    """Address a dead letter."""
    body = msgspec.msgpack.encode(Dead(message=message, reason=reason, at=at))
    return Publication("", topology.dead(message.queue), properties(), body)


def read_dead(body: bytes, queue: str) -> Dead:
    """Read a dead letter; one that is not ours is shown as what it is."""
    try:
        return _decode_dead(body)
    except ValueError:
        return unreadable(body, queue)


_decode_dead = msgspec.msgpack.Decoder(Dead).decode
