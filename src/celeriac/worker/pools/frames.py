"""The protocol between the supervisor and a child: one socket and one pipe for each child.

    supervisor ── socket ──► child     frames: a length (4 bytes) and `Runs` or an `Interrupt`
    supervisor ── pipe ────► child     permits: the index of a run, 8 bytes
    supervisor ◄── socket ── child     frames: `Ready`, then a `Ran` or a `StateReport`

**A child starts a run only after it has taken the run's permit from the pipe.** Runs may be sent ahead, so that a child
with short tasks never waits. Both ends can read the pipe, and a read of 8 bytes takes one whole permit. So the
supervisor can recall runs at any time, even from a child that is stuck, and then knows without asking which runs the
child has started. Nothing waits behind a slow task, and a signal meant for one attempt cannot hit the next.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from celeriac.model.message import Message
from celeriac.model.outcome import Outcome

__all__ = [
    "MAX_FRAME_BYTES",
    "NO_RUN",
    "PERMIT",
    "RECEIVE_BYTES",
    "FrameDecoder",
    "Interrupt",
    "Ran",
    "Ready",
    "Run",
    "Runs",
    "StateReport",
    "frame",
    "parse_from_child",
    "parse_to_child",
    "permits",
]

PERMIT: Final = struct.Struct("<Q")
NO_RUN: Final = 0  # the index of no run: its permit only shows that the child takes permits
RECEIVE_BYTES: Final = 65_536  # per read; a buffer above 128 KiB would be mapped and unmapped for each read
LENGTH: Final = struct.Struct("<I")
MAX_FRAME_BYTES: Final = 1 << 29  # no frame is this long. Stray bytes, such as text, mostly read as a longer length


class Run(msgspec.Struct, array_like=True, gc=False):
    """A message to run when its permit comes."""

    index: int
    deliveries: int
    message: Message


class Runs(msgspec.Struct, array_like=True, tag="runs", gc=False):
    """Run these messages, each when its permit comes."""

    runs: Sequence[Run]


class Interrupt(msgspec.Struct, array_like=True, tag="interrupt", gc=False):
    """Terminate a running coroutine; it ends as revoked."""

    index: int


class Ready(msgspec.Struct, array_like=True, tag="ready", gc=False):
    """The child has started, with the app's `worker_process_init` handlers, and takes runs: time limits count now."""


class Ran(msgspec.Struct, array_like=True, tag="ran", gc=False):
    """An attempt has ended."""

    index: int
    outcome: Outcome
    peak_memory: int = 0  # KiB; 0 if the supervisor did not ask for it


class StateReport(msgspec.Struct, array_like=True, tag="state", gc=False):
    """A running task reported a state: STARTED, or one of its own."""

    index: int
    outcome: Outcome  # not final


_encode = msgspec.msgpack.Encoder().encode
parse_to_child: Any = msgspec.msgpack.Decoder(Runs | Interrupt).decode
parse_from_child: Any = msgspec.msgpack.Decoder(Ready | Ran | StateReport).decode


def frame(content: Runs | Interrupt | Ready | Ran | StateReport) -> bytes:
    """Return a frame as bytes."""
    data = _encode(content)
    return LENGTH.pack(len(data)) + data


def permits(indices: Sequence[int]) -> bytes:
    """Return permits as bytes."""
    return struct.pack(f"<{len(indices)}Q", *indices)


class FrameDecoder:
    """Splits a stream of bytes into frames; keeps the bytes of an incomplete one."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self.wanted = 0  # bytes that the rest needs to become a whole frame

    def feed(self, data: bytes) -> list[bytes]:
        """Return the contents of the frames that these bytes complete."""
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
