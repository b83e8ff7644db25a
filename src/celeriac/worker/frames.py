"""What supervisor and child say to each other, over one socket and one pipe for each child.

    supervisor ── socket ──► child     frames: a length (4 bytes) and a `Run` or an `Interrupt`
    supervisor ── pipe ────► child     permits: the index of a run, 8 bytes
    supervisor ◄── socket ── child     frames: a `Ran` or a `Told`

**A run is started only by whoever takes its permit from the pipe.** Runs may be sent ahead, so that a child with
short tasks never waits; both ends can read the pipe, and a read of 8 bytes takes one permit whole. So the supervisor
can call runs back at any time, even from a child that is stuck, and knows afterwards, without asking, what the child
has started: nothing is held back behind a slow task, and a signal meant for one attempt cannot hit the next.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from celeriac.message import Message
from celeriac.outcome import Outcome

__all__ = [
    "NOTHING",
    "PERMIT",
    "Frames",
    "Interrupt",
    "Ran",
    "Run",
    "Told",
    "frame",
    "parse_from_child",
    "parse_to_child",
]

PERMIT: Final = struct.Struct("<Q")
NOTHING: Final = 0  # the index of no run: its permit only shows that the child takes permits
LENGTH: Final = struct.Struct("<I")


class Run(msgspec.Struct, array_like=True, tag="run", gc=False):
    """Run this message, when its permit comes."""

    index: int
    deliveries: int
    message: Message


class Interrupt(msgspec.Struct, array_like=True, tag="interrupt", gc=False):
    """End a running coroutine as revoked."""

    index: int


class Ran(msgspec.Struct, array_like=True, tag="ran", gc=False):
    """An attempt has ended."""

    index: int
    outcome: Outcome
    peak_memory: int = 0  # KiB; 0 where nobody wants to know


class Told(msgspec.Struct, array_like=True, tag="told", gc=False):
    """An attempt told its state."""

    index: int
    outcome: Outcome


_encode = msgspec.msgpack.Encoder().encode
parse_to_child: Any = msgspec.msgpack.Decoder(Run | Interrupt).decode
parse_from_child: Any = msgspec.msgpack.Decoder(Ran | Told).decode


def frame(content: Run | Interrupt | Ran | Told) -> bytes:
    """Return a frame as bytes."""
    data = _encode(content)
    return LENGTH.pack(len(data)) + data


class Frames:
    """Bytes in, frames out: keeps what is not whole yet."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that these bytes complete."""
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        while end - start >= 4:
            (length,) = LENGTH.unpack_from(buffer, start)
            if end - start - 4 < length:
                break
            yield bytes(buffer[start + 4 : start + 4 + length])
            start += 4 + length
        del buffer[:start]
