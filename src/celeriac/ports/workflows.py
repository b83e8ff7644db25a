"""The port for keeping workflows: trees that never change, and counters that do.

A backend that can count atomically implements `WorkflowStore` next to `Backend`. Called by `canvas.workflows` when a
workflow is sent or looked up, and by the worker when one of its tasks has ended.

Each node counts once: what follows from the end of a node follows from the first final outcome stored for it, in the
same atomic step. Counters never go below zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from celeriac.errors import BackendError
from celeriac.model.codec import Codec
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.ports.backend import Backend
from celeriac.ports.complete import sleep

__all__ = [
    "KEEPERS",
    "UNFINISHED_SECONDS",
    "Advance",
    "Counts",
    "NodeEnd",
    "PendingNode",
    "Plan",
    "WorkflowStore",
    "workflow_store",
]

UNFINISHED_SECONDS = 30 * 86400.0
"""An unfinished workflow is kept this long after its last change; a finished one as long as outcomes are."""


KEEPERS: Final = "sqlite://, redis://, zmq://, db+…://, mongodb://"
"""The backends that keep workflows and schedules, and list their outcomes, for errors that say what to set."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow as it is stored: a constant tree, and counters."""

    id: str
    tree: bytes
    left: int  # nodes that run a task, and have not ended
    missing: Mapping[int, int] = {}  # by join: the number of members that have not ended


class PendingNode(msgspec.Struct, frozen=True, gc=False):
    """A durable note: this node of a workflow has ended, and its consequences have not been carried out yet."""

    workflow: str
    node: int


class NodeEnd(msgspec.Struct, frozen=True, gc=False):
    """The final outcome of a node's task (its `place` is the node), and whether more follows than a join's count."""

    outcome: Outcome
    leaves_pending: bool = False


class Advance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Everything that follows from the end of a node: done in one step with the removal of its `PendingNode`."""

    pending: PendingNode
    messages: Sequence[Message] = ()  # to be published
    outcomes: Sequence[Outcome] = ()  # of nodes that end with it; of another workflow: concluded, and left pending
    joins: Sequence[int] = ()  # to be counted down; a join at zero is left pending

    def by_workflow(self) -> tuple[list[Outcome], list[NodeEnd]]:
        """Return the outcomes of nodes of this workflow, and the ends of nodes of others, which are left pending."""
        own: list[Outcome] = []
        others: list[NodeEnd] = []
        for outcome in self.outcomes:
            if outcome.place is None or outcome.place.workflow == self.pending.workflow:
                own.append(outcome)
            else:
                others.append(NodeEnd(outcome, leaves_pending=True))
        return own, others


class Counts(NamedTuple):
    """What ends of nodes count, for stores that add it up before they write."""

    left: Counter[str]  # by workflow: nodes that have ended
    joins: Counter[tuple[str, int]]  # by workflow and join: members that have ended
    pending: list[tuple[str, int]]  # nodes that are left pending

    @classmethod
    def of(cls, ends: Sequence[NodeEnd], are_new: Sequence[bool]) -> Counts:
        """Return what those ends count that are new: no outcome of their nodes was stored before."""
        counts = cls(Counter(), Counter(), [])
        for end, is_new in zip(ends, are_new, strict=True):
            place = end.outcome.place
            if is_new and place is not None:
                counts.left[place.workflow] += 1
                if place.join >= 0:
                    counts.joins[place.workflow, place.join] += 1
                if end.leaves_pending:
                    counts.pending.append((place.workflow, place.node))
        return counts


class WorkflowStore(ABC):
    """Keeps workflows, by id. Implemented by backends, next to `Backend`; `lacks` is then without KEEP_WORKFLOWS."""

    codec: Codec
    """As in `Backend`; trees are sealed with it before they come here."""

    @abstractmethod
    def plant(self, plan: Plan, again: bool = False) -> None:
        """Store a workflow; one of the same id is replaced.

        `again`: it may have been stored before, and its tasks may have been sent; then it stays as it is.
        """

    @abstractmethod
    async def aplant(self, plan: Plan, again: bool = False) -> None:
        """Coroutine version of `plant`."""

    @abstractmethod
    def trees(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Return the trees of workflows, by id."""

    @abstractmethod
    async def atrees(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Coroutine version of `trees`."""

    async def unfinished(self, limit: int) -> list[str] | None:
        """Return the ids of workflows that have not ended. None: it cannot list them, or not so many.

        The latest are first: those that have changed last, or those that were sent last (by their ids, maybe, which
        sort by time).
        """
        return None

    @abstractmethod
    def uproot(self, ids: Sequence[str]) -> None:
        """Delete workflows; their outcomes stay."""

    @abstractmethod
    async def conclude(self, ends: Sequence[NodeEnd]) -> list[bool]:
        """Store the ends of nodes, and count down the joins that they are members of. False as for `Backend.store`.

        If broker and backend are joined, `Lease.settle` does this.
        """

    @abstractmethod
    async def claim_pending(self, limit: int, seconds: float) -> dict[PendingNode, bool]:
        """Claim up to `limit` pending nodes: for `seconds`, no other worker gets them. Each stays until it is advanced.

        Returns, for each, whether it was claimed before: then some of its consequences may have been carried out.
        """

    async def until_pending(self, pause: float) -> None:
        """Return when it is time to look for pending nodes again: after a pause (seconds), or when there is one.

        Without news it returns all the same, some time later. Raises `BackendError`, `BrokerError`.
        """
        await sleep(pause)

    @abstractmethod
    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        """Carry out each in one atomic step, except for publishing its messages. False if its `PendingNode` is gone.

        If broker and backend are joined, `Lease.advance` does this, and publishes the messages too.
        """


def workflow_store(backend: Backend) -> WorkflowStore:
    """Return the backend as a store of workflows. Raises `BackendError` if it keeps none."""
    if isinstance(backend, WorkflowStore):
        return backend
    raise BackendError(f"{backend!r} keeps no workflows. Set `result_backend` to one that does: {KEEPERS}.")
