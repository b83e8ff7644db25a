"""The one road of every ending: an `Ending` comes in, a `Settlement` goes out.

    returned · raised · retried · timed out · revoked · expired · killed its child · lost with its worker · not started
        └─► Ending ─► decide (pure) ─► Settlement ─► settle: store + follow up + the broker's action

`decide` knows the rules and does no I/O; `SettlementWriter` does the I/O and knows no rules.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from celeriac import states
from celeriac.canvas.advance import End, follow
from celeriac.canvas.links import linked
from celeriac.canvas.tree import Tree
from celeriac.canvas.workflows import Workflows
from celeriac.errors import NotRegistered, WorkerLost
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.ports.backend import Backend
from celeriac.ports.broker import Action, Broker, Delivery, Lease, Settlement
from celeriac.ports.workflows import NodeEnd, workflow_store

__all__ = ["Ending", "SettlementWriter", "decide"]

log = logging.getLogger("celeriac.worker")

UNKNOWN_TASK_DELAYS = (1.0, 30.0)  # seconds: the first, and the longest, before a task unknown here is tried elsewhere

REQUEUE_SECONDS = 1.0  # before a message that its task gave back comes again, so that the two do not spin


class Ending(msgspec.Struct, kw_only=True, gc=False):
    """What the pool and the receiver report. Exactly one of the four says how it ended."""

    delivery: Delivery
    outcome: Outcome | None = None  # the attempt came to an end of its own, or was ended by a verdict
    lost: str | None = None  # the attempt was started, and its process died: how
    given_back: bool = False  # not started, or stopped through no fault of its own: uncounted
    unknown: bool = False  # no task of this name here
    due_at: float | None = None  # with given_back: not before
    lane: str | None = None  # with given_back: the lane it belongs to


def decide(ending: Ending, now: float, max_deliveries: int, unknown_task_seconds: float) -> Settlement:
    """Return what is done about an ending."""
    delivery = ending.delivery
    message = delivery.message
    if ending.outcome is not None:
        return _conclude(delivery, ending.outcome, now)
    if ending.given_back:
        back = message
        if ending.due_at is not None:
            back = replace(back, due_at=ending.due_at)
        if ending.lane is not None:
            back = replace(back, lane=ending.lane)
        return Settlement(delivery=delivery, action=Action.RETURN, message=back, deliveries=delivery.deliveries - 1)
    if ending.unknown:
        return _unknown(delivery, now, unknown_task_seconds)
    how = ending.lost or "lost with its worker"
    if message.acks_late and delivery.deliveries < max_deliveries:
        return Settlement(delivery=delivery, action=Action.RETURN, message=message, deliveries=delivery.deliveries)
    if message.acks_late:
        reason = f"{how}, {delivery.deliveries} times"
        error = WorkerLost(f"The process that ran the task died: {reason}. The message is now a dead letter: "
                           "see `celeriac queues dead list`.")  # fmt: skip
        outcome = Outcome.failed(message, error, states.FAILURE, now)
        return _with(delivery, outcome, now, Action.BURY, reason)
    error = WorkerLost(f"The process that ran the task died: {how}. It is not run again, for it has acks_late=False.")
    return _with(delivery, Outcome.failed(message, error, states.FAILURE, now), now)


def _conclude(delivery: Delivery, outcome: Outcome, now: float) -> Settlement:
    message = delivery.message
    if outcome.state == states.RETRY:
        due_at = now + (outcome.retry_delay or 0.0)
        following = replace(message, attempt=message.attempt + 1, due_at=due_at, unknown_since=None)
        kept = None if message.ignore_result else outcome  # a success will not be kept, and could not take its place
        return Settlement(delivery=delivery, action=Action.RETURN, outcome=kept, message=following, deliveries=0)
    if outcome.state == states.REPLACED:
        if [following.id for following in outcome.following] == [message.id]:
            return Settlement(delivery=delivery, action=Action.RETURN, message=outcome.following[0])
        return Settlement(delivery=delivery, follow_ups=outcome.following)
    if outcome.rejected:
        if outcome.requeue:
            again = replace(message, due_at=now + REQUEUE_SECONDS)
            return Settlement(delivery=delivery, action=Action.RETURN, message=again, deliveries=0)
        reason = outcome.failure.message if outcome.failure is not None else "rejected"
        return _with(delivery, outcome, now, Action.BURY, reason)
    if outcome.state == states.SUCCESS:
        kept = outcome
        if message.ignore_result:
            # The end of a group's member is of interest even where its value is not.
            kept = replace(outcome, value=None) if message.group_id is not None or message.place is not None else None
        value = outcome.value if message.place is not None and not message.place.alone else None
        follow_ups = linked(message, outcome, now) if message.link else ()
        return Settlement(delivery=delivery, outcome=kept, follow_ups=follow_ups, value=value)
    if outcome.state == states.IGNORED:
        return Settlement(delivery=delivery, outcome=outcome)
    return _with(delivery, outcome, now)


def _with(delivery: Delivery, outcome: Outcome, now: float,
          action: Action = Action.ACKNOWLEDGE, reason: str = "") -> Settlement:  # fmt: skip
    follow_ups = linked(delivery.message, outcome, now)
    return Settlement(delivery=delivery, action=action, outcome=outcome, follow_ups=follow_ups, reason=reason)


def _unknown(delivery: Delivery, now: float, seconds: float) -> Settlement:
    """Send a task that nobody here knows elsewhere, later and later; in the end, put it aside."""
    message = delivery.message
    since = message.unknown_since if message.unknown_since is not None else now
    if now - since >= seconds:
        error = NotRegistered(message.task)
        outcome = Outcome.failed(message, error, states.FAILURE, now)
        return _with(delivery, outcome, now, Action.BURY, str(error))
    first, longest = UNKNOWN_TASK_DELAYS
    back = replace(message, due_at=now + min(longest, max(first, now - since)), unknown_since=since)
    return Settlement(delivery=delivery, action=Action.RETURN, message=back, deliveries=delivery.deliveries - 1)


class SettlementWriter:
    """Carries settlements out: in one atomic step where broker and backend are joined, else store first.

    In two steps the order is store, follow up, act: a crash in between repeats work and never loses it.
    """

    def __init__(self, broker: Broker, backend: Backend, workflows: Workflows) -> None:
        self._broker = broker
        self._backend = backend
        self._workflows = workflows
        self.joined = broker.joins(backend)
        self.left_pending = False  # whether the settlements of the last call may have left something due
        self._unsure: set[str] = set()  # tokens of what was begun to be settled, or had ended before: it may be done

    async def settle(self, lease: Lease, settlements: Sequence[Settlement], now: float) -> list[bool]:
        """Return, for each, whether its token was good."""
        if self.joined:
            settlements = await self._led_on(settlements, now)
            self.left_pending = any(settlement.ends_node and _leaves_pending(settlement) for settlement in settlements)
            return await lease.settle(settlements)
        if not any(settlement.outcome is not None or settlement.follow_ups for settlement in settlements):
            self.left_pending = False
            return await lease.settle(settlements)
        ends = [settlement for settlement in settlements if settlement.ends_node]
        self.left_pending = bool(ends)
        new = await workflow_store(self._backend).conclude([_node_end(item) for item in ends]) if ends else []
        kept = [settlement for settlement in settlements if settlement.outcome is not None and not settlement.ends_node]
        new += await self._backend.store([item.outcome for item in kept if item.outcome is not None]) if kept else []
        for settlement, first in zip([*ends, *kept], new, strict=True):
            if not first:  # it has ended before
                self._unsure.add(settlement.delivery.token)
        following = [settlement for settlement in settlements if settlement.follow_ups]
        sent: dict[bool, list[Message]] = {False: [], True: []}
        for settlement in following:
            sent[self._may_have_been_sent(settlement.delivery)] += settlement.follow_ups
        for again, messages in sent.items():
            if messages:
                await self._broker.apublish(messages, again)
        done = await lease.settle([replace(settlement, outcome=None, follow_ups=()) for settlement in settlements])
        self._unsure.difference_update(settlement.delivery.token for settlement in settlements)
        return done

    def _may_have_been_sent(self, delivery: Delivery) -> bool:
        known = delivery.token in self._unsure or delivery.again or delivery.deliveries > 1
        self._unsure.add(delivery.token)
        return known

    async def _led_on(self, settlements: Sequence[Settlement], now: float) -> list[Settlement]:
        """Return the settlements with what follows from them in their workflows.

        After a success, the messages that come next are sent in the step that settles. A failure reaches further, and
        is left to `Advancer`. The end of a group's member, which is only counted, never needs the tree.
        """
        leading = [
            settlement.outcome.place.workflow
            for settlement in settlements
            if settlement.outcome is not None
            and settlement.outcome.place is not None
            and not settlement.outcome.place.alone
            and settlement.ends_node
        ]
        if not leading:
            return list(settlements)
        trees = await self._workflows.load(leading)
        return [_led_on(settlement, trees, now) if settlement.ends_node else settlement for settlement in settlements]


def _led_on(settlement: Settlement, trees: Mapping[str, Tree], now: float) -> Settlement:
    outcome = settlement.outcome
    if outcome is None or outcome.place is None or outcome.place.alone:
        return settlement
    place = outcome.place
    if place.workflow not in trees:
        log.error("The workflow %s of %s[%s] has expired; nothing follows", place.workflow, outcome.task, outcome.id)
        return settlement
    if outcome.state != states.SUCCESS:
        return replace(settlement, leaves_pending=True)
    following = follow(trees[place.workflow], place.node, End(settlement.value or b"null"), now)
    if following.joins:  # an empty group comes next, and ends at once
        return replace(settlement, leaves_pending=True, outcome=_valued(settlement))
    return replace(settlement, follow_ups=[*settlement.follow_ups, *following.messages])


def _leaves_pending(settlement: Settlement) -> bool:
    outcome = settlement.outcome
    return settlement.leaves_pending or (outcome is not None and outcome.place is not None and outcome.place.join >= 0)


def _node_end(settlement: Settlement) -> NodeEnd:
    """Return the end of a node as a backend of its own is told it: whatever follows is due."""
    outcome = _valued(settlement)
    return NodeEnd(outcome, outcome.place is not None and not outcome.place.alone)


def _valued(settlement: Settlement) -> Outcome:
    """Return the outcome with its value, though that is to be ignored: what follows will be given it from there."""
    outcome = settlement.outcome
    if outcome is None:
        raise ValueError("a settlement without an outcome ends no node")
    return outcome if settlement.value is None else replace(outcome, value=settlement.value)
