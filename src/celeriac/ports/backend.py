"""The backend's port: stores outcomes and returns them to callers.

The worker calls `store`; results (`AsyncResult.get`) call `fetch`, with a wait; front ends call `recent`. A backend
that keeps workflows also implements `WorkflowStore` (ports/workflows.py).

An adapter need not implement all of this: the bases in `backends.bases` derive waiting, the other of the two sides
(synchronous or asynchronous) and `recent`; `backends.key_value` derives everything from four operations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability, Port

__all__ = ["Backend", "Notices"]


class Notices(Protocol):
    """What workers tell this process of: that outcomes were stored. See `app/notices.py`."""

    listening: bool
    """Whether notices arrive at present."""

    def begin(self) -> None:
        """Let notices arrive from now on: a caller begins to wait. Returns at once; may be called again."""

    def close(self) -> bool:
        """Let no more arrive until the next `begin`; return whether they did."""


class Backend(Port, ABC):
    """Holds outcomes, by task id, until they expire."""

    lacks = frozenset({Ability.KEEP_WORKFLOWS})

    notices: Notices | None = None
    """Calls `wake`, from another thread. The app sets it where the backend lacks `Ability.NOTIFY`."""

    @property
    def reply_to(self) -> str:
        """The address that outcomes for this process are sent to; empty for a backend that keeps outcomes."""
        return ""

    @abstractmethod
    async def store(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Store outcomes. Return False for each task that already had a final one: the first final outcome stays.

        A backend without `Ability.KEEP_OUTCOMES` always returns True.
        """

    @abstractmethod
    def fetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        """Return the known outcomes of these tasks, by id.

        With `wait`, return only final outcomes, as soon as there is one; an empty dict after `wait` seconds.
        """

    @abstractmethod
    async def afetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        """Coroutine version of `fetch`."""

    @abstractmethod
    def forget(self, ids: Sequence[str]) -> None:
        """Delete the outcomes of these tasks."""

    @abstractmethod
    async def aforget(self, ids: Sequence[str]) -> None:
        """Coroutine version of `forget`."""

    @abstractmethod
    async def recent(self, limit: int, offset: int = 0, state: str | None = None) -> list[Outcome]:
        """Return the outcomes stored last, newest first. Raises `NotSupported` without `Ability.LIST_RECENT`."""

    def wake(self, ids: Iterable[str] | None) -> None:
        """Make the callers in this process that wait for one of these tasks look now; with None, all callers."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections; a later call opens them again."""
