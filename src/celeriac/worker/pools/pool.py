"""The interface of pools: a pool runs deliveries in its lanes, and reports how each ended.

The receiver dispatches deliveries to it. It reports to the settler and the receiver, through `Reports`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from celeriac.app.app import Celeriac
from celeriac.model.message import LANES, PLAIN
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery
from celeriac.worker.decide import Ending
from celeriac.worker.options import WorkerOptions

__all__ = ["Active", "ChildInfo", "Pool", "Reports", "give_back"]


def _nobody(reason: str) -> None:
    pass


class Reports(msgspec.Struct, frozen=True):
    """The callbacks of a pool. It calls them in the supervisor's event loop."""

    ended: Callable[[Sequence[Ending]], None]
    reported: Callable[[Outcome], None]  # a task reported a state that is not final
    freed: Callable[[], None]  # there may be free slots
    broken: Callable[[str], None]  # the pool cannot go on; why
    child_lost: Callable[[str], None] = _nobody  # a child ended before its time; a reason of one word


class Active(msgspec.Struct, frozen=True):
    """A delivery that was sent to a child and has not ended."""

    delivery: Delivery
    pid: int
    started_at: float | None  # seconds since the epoch; None: sent ahead and not started


class ChildInfo(msgspec.Struct, frozen=True):
    """A child, as `celeriac inspect stats` shows it."""

    pid: int
    lane: str
    done: int
    running: int


def give_back(delivery: Delivery, started: bool = True) -> Ending:
    """Return the ending of an attempt that was stopped through no fault of its own: given back if it may run again."""
    if started and not delivery.message.acks_late:
        return Ending(delivery=delivery, lost="stopped with its worker")
    return Ending(delivery=delivery, given_back=True)


class Pool(ABC):
    """Runs attempts."""

    kind: str

    def __init__(self, app: Celeriac, options: WorkerOptions, reports: Reports) -> None:
        self._app = app
        self._options = options
        self._reports = reports

    @abstractmethod
    async def start(self) -> None:
        """Start the children; return when they have started."""

    @abstractmethod
    def free(self) -> dict[str, int]:
        """Return how many more deliveries can be dispatched now, by lane."""

    @abstractmethod
    def dispatch(self, deliveries: Sequence[Delivery]) -> None:
        """Start deliveries. Those without a free slot are reported at once as given back."""

    @abstractmethod
    def active(self) -> list[Active]:
        """Return the deliveries that were sent to children and have not ended."""

    @abstractmethod
    def children(self) -> list[ChildInfo]:
        """Return the children."""

    def busy(self) -> dict[str, int]:
        """Return how many attempts run, by lane. (What was sent ahead to a plain child does not run yet.)"""
        found = dict.fromkeys(LANES, 0)
        for child in self.children():
            found[child.lane] += min(1, child.running) if child.lane == PLAIN else child.running
        return found

    @abstractmethod
    def terminate(self, ids: Collection[str]) -> None:
        """Terminate the running attempts of these tasks, and no others."""

    @abstractmethod
    def capacity(self) -> dict[str, int]:
        """Return how many attempts can run at a time, by lane."""

    @abstractmethod
    def resize(self, change: int) -> int:
        """Add or remove plain children, but keep at least one; return how many there will be."""

    @abstractmethod
    def recall(self) -> None:
        """Give back what has not started."""

    @abstractmethod
    async def stop(self, abandon: bool, leave_seconds: float = 0.0) -> None:
        """Kill the children; give back what they ran (`acks_late=False`: report it as lost).

        Those that run nothing have `leave_seconds` before that, if they have something to do at their end. With
        `abandon`, report nothing: other workers already hold these messages.
        """

    async def restart(self) -> None:
        """Abandon everything that runs, report nothing, and start again."""
        await self.stop(abandon=True)
        await self.start()

    def describe(self) -> dict[str, Any]:
        """Return the pool as `celeriac inspect stats` shows it."""
        return {"kind": self.kind, "children": [msgspec.to_builtins(child) for child in self.children()]}
