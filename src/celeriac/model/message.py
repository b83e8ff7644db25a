"""A message: one request to run a task, on its way.

Made by `signature.py`, carried by a broker, read by a worker's supervisor for its headers and by a child
for its body. The body (`[args, kwargs]`, encoded) stays opaque bytes everywhere between the two.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from itertools import count as counting
from itertools import islice
from typing import Any, Final

import msgspec

from celeriac.model.failure import Failure

__all__ = [
    "COROUTINE",
    "HIGHEST_PRIORITY",
    "LANES",
    "PLAIN",
    "Failed",
    "Link",
    "Message",
    "Place",
    "decode",
    "encode",
    "new_id",
    "new_ids",
]

PLAIN: Final = "plain"
COROUTINE: Final = "coroutine"
LANES: Final = (PLAIN, COROUTINE)
"""What kind of child runs a task: one that runs plain functions, or one that runs coroutines."""

HIGHEST_PRIORITY: Final = 9


class Place(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True, gc=False):
    """Where in which workflow a message stands: enough to settle a group's member and never load the tree."""

    workflow: str
    node: int
    join: int = -1  # the join that counts its end
    alone: bool = False  # nothing but that join follows


class Failed(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What an error callback is told of the task that failed."""

    id: str
    task: str
    failure: Failure
    attempt: int = 1
    group_id: str | None = None
    parent_id: str | None = None
    root_id: str | None = None


class Message(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True, gc=False):
    """Headers and a body. Instants are seconds since the epoch, durations are seconds."""

    id: str
    task: str
    body: bytes = b""
    content_type: str = "application/json"
    queue: str = "default"
    lane: str = PLAIN  # a hint of the sender's, which a worker that knows better corrects
    priority: int = 5  # 0 to 9, higher is sooner
    sent_at: float = 0.0
    due_at: float | None = None  # not to be run before
    expires_at: float | None = None  # not to be started after
    attempt: int = 1
    acks_late: bool = True
    ignore_result: bool = False
    track_started: bool = False
    soft_time_limit: float | None = None
    time_limit: float | None = None
    max_retries: int | None = None  # overrides the task's own, where the call said so
    group_id: str | None = None
    parent_id: str | None = None
    root_id: str | None = None
    reply_to: str = ""  # where the caller wants its outcomes to be sent; empty: kept by the backend
    headers: dict[str, Any] = {}
    link: list[Link] = []  # to be sent, with the result, when this succeeds
    link_error: list[Link] = []  # to be sent, with this message's id, when it fails
    failed: Failed | None = None  # of an error callback: what it is called for
    place: Place | None = None  # in a workflow
    unknown_since: float | None = None  # when a worker first did not know the task

    @property
    def gives_result(self) -> bool:
        """Whether other messages may be given its result: that is put into their bodies, as JSON."""
        place = self.place
        return bool(self.link) or (place is not None and (place.join >= 0 or not place.alone))


class Link(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message to be sent when another has ended. It has its id from the start, so that it is sent once only."""

    message: Message
    immutable: bool = False  # not to be given the result (or the failed id) as its first argument


SETBACK = 10_000  # milliseconds by which the clock may be set back without ids that sort before earlier ones

encode: Callable[[Message], bytes] = msgspec.msgpack.Encoder().encode
"""Return a message as one opaque value, for those that store bytes."""

decode = msgspec.msgpack.Decoder(Message).decode
"""Return the message of such a value. Raises `ValueError`: msgspec's errors are one, and `UnicodeDecodeError` is."""


def new_id() -> str:
    """Return a new UUID of version 7 (RFC 9562): 48 bits of milliseconds, a counter of 26 bits, 48 random bits.

    Ids made by one process sort in the order in which they were made. They cannot be guessed.
    """
    try:
        tail = _tails.pop()
    except IndexError:
        tail = _more_tails()
    return _now() + tail


def new_ids(count: int) -> list[str]:
    """Return as many new ids at once, which is cheaper."""
    _tails.clear()  # what comes after these shall sort after them
    return _made(count, _now())


def _now() -> str:
    """Return the beginning of ids of this millisecond; of the last one, while the clock was set back a little."""
    global _stamp, _head
    stamp = time.time_ns() // 1_000_000
    if stamp > _stamp or stamp < _stamp - SETBACK:
        # Two threads may do this at once: each leaves a head and a stamp, and at worst they are a millisecond apart.
        _stamp, _head = stamp, f"{stamp >> 16:08x}-{stamp & 0xFFFF:04x}-7"
    return _head


_stamp, _head = 0, ""
_counter = counting(int.from_bytes(os.urandom(3)))
_tails: list[str] = []  # the ends of ids to come, the next one last; made many at a time, which is cheaper


def _more_tails() -> str:
    tails = _made(256)
    tails.reverse()
    first = tails.pop()
    _tails[:0] = tails
    return first


def _made(count: int, head: str = "") -> list[str]:
    """Return so many ids that begin so, or (without a head) the ends of ids: the counter, and what is random."""
    numbers = list(islice(_counter, count))
    lows = struct.pack(f">{count}H", *[0x8000 | number & 0x3FFF for number in numbers]).hex("-", 2).split("-")
    noise = os.urandom(6 * count).hex("-", 6).split("-")
    highs = [number >> 14 & 0xFFF for number in (numbers[0], numbers[-1])]
    if highs[0] == highs[1]:
        head = f"{head}{highs[0]:03x}"
        return [f"{head}-{low}-{end}" for low, end in zip(lows, noise, strict=True)]
    return [
        f"{head}{number >> 14 & 0xFFF:03x}-{low}-{end}"
        for number, low, end in zip(numbers, lows, noise, strict=True)
    ]


def _begin_anew() -> None:
    """In a child after a fork: count from elsewhere than the parent and its other children."""
    global _counter
    _counter = counting(int.from_bytes(os.urandom(3)))
    _tails.clear()


os.register_at_fork(after_in_child=_begin_anew)
