"""The port for delays: messages that wait, kept beside a broker whose server holds none, and moved there when due.

Callers and workers `keep` what has to wait, in the result backend's store; it is safe there when the call returns.
Every worker takes what is due, sends it to the broker, and removes it, in that order. What is taken is held for some
seconds: if its worker dies meanwhile, another one takes it again after that, and it is marked (`Taken.again`), because
it may have been sent. `remove` demands the token of who holds it. So of a message that was kept again under its id in
the meantime, as a retry is, nothing is removed.

The store keeps bytes, and reads none of them: what the broker would have put into its queue.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from celeriac.errors import NotSupported
from celeriac.ports.workflows import KEEPERS

if TYPE_CHECKING:
    from celeriac.ports.backend import Backend

__all__ = ["Counts", "DelayKeeper", "DelayStore", "Delayed", "Due", "Taken", "delay_store", "new_token",
           "removed"]  # fmt: skip


class Delayed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message to be kept until it is due."""

    id: str
    queue: str
    data: bytes
    due_at: float | None = None  # seconds since the epoch
    delay: float = 0.0  # if `due_at` is None: seconds from now, by the store's clock if it has one
    replaces: bool = False  # it takes the place of a message of this id; otherwise that one stays, unless it was taken
    again: bool = False  # it may have been kept, and moved, before


class Taken(msgspec.Struct, frozen=True, gc=False):
    """A message that is held by who took it."""

    id: str
    queue: str
    data: bytes
    due_at: float
    token: int = 0  # proves the hold; 0: it was only looked at
    again: bool = False  # it was taken before, and may have been sent


class Due(NamedTuple):
    """What was taken because it is due."""

    taken: list[Taken]
    soonest: float | None  # in how many seconds the next of all others is due; None: none is


class Counts(NamedTuple):
    """How many messages of a queue are kept."""

    due: int = 0
    waiting: int = 0


class DelayStore(ABC):
    """Keeps messages, by id. The costs of all but `counts` do not depend on how many wait."""

    poll: float
    """Seconds after which `changed` returns at the latest."""

    @abstractmethod
    def keep(self, messages: Sequence[Delayed]) -> None:
        """Return when all are stored. One whose id is taken is left out, unless it replaces that, or that was taken."""

    @abstractmethod
    async def akeep(self, messages: Sequence[Delayed]) -> None:
        """Coroutine version of `keep`."""

    @abstractmethod
    async def take_due(self, limit: int, seconds: float) -> Due:
        """Take up to `limit` messages that are due and not held, the soonest first; hold them for so many seconds."""

    @abstractmethod
    async def take(self, ids: Sequence[str], seconds: float) -> list[Taken]:
        """Take messages by their ids, due or not, as far as they are kept and not held."""

    @abstractmethod
    async def take_from(self, queue: str, limit: int, seconds: float) -> list[Taken]:
        """Take up to `limit` messages of a queue, due or not, that are not held, the soonest first."""

    @abstractmethod
    async def remove(self, taken: Sequence[Taken]) -> list[bool]:
        """Delete messages. Return False for each that is not there, or has been taken or kept again since."""

    @abstractmethod
    async def release(self, taken: Sequence[Taken]) -> None:
        """Hold messages no longer; whoever takes one again learns that it was taken. Others' holds are left alone."""

    @abstractmethod
    async def counts(self) -> dict[str, Counts]:
        """Count the messages of every queue that has some."""

    @abstractmethod
    async def page(self, queue: str | None, due: bool, limit: int, offset: int = 0) -> list[Taken]:
        """Look at messages of a queue (None: of all), the soonest first: those that are due now, or the others."""

    @abstractmethod
    async def changed(self, seconds: float) -> None:
        """Return after so many seconds, or earlier: a message may have been kept since the last `take_due`."""


def new_token() -> int:
    """Return a token that proves a hold: random, of 62 bits, and not 0."""
    return (int.from_bytes(os.urandom(8)) >> 2) + 1


def removed(wanted: Sequence[tuple[str, int]], there: Collection[tuple[str, int]]) -> list[bool]:
    """Return what `remove` returns: which messages, by id and token, were there. Only the first time for each.

    >>> removed([("a", 7), ("a", 7), ("b", 7)], {("a", 7)})
    [True, False, False]
    """
    left = set(there)
    done = []
    for name in wanted:
        done.append(name in left)
        left.discard(name)
    return done


class DelayKeeper(ABC):
    """What keeps delays. Implemented by backends next to `Backend`."""

    @abstractmethod
    def delays(self) -> DelayStore:
        """Return the port for delays."""


def delay_store(backend: Backend) -> DelayStore:
    """Return the port for delays of a backend. Raises `NotSupported` if it keeps none."""
    if isinstance(backend, DelayKeeper):
        return backend.delays()
    raise NotSupported(f"{backend!r} keeps no messages that wait. Set `result_backend` to one that does: {KEEPERS}.")
