"""The codec of the hub, which has no keys: it stores the bytes that clients have encoded, and reads their heads."""

from __future__ import annotations

from typing import Any, cast

from celeriac.drivers.zmq.parcels import OutcomeParcel, Parcel, parcel_of
from celeriac.model import message as plain
from celeriac.model.codec import Codec
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome

__all__ = ["Carrier"]


class Carrier(Codec):
    """Encodes and decodes parcels. Notes what was written, so that those who wait for it can be answered."""

    def __init__(self) -> None:
        super().__init__()
        self.written: set[tuple[str, str]] = set()  # queue and lane of each message
        self.ended: set[str] = set()  # ids of final outcomes
        self.due_at = float("inf")  # of the message that is due first
        self.encode = self._encode
        self.encode_outcome = self._encode_outcome

    def _encode(self, message: Message) -> bytes:
        self.written.add((message.queue, message.lane))
        if message.due_at is not None and message.due_at < self.due_at:
            self.due_at = message.due_at
        if isinstance(message, Parcel):
            return message.data
        return plain.encode(message)  # the dead letter of bytes without a head

    def _encode_outcome(self, outcome: Outcome) -> bytes:
        if outcome.ready:
            self.ended.add(outcome.id)
        return cast(OutcomeParcel, outcome).data

    def decode(self, data: bytes | memoryview, queue: str | None) -> Message:
        """Return the parcel of stored bytes. Raises `Unreadable`."""
        parcel = parcel_of(data)
        if queue is not None:
            parcel.queue = queue
        return cast(Message, parcel)

    def read_outcome(self, id: str, data: Any) -> Outcome:
        """Return the parcel of a stored outcome; its head is not read."""
        return cast(Outcome, OutcomeParcel(id, "-", None, data if isinstance(data, bytes) else b""))
