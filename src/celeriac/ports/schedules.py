"""The port for keeping schedules: entries, of which each is replaced by compare-and-set.

A scheduler asks for the entries that are due, works out what to send, and calls `change`: that replaces the entry, if
no other scheduler and no edit was faster, and publishes its messages in the same atomic step. So any number of
schedulers may run, and each tick is sent once. None of them keeps an entry in memory.

A broker that keeps its messages and schedules in one place is a `ScheduleKeeper`. For other brokers the backend is:
then `change` publishes nothing, and a scheduler claims an entry, publishes, and confirms, in three steps.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from celeriac.errors import BackendError
from celeriac.model.gate import Name, OptionalName, Unreadable, reader
from celeriac.model.message import Message
from celeriac.model.repeated_warnings import RepeatedWarnings
from celeriac.ports.workflows import KEEPERS, Plan

if TYPE_CHECKING:
    from celeriac.ports.backend import Backend
    from celeriac.ports.broker import Broker

__all__ = ["Change", "Due", "Entry", "Moment", "ScheduleKeeper", "ScheduleStore", "decode_entry", "encode_entry",
           "first_revision", "readable", "schedule_store"]  # fmt: skip

Row = TypeVar("Row")

warnings = RepeatedWarnings(logging.getLogger("celeriac.schedules"))

Moment: TypeAlias = Annotated[int, Meta(ge=-70_000_000_000_000, le=300_000_000_000_000)]
"""Milliseconds since the epoch, from before the year 1 to after the year 9999."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A schedule as it is kept."""

    name: Name
    definition: msgspec.Raw = msgspec.Raw(b"\xc0")  # what is sent, and when; MessagePack that only schedulers read
    salt: bytes = b""  # makes the ids of what it sends
    cursor: Moment  # the ticks up to this one have been dealt with
    next_at: Moment | None = None  # when a scheduler has to look at it; None: it is paused, or over
    paused: bool = False
    claimed_at: Moment | None = None  # the instant by which a scheduler worked out what it is about to publish
    version: Annotated[int, Meta(ge=0)] = 0  # how often its definition was changed
    sent: Annotated[int, Meta(ge=0)] = 0  # ticks …
    missed: Annotated[int, Meta(ge=0)] = 0  # … that were left out because they were found late
    skipped: Annotated[int, Meta(ge=0)] = 0  # … that were left out because the one before had not ended
    last_at: Moment | None = None  # the tick that was sent last
    last_id: OptionalName = ""  # and the id of its task or workflow
    revision: Annotated[int, Meta(ge=0)] = 0  # set by the store: rises with each change, from `first_revision` on


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as it was read, what it becomes, and what is sent in the same step."""

    before: Entry
    after: Entry
    messages: Sequence[Message] = ()
    plans: Sequence[Plan] = ()  # workflows to be planted, before their first messages are published


class Due(msgspec.Struct, frozen=True):
    """What a scheduler is to deal with."""

    now: int  # milliseconds since the epoch, by the store's clock
    entries: list[Entry]  # due now, the soonest first
    soonest: int | None  # when the next of all other entries is due, as far as they are known; None: none is


class ScheduleStore(ABC):
    """Keeps entries, by name."""

    publishes = True
    """Whether `change` publishes messages and plants workflows. If not, both must be empty."""

    @abstractmethod
    async def create(self, entries: Sequence[Entry]) -> list[bool]:
        """Store entries. Return False for each whose name is taken: it is left as it is."""

    @abstractmethod
    async def change(self, changes: Sequence[Change]) -> list[bool]:
        """Carry out each in one atomic step. Return False if the revision of its entry is not that of `before`."""

    @abstractmethod
    async def remove(self, names: Mapping[str, int | None]) -> list[bool]:
        """Delete entries. Return False for each that is not there, or has another revision than this; None: any."""

    @abstractmethod
    async def get(self, names: Sequence[str]) -> dict[str, Entry]:
        """Return entries by name, as far as they exist and can be read."""

    @abstractmethod
    async def page(self, after: str, limit: int) -> list[Entry]:
        """Return up to `limit` entries whose names come after this one, sorted by name (as UTF-8)."""

    @abstractmethod
    async def due(self, limit: int) -> Due:
        """Return up to `limit` entries that are due now."""


def first_revision() -> int:
    """Return the revision of a new entry: a random number, so that it is not one of an entry that had its name."""
    return int.from_bytes(os.urandom(5))


def readable(rows: Iterable[tuple[str, Row]], entry_of: Callable[[Row], Entry]) -> list[Entry]:
    """Return the entries of rows, which come with their names, and leave out and log what is unreadable."""
    found = []
    for name, row in rows:
        try:
            found.append(entry_of(row))
        except Unreadable as error:
            warnings.warn("The schedule %r is unreadable: %s", name, error)
    return found


class ScheduleKeeper(ABC):
    """What keeps schedules. Implemented by brokers next to `Broker`, and by backends next to `Backend`."""

    comes_first = False
    """Whether a backend keeps them although the broker could: because people change them there by other means."""

    @abstractmethod
    def schedules(self) -> ScheduleStore:
        """Return the port for schedules."""


def schedule_store(broker: Broker, backend: Backend) -> ScheduleStore:
    """Return the port for schedules of a broker, or else of a backend. Raises `BackendError` if neither keeps any."""
    comes_first = isinstance(backend, ScheduleKeeper) and backend.comes_first
    for keeper in (backend, broker) if comes_first else (broker, backend):
        if isinstance(keeper, ScheduleKeeper):
            return keeper.schedules()
    raise BackendError(f"Neither {broker!r} nor {backend!r} keeps schedules. Set `result_backend` to one that does: "
                       f"{KEEPERS}.")  # fmt: skip


encode_entry: Callable[[Entry], bytes] = msgspec.msgpack.Encoder().encode
"""Return an entry as bytes."""

decode_entry: Callable[[bytes | memoryview], Entry] = reader(Entry, "a schedule")
"""Return an entry from such bytes. Raises `Unreadable`."""
