"""Outcomes as values in Redis: by the backend alone, or by the broker in the script that settles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from zlib import crc32

import msgspec

from celeriac.model.message import Place
from celeriac.model.outcome import Outcome
from celeriac.ports.workflows import Advance

__all__ = ["CHANNELS", "addressed", "advance_parts", "channel_of", "decode", "encode", "end_parts", "milliseconds",
           "place", "told"]  # fmt: skip

CHANNELS = 64
"""Over so many channels those who wait for outcomes are spread."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Outcome).decode


def encode(outcome: Outcome) -> bytes:
    """Return the value of an outcome: 1 or 0 for whether it is final, and MessagePack."""
    return (b"1" if outcome.ready else b"0") + _encode(outcome)


def addressed(outcome: Outcome) -> bytes:
    """Return the value of an outcome with its channel before it, as one argument of a script."""
    return b"%d,%b" % (channel_of(outcome.id), encode(outcome))


def decode(value: bytes) -> Outcome:
    """Return the outcome of a value."""
    return _decode(memoryview(value)[1:])


def told(payload: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Yield what a channel tells: ids of tasks that have ended, and their values; None for one that is too large."""
    at = 0
    while at < len(payload):
        start = payload.index(0, at) + 1
        end = start + int(payload[at : start - 1])
        id = payload[start:end].decode()
        start = payload.index(0, end) + 1
        size = payload[end : start - 1]
        at = start + int(size or 0)
        yield id, payload[start:at] if size else None


def place(place: Place) -> str:
    """Return where a node stands as the script `acknowledge` takes it."""
    return f"{place.workflow}:{place.node}:{place.join if place.join >= 0 else ''}"


def end_parts(outcome: Outcome, leaves_pending: bool) -> tuple[Any, ...]:
    """Return the end of a workflow's node as the scripts take it."""
    place = outcome.place
    if place is None:
        raise ValueError(f"{outcome.id} is not in a workflow")
    join = place.join if place.join >= 0 else ""
    return (outcome.id, encode(outcome), channel_of(outcome.id), place.workflow, place.node, join, int(leaves_pending))


def advance_parts(advance: Advance) -> list[Any]:
    """Return what follows from a node's end as the scripts take it, but for its messages."""
    parts: list[Any] = [advance.pending.workflow, advance.pending.node, len(advance.outcomes), len(advance.joins)]
    for outcome in advance.outcomes:
        parts += end_parts(outcome, True)
    return [*parts, *advance.joins]


def channel_of(id: str) -> int:
    """Return the number of the channel on which the end of a task is told."""
    return crc32(id.encode()) % CHANNELS


def milliseconds(result_expires: float | None) -> str:
    """Return how long outcomes are kept, as the scripts take it."""
    return "" if result_expires is None else str(max(1, int(result_expires * 1000)))
