"""What an entry is, besides its cursor: when it sends, what, and what happens to ticks that cannot be sent in time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from celeriac.beat.template import Template
from celeriac.model.gate import OptionalName, reader
from celeriac.ports.schedules import Entry
from celeriac.schedules.kinds import AnySchedule
from celeriac.schedules.moments import LATEST
from celeriac.schedules.ticks import MAX_MISSED, Missed

__all__ = ["CODE", "HAND", "LAST_RECORD", "LONGEST_DESCRIPTION", "MOST_MISSED", "MOST_TIMES", "RECORD", "Definition",
           "Origin", "Overlap", "decode_definition", "definition_of", "encode_definition", "read_origin",
           "with_visible_ends"]  # fmt: skip

Milliseconds: TypeAlias = Annotated[int, Meta(ge=0, le=LATEST)]

Overlap: TypeAlias = Literal["allow", "skip", "one", "all", "cancel"]
"""What happens to a tick while what the last one sent has not ended.

`allow`: it is sent. `skip`: it is left out. `one`: the latest is sent when the end has come. `all`: each is sent, one
after the other. `cancel`: what runs is revoked and terminated, and the tick is sent.
"""

LONGEST_DESCRIPTION: Final = 500
MOST_MISSED: Final = 10_000  # ticks that are sent late at a time
MOST_TIMES: Final = 1 << 53  # ticks after which an entry is over

CODE: Final = "code"
HAND: Final = "hand"

RECORD: Final = "\x01"  # names that begin with it are not of schedules: see `release.py`
LAST_RECORD: Final = RECORD + "\U0010ffff"  # comes after all of them, and before all others


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entry as it was declared. Durations are in milliseconds."""

    when: AnySchedule
    what: Template
    missed: Missed = "latest"
    window: Milliseconds | None = None  # ticks that are older are not sent any more
    max_missed: Annotated[int, Meta(ge=1, le=MOST_MISSED)] = MAX_MISSED
    overlap: Overlap = "allow"
    overlap_timeout: Milliseconds | None = None  # what was sent counts as ended after this, whatever is known of it
    jitter: Milliseconds = 0
    times: Annotated[int, Meta(ge=1)] | None = None  # it is over after so many ticks
    origin: Literal["code", "hand"] = "hand"  # `code`: declared by an app, and removed when the app declares it no more
    app: OptionalName = ""  # the app that declared it
    description: Annotated[str, Meta(max_length=LONGEST_DESCRIPTION)] = ""  # for people


def with_visible_ends(definition: Definition) -> Definition:
    """Return a definition whose tasks store an outcome if it minds overlaps, so that their ends are seen."""
    if definition.overlap == "allow":
        return definition
    return replace(definition, what=definition.what.with_outcomes())


encode_definition: Callable[[Definition], bytes] = msgspec.msgpack.Encoder().encode
"""Return a definition as bytes."""

decode_definition: Callable[[bytes | memoryview], Definition] = reader(Definition, "the definition of a schedule")
"""Return a definition from such bytes. Raises `Unreadable`."""


@lru_cache(maxsize=10_000)
def _definition(raw: bytes) -> Definition:
    return decode_definition(raw)


class Origin(msgspec.Struct, frozen=True):
    """The part of a definition that tells who made it. It is quick to read."""

    origin: Literal["code", "hand"] = HAND
    app: OptionalName = ""


read_origin: Callable[[bytes | memoryview], Origin] = reader(Origin, "the definition of a schedule")
"""Return the origin from the bytes of a definition. Raises `Unreadable`."""


def definition_of(entry: Entry) -> Definition:
    """Return the definition of an entry. Raises `Unreadable`."""
    return _definition(bytes(entry.definition))
