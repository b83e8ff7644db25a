"""Outcomes as values in Redis: by the backend alone, or by the broker in the script that settles."""

from __future__ import annotations

from zlib import crc32

import msgspec

from celeriac.outcome import Outcome

__all__ = ["CHANNELS", "channel_of", "decode", "encode", "milliseconds"]

CHANNELS = 64
"""Over so many channels those who wait for outcomes are spread."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Outcome).decode


def encode(outcome: Outcome) -> bytes:
    """Return the value of an outcome: 1 or 0 for whether it is final, and MessagePack."""
    return (b"1" if outcome.ready else b"0") + _encode(outcome)


def decode(value: bytes) -> Outcome:
    """Return the outcome of a value."""
    return _decode(memoryview(value)[1:])


def channel_of(id: str) -> int:
    """Return the number of the channel on which the end of a task is told."""
    return crc32(id.encode()) % CHANNELS


def milliseconds(result_expires: float | None) -> str:
    """Return how long outcomes are kept, as the scripts take it."""
    return "" if result_expires is None else str(max(1, int(result_expires * 1000)))
