"""A message: one request to run a task, with headers and a body.

`message_template.py` makes it, a broker holds it, the worker's supervisor acts on its headers, and `execution.py`
decodes its body in a child. The body is `[args, kwargs]`, encoded. Brokers and supervisors treat it as opaque bytes:
`serialization.prepend` inserts a result as the first argument without decoding either.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterable
from itertools import count as counting
from itertools import islice
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from celeriac.model.failure import Failure
from celeriac.model.gate import (
    DEEPEST,
    LARGEST,
    UNDECODABLE,
    Address,
    Attempt,
    AttemptOrNone,
    Duration,
    Instant,
    Name,
    OptionalName,
    Unreadable,
    check_nesting,
    reader,
    refusal,
)

__all__ = [
    "COROUTINE",
    "HIGHEST_PRIORITY",
    "LANES",
    "PLAIN",
    "Failed",
    "Lane",
    "Link",
    "Message",
    "Place",
    "Priority",
    "check_depth",
    "decode",
    "decode_part",
    "encode",
    "made_at",
    "new_id",
    "new_ids",
    "published_again",
    "too_large",
]

PLAIN: Final = "plain"
COROUTINE: Final = "coroutine"
LANES: Final = (PLAIN, COROUTINE)
"""The kinds of children: those that run plain functions, and those that run coroutines."""

HIGHEST_PRIORITY: Final = 9

Lane: TypeAlias = Literal["plain", "coroutine"]
Priority: TypeAlias = Annotated[int, Meta(ge=0, le=HIGHEST_PRIORITY)]


class Place(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True, gc=False):
    """The node of a workflow that a message runs: enough to settle a member of a group without loading the tree."""

    workflow: Name
    node: Annotated[int, Meta(ge=0)]
    join: Annotated[int, Meta(ge=-1)] = -1  # the join that counts its end
    alone: bool = False  # no other node follows it


class Failed(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The task that failed, in the message of its error callback."""

    id: Name
    task: Name
    failure: Failure
    attempt: AttemptOrNone = 1
    group_id: Name | None = None
    parent_id: Name | None = None
    root_id: Name | None = None


class Message(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True, gc=False):
    """Headers and a body. Instants are in seconds since the epoch, durations in seconds."""

    id: OptionalName  # empty only in the trees of workflows, which have it elsewhere
    task: OptionalName  # likewise
    body: bytes = b""
    content_type: OptionalName = "application/json"
    queue: Name = "default"
    lane: Lane = PLAIN  # as the sender knows the task; a worker that knows better returns it to the right lane
    priority: Priority = 5  # 0 to 9, higher is sooner
    sent_at: Instant = 0.0
    due_at: Instant | None = None  # not to be started before
    countdown: Duration | None = None  # seconds from the publication to `due_at`, if the call gave them and no instant
    expires_at: Instant | None = None  # not to be started after
    attempt: Attempt = 1
    acks_late: bool = True
    ignore_result: bool = False
    track_started: bool = False
    soft_time_limit: Duration | None = None
    time_limit: Duration | None = None
    max_retries: Annotated[int, Meta(ge=0)] | None = None  # set by the call; None: the task's own
    group_id: Name | None = None
    parent_id: Name | None = None
    root_id: Name | None = None
    reply_to: Address = ""  # where outcomes are sent to (`rpc://`), or notices of them (`notices.py`); empty: neither
    headers: dict[str, Any] = {}
    link: list[Link] = []  # sent when this succeeds, with its result
    link_error: list[Link] = []  # sent when this fails, as error callbacks
    failed: Failed | None = None  # in the message of an error callback: the task that failed
    place: Place | None = None  # set in a workflow
    unknown_since: Instant | None = None  # when a worker first found no such task
    requeued: Annotated[int, Meta(ge=0)] = 0  # how often this attempt raised `Reject(requeue=True)`
    omitted: Annotated[int, Meta(ge=0)] = 0  # bytes that it would have with its arguments: too many, so its task fails
    again: bool = False  # it may have been published before, and have ended

    @property
    def gives_result(self) -> bool:
        """Whether its result may be inserted into the bodies of other messages, so that it must be JSON."""
        place = self.place
        if place is not None and (place.join >= 0 or not place.alone):
            return True
        return any(not link.immutable for link in self.link)


class Link(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message that is sent when another has ended. Its id is fixed in advance, so a second send has no effect."""

    message: Message  # its `due_at` and `expires_at` count from the call, and are set anew where they are durations
    immutable: bool = False  # the result (or the failed task) is not put before its arguments
    expires: Duration | None = None  # seconds from when it is sent to `expires_at`, if the call gave them

    def sent(self, now: float, **fields: Any) -> Message:
        """Return the message as it is sent now, with other fields: its countdown and its expiry begin."""
        message = self.message
        if message.countdown is not None:
            fields["due_at"] = now + message.countdown
        if self.expires is not None:
            fields["expires_at"] = now + self.expires
        return replace(message, sent_at=now, **fields)


def published_again(messages: Iterable[Message]) -> list[Message]:
    """Return messages that may have been published before, so that a worker looks for their outcomes first."""
    return [replace(message, again=True) for message in messages]


# --- As bytes -----------------------------------------------------------------------------------------

encode: Callable[[Message], bytes] = msgspec.msgpack.Encoder().encode
"""Return a message as bytes (msgpack), for stores and frames."""

_decode = msgspec.msgpack.Decoder(Message).decode


def decode(data: bytes | memoryview, largest: int = LARGEST) -> Message:
    """Return the message from such bytes. Raises `Unreadable`, a `ValueError`."""
    # This is what `reader` makes, written out: it is called for each message.
    try:
        if len(data) > largest:
            raise too_large(len(data), largest)
        message = _decode(data)
    except Unreadable:
        raise
    except UNDECODABLE as error:
        raise refusal(data, "a message", error) from None
    if not message.id or not message.task:
        raise Unreadable("a message has an id and the name of a task")
    if message.headers or message.link or message.link_error:
        check_depth(message)
    if message.time_limit is not None or message.soft_time_limit is not None:
        return _without_limits_of_0(message)
    return message


def _without_limits_of_0(message: Message) -> Message:
    """Return a message without its limits of 0 s, which earlier versions took; senders mean no limit by them."""
    soft, hard = message.soft_time_limit or None, message.time_limit or None
    if (soft, hard) == (message.soft_time_limit, message.time_limit):
        return message
    return replace(message, soft_time_limit=soft, time_limit=hard)


def too_large(size: int, largest: int) -> Unreadable:
    """Return the error for a message of so many bytes."""
    return Unreadable(f"it has {size:,} bytes, more than `worker_message_max_bytes` allows ({largest:,})")


def check_depth(message: Message) -> None:
    """Raise `Unreadable` for headers or links that are nested deeper than `DEEPEST`."""
    level, messages = 0, [message]
    while messages:
        if level > DEEPEST:
            raise Unreadable(f"links are nested deeper than {DEEPEST} levels")
        for one in messages:
            if one.headers:
                check_nesting(one.headers, "headers")
        messages = [link.message for one in messages for link in (*one.link, *one.link_error)]
        level += 1


decode_part: Callable[[bytes | memoryview], Message] = reader(Message, "a message of a workflow", check_depth)
"""Return a message of a workflow, which may lack id and task. Raises `Unreadable`."""


# --- Ids ----------------------------------------------------------------------------------------------

SETBACK = 10_000  # milliseconds; if the clock is set back by less, new ids still sort after earlier ones


def new_id() -> str:
    """Return a new UUID of version 7 (RFC 9562): 48 bits of milliseconds, a counter of 26 bits, 48 random bits.

    Ids of one process sort in the order in which they were made, and they cannot be guessed.
    """
    try:
        tail = _tails.pop()
    except IndexError:
        tail = _more_tails()
    return _now() + tail


def made_at(id: str) -> float | None:
    """Return when an id was made, in seconds since the epoch; None for one that Celeriac has not made.

    >>> made_at("0197a1b2-c3d4-7000-8000-000000000000"), made_at("order-17")
    (1750768894.932, None)
    """
    if len(id) != 36 or id[8:24:5] != "----" or id[14] != "7":
        return None
    try:
        return int(id[:8] + id[9:13], 16) / 1000
    except ValueError:
        return None


def new_ids(count: int) -> list[str]:
    """Return many new ids at once, at a lower cost for each."""
    _tails.clear()  # they hold lower counters, and later ids must sort after these
    return _make(count, _now())


def _now() -> str:
    """Return the head of ids of this millisecond, or of the latest one if the clock was set back by up to `SETBACK`."""
    global _stamp, _head
    stamp = time.time_ns() // 1_000_000
    if stamp > _stamp or stamp < _stamp - SETBACK:
        # Two threads may do this at once. The last writer wins; their heads are at most a millisecond apart.
        _stamp, _head = stamp, f"{stamp >> 16:08x}-{stamp & 0xFFFF:04x}-7"
    return _head


_stamp, _head = 0, ""
_counter = counting(int.from_bytes(os.urandom(3)))
_tails: list[str] = []  # the tails of the next ids, in reverse; made in batches, at a lower cost for each


def _more_tails() -> str:
    tails = _make(256)
    tails.reverse()
    first = tails.pop()
    _tails[:0] = tails
    return first


def _make(count: int, head: str = "") -> list[str]:
    """Return `count` ids with this head; without one, tails of ids: the counter and the random bits."""
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


def _restart_counter() -> None:
    """Restart the counter in the child of a fork, so that it differs from the parent's and its other children's."""
    global _counter
    _counter = counting(int.from_bytes(os.urandom(3)))
    _tails.clear()


os.register_at_fork(after_in_child=_restart_counter)
