"""The backend's port: what holds outcomes must be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import msgspec

from celeriac.errors import BackendError
from celeriac.message import Message
from celeriac.outcome import Outcome

__all__ = ["UNFINISHED_SECONDS", "Advance", "Backend", "Due", "NodeEnd", "Plan"]

UNFINISHED_SECONDS = 30 * 86400.0
"""An unfinished workflow is kept so long after anything has happened in it; a finished one as long as outcomes are."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow as it is stored: a tree that never changes, and counts that do."""

    id: str
    tree: bytes
    left: int  # nodes that run a task, and have not ended
    missing: Mapping[int, int] = {}  # by join: how many of its members have not ended


class Due(msgspec.Struct, frozen=True, gc=False):
    """A durable note that a node of a workflow has ended, and that what follows from it has not been done yet."""

    workflow: str
    node: int


class NodeEnd(msgspec.Struct, frozen=True, gc=False):
    """The final outcome of a node's task (its `place` says which), and whether more follows than a join's count."""

    outcome: Outcome
    due: bool = False


class Advance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All that follows from the end of a node: done in one step, together with the removal of its `Due`."""

    due: Due
    messages: Sequence[Message] = ()  # to be published
    outcomes: Sequence[Outcome] = ()  # of nodes that end with it; one of another workflow as `conclude` does, and due
    joins: Sequence[int] = ()  # to be counted down; one that comes to nothing is due


class Backend(ABC):
    """Holds outcomes, by task id, until they expire."""

    keeps: bool = True
    """Whether outcomes are kept for whoever asks. Else each is sent to its caller alone, and `store` refuses none."""

    @property
    def reply_to(self) -> str:
        """Where outcomes for this process are to be sent; empty where they are kept."""
        return ""

    @abstractmethod
    async def store(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Keep outcomes. False where a final one was there already: it stays, and the late one is refused."""

    @abstractmethod
    def fetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        """Return what is known of these tasks, by id.

        With `wait`, only final outcomes, as soon as there is one; an empty dict when `wait` seconds have passed.
        """

    @abstractmethod
    async def afetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        """Do as `fetch`, for coroutines."""

    @abstractmethod
    def forget(self, ids: Sequence[str]) -> None:
        """Drop what is known of these tasks."""

    @abstractmethod
    async def aforget(self, ids: Sequence[str]) -> None:
        """Do as `forget`, for coroutines."""

    @abstractmethod
    async def recent(self, limit: int, offset: int = 0, state: str | None = None) -> list[Outcome]:
        """Return the outcomes stored last, newest first (for the windows)."""

    # --- Workflows ------------------------------------------------------------------------------------
    #
    # A node counts once: what follows from its end follows from the first final outcome stored for it, in the same
    # step. Counts never go below nothing. A backend that cannot do this leaves all of it out.

    keeps_workflows = False
    """Whether it can do what follows. Without it, only plain chains can be sent."""

    def plant(self, plan: Plan) -> None:
        """Keep a workflow; one of the same id is replaced."""
        raise self._keeps_none()

    async def aplant(self, plan: Plan) -> None:
        """Do as `plant`, for coroutines."""
        raise self._keeps_none()

    def trees(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Return the trees of workflows, by id."""
        raise self._keeps_none()

    async def atrees(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Do as `trees`, for coroutines."""
        raise self._keeps_none()

    def uproot(self, ids: Sequence[str]) -> None:
        """Drop workflows; their outcomes stay."""
        raise self._keeps_none()

    async def conclude(self, ends: Sequence[NodeEnd]) -> list[bool]:
        """Store the ends of nodes, and count down the joins that they are members of. False as `store` says it.

        Where the broker is joined, its `Lease.settle` does this.
        """
        raise self._keeps_none()

    async def due(self, limit: int, seconds: float) -> dict[Due, bool]:
        """Take on what is due: nobody else is given it for so many seconds. It stays until it is advanced.

        Returns, for each, whether it was taken on before: then what follows may have been done in part.
        """
        raise self._keeps_none()

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        """Carry out each in one step, but for its messages. False where its `Due` is gone: nothing is done then.

        Where the broker is joined, its `Lease.advance` does this, with the messages.
        """
        raise self._keeps_none()

    def _keeps_none(self) -> BackendError:
        return BackendError(f"{self!r} keeps no workflows. Set `result_backend` to one that does: sqlite://, redis://.")

    @abstractmethod
    def close(self) -> None:
        """Let go of connections; a later call opens them again."""
