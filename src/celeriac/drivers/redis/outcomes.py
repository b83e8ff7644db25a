"""How outcomes are encoded for the scripts. Used by the backend, and by the broker when it settles."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from zlib import crc32

from celeriac.model.codec import Codec
from celeriac.model.message import Place
from celeriac.model.outcome import Outcome
from celeriac.model.repeated_warnings import RepeatedWarnings
from celeriac.ports.workflows import Advance

__all__ = ["CHANNELS", "addressed", "advance_parts", "announced", "channel_of", "encode", "end_parts",
           "milliseconds", "place", "place_parts", "read"]  # fmt: skip

CHANNELS = 64
"""The ends of tasks are published on so many channels, so that a client receives only a part of them."""

LONGEST_SIZE = 10  # digits

warnings = RepeatedWarnings(logging.getLogger("celeriac.redis"))


def encode(outcome: Outcome, codec: Codec) -> bytes:
    """Encode an outcome: 1 if it is final, else 0, then MessagePack."""
    return (b"1" if outcome.ready else b"0") + codec.encode_outcome(outcome)


def addressed(outcome: Outcome, codec: Codec) -> bytes:
    """Encode an outcome with its channel before it, as one argument of `acknowledge`."""
    return b"%d,%b" % (channel_of(outcome.id), encode(outcome, codec))


def read(id: str, value: bytes, codec: Codec) -> Outcome:
    """Return the outcome of a task from its value; a failure if that is unreadable."""
    return codec.read_outcome(id, memoryview(value)[1:])


def announced(payload: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Yield the ids of ended tasks in a payload of a channel, with their values; None for a value that is too large.

    Stops at what no script of Celeriac's sends: anybody can publish on a channel.
    """
    at = 0
    while at < len(payload):
        try:
            start = payload.index(0, at) + 1
            end = start + _size(payload[at : start - 1])
            id = payload[start:end].decode()
            start = payload.index(0, end) + 1
            size = payload[end : start - 1]
            at = start + (_size(size) if size else 0)
        except ValueError:
            warnings.warn("A payload of %d bytes on a channel of ended tasks is unreadable; the rest of it is ignored",
                          len(payload))  # fmt: skip
            return
        yield id, payload[start:at] if size else None


def _size(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > LONGEST_SIZE:
        raise ValueError(f"{digits[:LONGEST_SIZE]!r} is not a size")
    return int(digits)


def place(place: Place) -> str:
    """Encode a node's place as `acknowledge` takes it."""
    return f"{place.workflow}:{place.node}:{place.join if place.join >= 0 else ''}"


def end_parts(outcome: Outcome, leaves_pending: bool, codec: Codec) -> tuple[Any, ...]:
    """Return the end of a workflow's node as `conclude` takes it."""
    return (outcome.id, encode(outcome, codec), channel_of(outcome.id), *place_parts(outcome, leaves_pending))


def place_parts(outcome: Outcome, leaves_pending: bool) -> tuple[Any, ...]:
    """Return the place of a workflow's node that ends, as the scripts take it."""
    place = outcome.place
    if place is None:
        raise ValueError(f"{outcome.id} is not in a workflow")
    return (place.workflow, place.node, place.join if place.join >= 0 else "", int(leaves_pending))


def advance_parts(advance: Advance, codec: Codec) -> list[Any]:
    """Return an advance as the script `advance` takes it, without its messages."""
    parts: list[Any] = [advance.pending.workflow, advance.pending.node, len(advance.outcomes), len(advance.joins)]
    for outcome in advance.outcomes:
        parts += end_parts(outcome, True, codec)
    return [*parts, *advance.joins]


def channel_of(id: str) -> int:
    """Return the number of the channel on which the end of a task is published."""
    return crc32(id.encode()) % CHANNELS


def milliseconds(result_expires: float | None) -> str:
    """Return how long outcomes are kept, as the scripts take it: empty for ever."""
    return "" if result_expires is None else str(max(1, int(result_expires * 1000)))
