"""What every pool can do: start deliveries in its lanes, and report how each ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from celeriac.app.app import Celeriac
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery
from celeriac.worker.decide import Ending
from celeriac.worker.options import WorkerOptions

__all__ = ["Active", "ChildInfo", "Pool", "Reports", "given_back"]


class Reports(msgspec.Struct, frozen=True):
    """Whom a pool tells what. All are called in the supervisor's event loop."""

    ended: Callable[[Sequence[Ending]], None]
    told: Callable[[Outcome], None]  # a state that is not final
    freed: Callable[[], None]  # there may be free slots
    broken: Callable[[str], None]  # the pool cannot go on: why


class Active(msgspec.Struct, frozen=True):
    """An attempt in a child's hands."""

    delivery: Delivery
    pid: int
    started_at: float | None  # seconds since the epoch; None: sent ahead, waiting for its turn


class ChildInfo(msgspec.Struct, frozen=True):
    """A child, as `celeriac inspect stats` shows it."""

    pid: int
    lane: str
    done: int
    running: int


def given_back(delivery: Delivery, begun: bool = True) -> Ending:
    """Return the ending of an attempt that is stopped with what ran it, and not by a fault of its own."""
    if begun and not delivery.message.acks_late:
        return Ending(delivery=delivery, lost="stopped with its worker")
    return Ending(delivery=delivery, given_back=True)


class Pool(ABC):
    """Runs attempts, somewhere."""

    kind: str

    def __init__(self, app: Celeriac, options: WorkerOptions, reports: Reports) -> None:
        self._app = app
        self._options = options
        self._reports = reports

    @abstractmethod
    async def start(self) -> None:
        """Return when all children are there."""

    @abstractmethod
    def free(self) -> dict[str, int]:
        """Return how many more deliveries can be taken now, by lane."""

    @abstractmethod
    def dispatch(self, deliveries: Sequence[Delivery]) -> None:
        """Start deliveries. What there is no room for comes back at once as given back."""

    @abstractmethod
    def active(self) -> list[Active]:
        """Return what is in children's hands."""

    @abstractmethod
    def children(self) -> list[ChildInfo]:
        """Return the children."""

    @abstractmethod
    def terminate(self, ids: Collection[str]) -> None:
        """End the attempts of these tasks that are running, and no others."""

    @abstractmethod
    def capacity(self) -> dict[str, int]:
        """Return how many attempts can run at a time, by lane."""

    @abstractmethod
    def resize(self, change: int) -> int:
        """Add or remove plain children, down to one; return how many there are to be."""

    @abstractmethod
    def call_back(self) -> None:
        """Give back what has not been started."""

    @abstractmethod
    async def stop(self, abandon: bool) -> None:
        """End the children, whatever they do; what they ran is given back (unless it has acks_late=False).

        With `abandon`, nothing is reported: it belongs to others already.
        """

    async def restart(self) -> None:
        """Throw away all that runs, reporting nothing, and start anew."""
        await self.stop(abandon=True)
        await self.start()

    def describe(self) -> dict[str, Any]:
        """Return the pool as `celeriac inspect stats` shows it."""
        return {"kind": self.kind, "children": [msgspec.to_builtins(child) for child in self.children()]}
