"""Writes a batch of settlements to broker and backend: atomically where they are one, else in a safe order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from celeriac.app.notifier import Notifier
from celeriac.canvas.links import fitting
from celeriac.model.message import Message
from celeriac.ports.backend import Backend
from celeriac.ports.broker import Broker, Delivery, Lease, Settlement
from celeriac.ports.workflows import WorkflowStore, workflow_store
from celeriac.worker.decide import add_next_steps, leaves_pending, node_end

if TYPE_CHECKING:
    from celeriac.canvas.workflows import Workflows

__all__ = ["SettlementWriter"]


class SettlementWriter:
    """Writes settlements to the servers: in one atomic step where the broker and the backend share one.

    On two servers the order is: store the outcomes, publish the follow-ups, settle with the broker. A crash in between
    repeats work and never loses it.
    """

    def __init__(self, broker: Broker, backend: Backend, workflows: Callable[[], Workflows],
                 notifier: Notifier | None = None) -> None:  # fmt: skip
        self._broker = broker
        self._backend = backend
        self._workflows = workflows
        self._notifier = notifier
        self.joined = broker.joins(backend)
        self.left_pending = False  # whether calls since this was reset may have left pending nodes
        self._keeps_workflows = isinstance(backend, WorkflowStore)  # otherwise nothing follows a node
        self._unsure: set[str] = set()  # tokens whose follow-ups may have been published already

    async def write(self, lease: Lease, settlements: Sequence[Settlement], now: float) -> list[bool]:
        """Write a batch. Return for each settlement whether it was accepted; False: its token was stale."""
        if self.joined:
            if [item for item in settlements if item.outcome is not None and item.outcome.place is not None]:
                settlements = await self._with_next_steps(settlements, now)
                if any(settlement.ends_node and leaves_pending(settlement) for settlement in settlements):
                    self.left_pending = True
            settlements = self._fitting(settlements)
            accepted = await lease.settle(settlements)
            self._tell(settlements)
            return accepted
        if not any(settlement.outcome is not None or settlement.follow_ups for settlement in settlements):
            return await lease.settle(settlements)
        settlements = self._fitting(settlements)
        ends = [settlement for settlement in settlements if settlement.ends_node] if self._keeps_workflows else []
        self.left_pending = self.left_pending or bool(ends)
        is_first = await workflow_store(self._backend).conclude([node_end(item) for item in ends]) if ends else []
        ending = {id(settlement) for settlement in ends}
        kept = [item for item in settlements if item.outcome is not None and id(item) not in ending]
        if kept:
            is_first += await self._backend.store([item.outcome for item in kept if item.outcome is not None])
        for settlement, first in zip([*ends, *kept], is_first, strict=True):
            if not first:  # a final outcome was stored before
                self._unsure.add(settlement.delivery.token)
        self._tell(settlements)
        following = [settlement for settlement in settlements if settlement.follow_ups]
        sent: dict[bool, list[Message]] = {False: [], True: []}
        for settlement in following:
            sent[self._may_have_been_sent(settlement.delivery)] += settlement.follow_ups
        for again, messages in sent.items():
            if messages:
                await self._broker.apublish(messages, again)
        accepted = await lease.settle([replace(settlement, outcome=None, follow_ups=()) for settlement in settlements])
        self._unsure.difference_update(settlement.delivery.token for settlement in settlements)
        return accepted

    def _fitting(self, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
        """Return the settlements with follow-ups that workers receive."""
        largest = self._broker.codec.largest
        return [
            replace(item, follow_ups=[fitting(message, largest) for message in item.follow_ups])
            if item.follow_ups else item
            for item in settlements
        ]  # fmt: skip

    def _tell(self, settlements: Sequence[Settlement]) -> None:
        """Tell the callers where the backend cannot."""
        if self._notifier is not None and self._notifier.is_needed:
            self._notifier.stored(item.outcome for item in settlements if item.outcome is not None)

    def _may_have_been_sent(self, delivery: Delivery) -> bool:
        known = delivery.token in self._unsure or delivery.again or delivery.deliveries > 1
        self._unsure.add(delivery.token)
        return known

    async def _with_next_steps(self, settlements: Sequence[Settlement], now: float) -> list[Settlement]:
        """Add the messages of the steps that follow in workflows, so that they are sent in the step that settles.

        Loads the trees of nodes that have followers. A member of a group is only counted, which needs no tree.
        """
        workflows = [
            settlement.outcome.place.workflow
            for settlement in settlements
            if settlement.outcome is not None
            and settlement.outcome.place is not None
            and not settlement.outcome.place.alone
            and settlement.ends_node
        ]
        if not workflows:
            return list(settlements)
        trees = await self._workflows().load(workflows)
        return [add_next_steps(item, trees, now) if item.ends_node else item for item in settlements]
