"""Requests for messages, as the scripts `receive` and `settle` take them (see `deliver.lua`).

A request for a few queues names each of them, and Redis looks into each. A request for many queues names a *queue list*
that is registered with Redis (`list_queues.lua`), and Redis intersects it with its index of queues that have messages:
its cost does not depend on the length of the list. A list's name is a hash of its queues, so that all workers with the
same queues share one.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

__all__ = ["MOST_NAMED", "Queues", "Request"]

MOST_NAMED = 8
"""So many queues are named one by one; for more, a queue list is used."""


class Queues:
    """The queues of a worker."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.list = ""  # the name of the queue list; empty if the queues are named one by one
        if len(self.names) > MOST_NAMED:
            self.list = hashlib.sha1("\0".join(self.names).encode(), usedforsecurity=False).hexdigest()[:20]

    @property
    def arguments(self) -> Sequence[str]:
        """The queues as `leave.lua` takes them."""
        return (self.list,) if self.list else ("", *self.names)

    def starting_at(self, turn: int) -> Sequence[str | int]:
        """Return the queues as `deliver.lua` takes them, to be served from the one at position `turn` on."""
        return (self.list, turn) if self.list else ("", *self.names[turn:], *self.names[:turn])


class Request:
    """A request for messages. Its `base` receipt is set when it is sent."""

    def __init__(self, queues: Queues, turn: int, lanes: dict[str, int], waited: bool, waits: bool) -> None:
        self.base = 0
        self.queues = queues
        self.turn = turn
        self.lanes = lanes  # slots by lane
        self.waited = waited  # the lease was waiting until now, and Redis may have woken it
        self.waits = waits  # from now on the lease waits, for the slots that stay free

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The request as the scripts take it."""
        slots = itertools.chain.from_iterable(self.lanes.items())
        waits = int(self.waited) + 2 * int(self.waits)
        return (self.base, waits, len(self.lanes), *slots, *self.queues.starting_at(self.turn))

    @property
    def receipts(self) -> tuple[int, int]:
        """The range of the receipts of its messages: above the first, up to the second."""
        return self.base, self.base + sum(self.lanes.values())


