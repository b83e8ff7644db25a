"""Watching: what workers tell somebody who looks, as attempts end. A worker that nobody watches tells nothing.

A watch is a control command (`worker/commands.py`) with a channel and a filter, which expires unless it is
repeated. The worker sends the attempts that the filter means to that channel (`worker/watches.py`), up to a rate, and
how many it has left out. The HTTP API watches for its streams of events (`web/watching.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from celeriac.model.gate import Name, reader
from celeriac.model.history import Attempt

__all__ = ["CHANNELS", "LONGEST_WATCH", "MOST_VALUES", "MOST_WATCHED", "Told", "encode_told", "read_told"]

CHANNELS: Final = "events."
"""How the names of channels of watches begin: a command must not make workers send to other channels."""

LONGEST_WATCH: Final = 60.0  # seconds, after which it expires unless it is repeated
MOST_WATCHED: Final = 1000.0  # attempts per second
MOST_VALUES: Final = 100  # of one condition
LARGEST: Final = 1 << 24  # bytes


class Told(msgspec.Struct, array_like=True):
    """What one worker tells: attempts that have ended, and how many others there were."""

    worker: Name
    attempts: list[Attempt]
    dropped: Annotated[int, Meta(ge=0)] = 0


encode_told: Callable[[Told], bytes] = msgspec.msgpack.Encoder().encode
"""Return what is told as bytes (msgpack)."""

read_told: Callable[[bytes | memoryview], Told] = reader(Told, "what a worker tells those who watch", largest=LARGEST)
"""Return what was told. Raises `Unreadable`, a `ValueError`."""
