"""What supervisor and child say to each other, over one socket and one pipe for each child.

    supervisor ── socket ──► child     frames: a length (4 bytes) and `Runs` or an `Interrupt`
    supervisor ── pipe ────► child     permits: the index of a run, 8 bytes
    supervisor ◄── socket ── child     frames: `Ready`, then a `Ran` or a `Told`

**A run is started only by whoever takes its permit from the pipe.** Runs may be sent ahead, so that a child with
short tasks never waits; both ends can read the pipe, and a read of 8 bytes takes one permit whole. So the supervisor
can call runs back at any time, even from a child that is stuck, and knows afterwards, without asking, what the child
has started: nothing is held back behind a slow task, and a signal meant for one attempt cannot hit the next.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from celeriac.model.message import Message
from celeriac.model.outcome import Outcome

__all__ = [
    "LONGEST",
    "NOTHING",
    "PERMIT",
    "RECEIVE_BYTES",
    "Frames",
    "Interrupt",
    "Ran",
    "Ready",
    "Run",
    "Runs",
    "Told",
    "frame",
    "parse_from_child",
    "parse_to_child",
    "permits",
]

PERMIT: Final = struct.Struct("<Q")
NOTHING: Final = 0  # the index of no run: its permit only shows that the child takes permits
RECEIVE_BYTES: Final = 65_536  # at a time; a buffer above 128 KiB would be mapped, and unmapped, for each read
LENGTH: Final = struct.Struct("<I")
LONGEST: Final = 1 << 29  # bytes; no frame is as long. What is none, such as text, mostly seems to begin a longer one


class Run(msgspec.Struct, array_like=True, gc=False):
    """A message to be run when its permit comes."""

    index: int
    deliveries: int
    message: Message


class Runs(msgspec.Struct, array_like=True, tag="runs", gc=False):
    """Run these messages, each when its permit comes."""

    runs: Sequence[Run]


class Interrupt(msgspec.Struct, array_like=True, tag="interrupt", gc=False):
    """End a running coroutine as revoked."""

    index: int


class Ready(msgspec.Struct, array_like=True, tag="ready", gc=False):
    """The child has started, whatever the app does then, and can take runs: from now on they have limits."""


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
parse_to_child: Any = msgspec.msgpack.Decoder(Runs | Interrupt).decode
parse_from_child: Any = msgspec.msgpack.Decoder(Ready | Ran | Told).decode


def frame(content: Runs | Interrupt | Ready | Ran | Told) -> bytes:
    """Return a frame as bytes."""
    data = _encode(content)
    return LENGTH.pack(len(data)) + data


def permits(indices: Sequence[int]) -> bytes:
    """Return permits as bytes."""
    return struct.pack(f"<{len(indices)}Q", *indices)


class Frames:
    """Bytes in, frames out: keeps what is not whole yet."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self.wanted = 0  # so long must the rest become, before it has a frame

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that these bytes complete."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self.wanted:
                return []
            data = bytes(self._rest)
        found, start, end, length_at = [], 0, len(data), LENGTH.unpack_from
        self.wanted = 4
        while end - start >= 4:
            stop = start + 4 + length_at(data, start)[0]
            if stop > end:
                self.wanted = stop - start
                break
            found.append(data[start + 4 : stop])
            start = stop
        self._rest = bytearray(data[start:]) if start < end else bytearray()
        return found
