"""The gate: reads bytes that come from a server, and refuses what Celeriac cannot have written.

Whoever can write to a broker, a backend or a database can put anything there, and so can a fault or another version.
Every value that is read passes a reader made here before any other code sees it: messages, outcomes, trees, the
journal, worker infos. A reader checks, in this order,

1. the size, before anything is decoded;
2. the types and bounds, which are declared on the fields of the Structs with the types below (`Name`, `Instant`, …);
3. the nesting of values of arbitrary shape (`check_nesting`).

It raises `Unreadable`, whatever is wrong: a duty that calls it has one exception to handle, and none can escape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

__all__ = [
    "DEEPEST",
    "LARGEST",
    "LONGEST_ADDRESS",
    "LONGEST_NAME",
    "SEALED",
    "UNDECODABLE",
    "Address",
    "Attempt",
    "AttemptOrNone",
    "Duration",
    "Instant",
    "Name",
    "OptionalName",
    "Unreadable",
    "check_nesting",
    "reader",
    "refusal",
]

LARGEST: Final = 1 << 30  # bytes of one value; `message_max_bytes` limits messages further
DEEPEST: Final = 50  # levels of dicts and lists, and of messages in the links of messages
LONGEST_NAME: Final = 1000  # characters of an id, or the name of a task, a queue or a state
LONGEST_ADDRESS: Final = 255  # characters; AMQP allows so many bytes

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
OptionalName: TypeAlias = Annotated[str, Meta(max_length=LONGEST_NAME)]
Address: TypeAlias = Annotated[str, Meta(max_length=LONGEST_ADDRESS)]
Instant: TypeAlias = Annotated[float, Meta(ge=-7e10, le=3e11)]
"""Seconds since the epoch, from before the year 1 to after the year 9999. NaN is out of bounds, too."""
Duration: TypeAlias = Annotated[float, Meta(ge=0.0, le=4e10)]
"""Seconds: up to a thousand years, which is the limit for callers, and some."""
Attempt: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 53)]
AttemptOrNone: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 53)]
"""The number of an attempt; 0 for a task of a workflow that was not run."""

SEALED: Final = b"\xc1"
"""The first byte of what is signed or encrypted (seals.py). No MessagePack and no JSON begins with it."""

Struct = TypeVar("Struct")


class Unreadable(ValueError):
    """The bytes are not a value that Celeriac writes."""


UNDECODABLE: Final = (ValueError, RecursionError, OverflowError, TypeError)
"""What decoding raises. A TypeError: the value is not bytes, since SQLite stores any type in any column."""


def refusal(data: Any, what: str, error: Exception) -> Unreadable:
    """Return the error for bytes that decoding has refused."""
    if isinstance(data, bytes | memoryview) and bytes(data[:1]) == SEALED:
        return Unreadable(f"{what} that is signed, and `security_keys` is not set here")
    return Unreadable(f"not {what}: {error}")


def reader(kind: type[Struct] | Any, what: str, check: Callable[[Struct], None] | None = None,
           largest: int = LARGEST, json: bool = False) -> Callable[[bytes | memoryview], Struct]:  # fmt: skip
    """Return a function that decodes msgpack (or JSON) into a `kind`; `what` names it in errors.

    `check` is called with each decoded value, and raises `Unreadable` to refuse it.
    """
    decode = msgspec.json.Decoder(kind).decode if json else msgspec.msgpack.Decoder(kind).decode

    def read(data: bytes | memoryview) -> Struct:
        try:
            if len(data) > largest:
                raise Unreadable(f"{len(data):,} bytes are too many for {what}")
            value: Struct = decode(data)
        except UNDECODABLE as error:
            raise refusal(data, what, error) from None
        if check is not None:
            check(value)
        return value

    return read


def check_nesting(value: Any, what: str) -> None:
    """Raise `Unreadable` for dicts and lists that are nested deeper than `DEEPEST`. Does not recurse."""
    level, containers = 0, [value]
    while containers:
        level += 1
        if level > DEEPEST:
            raise Unreadable(f"{what} are nested deeper than {DEEPEST} levels")
        inner: list[Any] = []
        for container in containers:
            items = container.values() if isinstance(container, dict) else container
            inner += [item for item in items if isinstance(item, dict | list)]
        containers = inner
