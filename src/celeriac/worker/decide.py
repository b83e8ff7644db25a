"""Decides how each attempt is settled: an `Ending` comes in, a `Settlement` goes out. Pure: no I/O, no state.

    returned · raised · retried · timed out · revoked · expired · killed its child · lost with its worker · not started
        └─► Ending ─► decide ─► Settlement ─► settled by `settler.py`

The pool and the receiver make the endings. `Settler` calls `decide`; `SettlementWriter` calls `add_next_steps` where a
workflow continues, and carries the settlements out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from celeriac import states
from celeriac.canvas.advance import End, follow
from celeriac.canvas.links import linked
from celeriac.canvas.tree import Tree
from celeriac.errors import NotRegistered, WorkerLost
from celeriac.model.message import encode
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Action, Delivery, Settlement
from celeriac.ports.workflows import NodeEnd

__all__ = ["Ending", "add_next_steps", "decide", "leaves_pending", "node_end"]

log = logging.getLogger("celeriac.worker")

UNKNOWN_TASK_DELAYS = (1.0, 30.0)  # seconds: the first and the longest delay before an unregistered task is retried

KEPT = 262_144  # bytes; a larger message is not kept with its failure: some backends take 1 MB for an outcome

SUCCESS = states.SUCCESS
REQUEUE_SECONDS = 1.0  # the delay of a message that its task requeued, so that the two do not spin


class Ending(msgspec.Struct, kw_only=True, gc=False):
    """How a delivery ended. Exactly one of `outcome`, `lost`, `given_back` and `unknown` is set."""

    delivery: Delivery
    outcome: Outcome | None = None  # the attempt ended by itself, or the pool ended it and made its outcome
    killed: bool = False  # with `outcome`: the pool made it, and killed the child
    lost: str | None = None  # the attempt had started, and its process died; why
    given_back: bool = False  # not started, or stopped through no fault of its own; does not count as a delivery
    unknown: NotRegistered | None = None  # this worker has no task of that name
    due_at: float | None = None  # with `given_back`: do not deliver before this time
    lane: str | None = None  # with `given_back`: the lane that the task belongs to


def decide(ending: Ending, now: float, max_deliveries: int, unknown_task_seconds: float,
           keep_failed: bool = False) -> Settlement:  # fmt: skip
    """Return how to settle a delivery that ended in this way. `keep_failed`: with a failure, keep the message."""
    if ending.outcome is not None and ending.outcome.state == SUCCESS:  # nearly all
        return _succeeded(ending.delivery, ending.outcome, now)
    settlement = _settlement(ending, now, max_deliveries, unknown_task_seconds)
    outcome = settlement.outcome
    if keep_failed and outcome is not None and outcome.state == states.FAILURE:
        message = ending.delivery.message
        # A dead letter is kept by the broker, a step of a workflow by its tree.
        if settlement.action is Action.ACKNOWLEDGE and message.place is None and len(message.body) <= KEPT:
            return replace(settlement, outcome=replace(outcome, kept=encode(message)))
    return settlement


def _settlement(ending: Ending, now: float, max_deliveries: int, unknown_task_seconds: float) -> Settlement:
    delivery = ending.delivery
    message = delivery.message
    if ending.outcome is not None:
        return _conclude(delivery, ending.outcome, now)
    if ending.given_back:
        back, delay = message, None
        if ending.due_at is not None:
            back, delay = replace(back, due_at=ending.due_at), max(0.0, ending.due_at - now)
        if ending.lane is not None:
            back = replace(back, lane=ending.lane)
        return Settlement(delivery=delivery, action=Action.RETURN, message=back, delay=delay,
                          deliveries=delivery.deliveries - 1)  # fmt: skip
    if ending.unknown is not None:
        return _unknown(delivery, ending.unknown, now, unknown_task_seconds)
    how = ending.lost or "lost with its worker"
    if message.acks_late and delivery.deliveries < max_deliveries:
        return Settlement(delivery=delivery, action=Action.RETURN, message=message, deliveries=delivery.deliveries)
    if message.acks_late:
        reason = f"{how}, {delivery.deliveries} times"
        error = WorkerLost(f"The process that ran the task died: {reason}. The message is now a dead letter: "
                           "see `celeriac queues dead list`.")  # fmt: skip
        outcome = Outcome.failed(message, error, states.FAILURE, now)
        return _settle_with(delivery, outcome, now, Action.BURY, reason)
    error = WorkerLost(f"The process that ran the task died: {how}. It will not run again: it has acks_late=False.")
    return _settle_with(delivery, Outcome.failed(message, error, states.FAILURE, now), now)


def _succeeded(delivery: Delivery, outcome: Outcome, now: float) -> Settlement:
    message = delivery.message
    place = message.place
    kept: Outcome | None = outcome
    if message.ignore_result:
        # A group counts the ends of its members, even where it does not need their values.
        kept = replace(outcome, value=None) if place is not None or message.group_id is not None else None
    if place is None and not message.link:
        return Settlement(delivery=delivery, outcome=kept)
    value = outcome.value if place is not None and not place.alone else None
    follow_ups = linked(message, outcome, now) if message.link else ()
    return Settlement(delivery=delivery, outcome=kept, follow_ups=follow_ups, value=value)


def _conclude(delivery: Delivery, outcome: Outcome, now: float) -> Settlement:
    message = delivery.message
    if outcome.state == states.RETRY:
        delay = outcome.retry_delay or 0.0
        following = replace(outcome.next_attempt(message), due_at=now + delay, unknown_since=None, requeued=0)
        # With `ignore_result` a later success is not stored, so nothing would ever replace a stored RETRY.
        kept = None if following.ignore_result else replace(outcome, following=[])
        return Settlement(delivery=delivery, action=Action.RETURN, outcome=kept, message=following,
                          delay=delay, deliveries=0)  # fmt: skip
    if outcome.state == states.REPLACED:
        if [following.id for following in outcome.following] == [message.id]:
            following = outcome.following[0]
            return Settlement(delivery=delivery, action=Action.RETURN, message=following, delay=following.countdown)
        return Settlement(delivery=delivery, follow_ups=outcome.following)
    if outcome.rejected:
        if outcome.requeue:
            again = replace(message, due_at=now + REQUEUE_SECONDS, requeued=message.requeued + 1)
            return Settlement(delivery=delivery, action=Action.RETURN, message=again, delay=REQUEUE_SECONDS,
                              deliveries=0)  # fmt: skip
        reason = outcome.failure.message if outcome.failure is not None else "rejected"
        return _settle_with(delivery, outcome, now, Action.BURY, reason)
    if outcome.state == states.IGNORED:
        return Settlement(delivery=delivery, outcome=outcome)
    return _settle_with(delivery, outcome, now)


def _settle_with(delivery: Delivery, outcome: Outcome, now: float,
                 action: Action = Action.ACKNOWLEDGE, reason: str = "") -> Settlement:  # fmt: skip
    follow_ups = linked(delivery.message, outcome, now)
    return Settlement(delivery=delivery, action=action, outcome=outcome, follow_ups=follow_ups, reason=reason)


def _unknown(delivery: Delivery, error: NotRegistered, now: float, seconds: float) -> Settlement:
    """Return a task that is not registered here to its queue, with growing delays; bury it after `seconds`."""
    message = delivery.message
    since = message.unknown_since if message.unknown_since is not None else now
    if now - since >= seconds:
        outcome = Outcome.failed(message, error, states.FAILURE, now)
        return _settle_with(delivery, outcome, now, Action.BURY, str(error))
    first, longest = UNKNOWN_TASK_DELAYS
    delay = min(longest, max(first, now - since))
    back = replace(message, due_at=now + delay, unknown_since=since)
    return Settlement(delivery=delivery, action=Action.RETURN, message=back, delay=delay,
                      deliveries=delivery.deliveries - 1)  # fmt: skip


# --- Workflows ----------------------------------------------------------------------------------------


def add_next_steps(settlement: Settlement, trees: Mapping[str, Tree], now: float) -> Settlement:
    """Return the settlement of a node with the messages of the steps that follow it in its workflow.

    Where more than messages follows (a failure, an empty group), it leaves a pending node for `Advancer` instead.
    """
    outcome = settlement.outcome
    if outcome is None or outcome.place is None or outcome.place.alone:
        return settlement
    place = outcome.place
    if place.workflow not in trees:
        log.error("Nothing follows %s[%s]: its workflow %s has expired", outcome.task, outcome.id, place.workflow)
        return settlement
    if outcome.state != states.SUCCESS:
        return replace(settlement, leaves_pending=True)
    following = follow(trees[place.workflow], place.node, End(settlement.value or b"null"), now)
    if following.joins:  # an empty group comes next, and ends at once
        return replace(settlement, leaves_pending=True, outcome=_with_value(settlement))
    return replace(settlement, follow_ups=[*settlement.follow_ups, *following.messages])


def leaves_pending(settlement: Settlement) -> bool:
    """Return whether settling this may leave a pending node, for `Advancer` to claim."""
    outcome = settlement.outcome
    return settlement.leaves_pending or (outcome is not None and outcome.place is not None and outcome.place.join >= 0)


def node_end(settlement: Settlement) -> NodeEnd:
    """Return the end of a node for `WorkflowStore.conclude`: everything that follows it is left pending."""
    outcome = _with_value(settlement)
    return NodeEnd(outcome, outcome.place is not None and not outcome.place.alone)


def _with_value(settlement: Settlement) -> Outcome:
    """Return the outcome with the task's value even where `ignore_result` drops it: the next steps need it."""
    outcome = settlement.outcome
    if outcome is None:
        raise ValueError("a settlement without an outcome ends no node")
    return outcome if settlement.value is None else replace(outcome, value=settlement.value)
