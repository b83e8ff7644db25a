"""Parcels: messages and outcomes as the hub has them. It reads their heads, and never needs a key to store the rest.

A client encodes a message with the app's codec. Plain and signed bytes carry the head in the clear; the hub reads it
there (and does not check signatures: the worker does). Encrypted bytes are put into a wrapper that repeats the head:

    C1 03, size of the head (4), the head, the encrypted bytes

On the disk of a hub, whatever is not encrypted is as the embedded SQLite broker writes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from celeriac import states
from celeriac.model.codec import Codec
from celeriac.model.gate import SEALED, UNDECODABLE, Duration, Instant, Name, Unreadable
from celeriac.model.message import PLAIN, Lane, Message, Place, Priority
from celeriac.model.outcome import Outcome, unreadable_outcome

__all__ = ["OutcomeParcel", "Parcel", "message_packer", "open_message", "open_outcome", "outcome_packer", "parcel_of",
           "parcel_of_outcome"]  # fmt: skip

SIGNED: Final = SEALED + b"\x01"
SIGNATURE: Final = 22  # bytes before what is signed (model/seals.py)
WRAPPED: Final = SEALED + b"\x03"
HEAD: Final = len(WRAPPED) + 4


class Parcel(msgspec.Struct, gc=False, omit_defaults=True, rename={"data": "(data)"}):
    """A message: its head, and the bytes that are stored. It has what the SQLite broker asks of a `Message`."""

    id: Name
    task: Name
    queue: Name = "default"
    lane: Lane = PLAIN
    priority: Priority = 5
    due_at: Instant | None = None
    countdown: Duration | None = None
    acks_late: bool = True
    data: bytes = b""


class OutcomeParcel(msgspec.Struct, gc=False, omit_defaults=True, rename={"data": "(data)"}):
    """An outcome: its head, and the bytes that are stored."""

    id: Name
    state: Name
    place: Place | None = None
    data: bytes = b""

    @property
    def ready(self) -> bool:
        """Whether nothing more happens after this."""
        return self.state in states.READY_STATES


_message_head = msgspec.msgpack.Decoder(Parcel).decode
_outcome_head = msgspec.msgpack.Decoder(OutcomeParcel).decode
_encode = msgspec.msgpack.Encoder().encode


def parcel_of(data: Any) -> Parcel:
    """Return the parcel of a message's bytes. Raises `Unreadable`."""
    parcel: Parcel = _read(data, _message_head, "a message")
    parcel.data = data
    return parcel


def parcel_of_outcome(data: bytes) -> OutcomeParcel:
    """Return the parcel of an outcome's bytes. Raises `Unreadable`."""
    parcel: OutcomeParcel = _read(data, _outcome_head, "an outcome")
    parcel.data = data
    return parcel


def _read(data: Any, head: Callable[[Any], Any], what: str) -> Any:
    try:
        if data[:1] != SEALED:
            return head(data)
        if data[:2] == SIGNED:
            return head(memoryview(data)[SIGNATURE:])
        if data[:2] == WRAPPED:
            return head(memoryview(data)[HEAD : HEAD + _size(data)])
    except UNDECODABLE as error:
        raise Unreadable(f"not {what}: {error}") from None
    raise Unreadable(f"not {what}: it is sealed, and has no head that the hub can read")


def _size(data: bytes) -> int:
    return int.from_bytes(data[len(WRAPPED) : HEAD])


def message_packer(codec: Codec) -> Callable[[Message], bytes]:
    """Return the function that encodes messages for the hub."""
    if not codec.encrypts:
        return codec.encode

    def pack(message: Message) -> bytes:
        head = Parcel(message.id, message.task, message.queue, message.lane, message.priority, message.due_at,
                      message.countdown, message.acks_late)  # fmt: skip
        return _wrapped(head, codec.encode(message))

    return pack


def outcome_packer(codec: Codec) -> Callable[[Outcome], bytes]:
    """Return the function that encodes outcomes for the hub."""
    if not codec.encrypts:
        return codec.encode_outcome
    return lambda item: _wrapped(OutcomeParcel(item.id, item.state, item.place), codec.encode_outcome(item))


def _wrapped(head: Parcel | OutcomeParcel, data: bytes) -> bytes:
    encoded = _encode(head)
    return WRAPPED + len(encoded).to_bytes(4) + encoded + data


def open_message(data: bytes, queue: str | None, codec: Codec) -> Message:
    """Return the message of a parcel's bytes. Raises `Unreadable`."""
    return codec.decode(data if data[:2] != WRAPPED else memoryview(data)[HEAD + _size(data) :], queue)


def open_outcome(id: str, data: bytes, codec: Codec) -> Outcome:
    """Return the outcome of a parcel's bytes; a failure if they cannot be read."""
    try:
        return codec.read_outcome(id, data if data[:2] != WRAPPED else memoryview(data)[HEAD + _size(data) :])
    except UNDECODABLE as error:
        return unreadable_outcome(id, error)
