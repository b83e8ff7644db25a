"""The one road of every ending: an `Ending` comes in, a `Settlement` goes out.

    returned · raised · retried · timed out · revoked · expired · killed its child · lost with its worker · not started
        └─► Ending ─► decide (pure) ─► Settlement ─► settle: store + follow up + the broker's action

`decide` knows the rules and does no I/O; `Settler` does the I/O and knows no rules.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from celeriac import states
from celeriac.backends.base import Backend
from celeriac.brokers.base import Action, Broker, Delivery, Lease, Settlement
from celeriac.errors import NotRegistered, WorkerLost
from celeriac.message import Link, Message
from celeriac.outcome import Outcome
from celeriac.serialization import JSON, dumps, prepend

__all__ = ["Ending", "Settler", "decide"]

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
        return _with(delivery, outcome, message.link_error, now, Action.BURY, reason)
    error = WorkerLost(f"The process that ran the task died: {how}. It is not run again, for it has acks_late=False.")
    return _with(delivery, Outcome.failed(message, error, states.FAILURE, now), message.link_error, now)


def _conclude(delivery: Delivery, outcome: Outcome, now: float) -> Settlement:
    message = delivery.message
    if outcome.state == states.RETRY:
        due_at = now + (outcome.retry_delay or 0.0)
        following = replace(message, attempt=message.attempt + 1, due_at=due_at, unknown_since=None)
        return Settlement(delivery=delivery, action=Action.RETURN, outcome=outcome, message=following, deliveries=0)
    if outcome.rejected:
        if outcome.requeue:
            again = replace(message, due_at=now + REQUEUE_SECONDS)
            return Settlement(delivery=delivery, action=Action.RETURN, message=again, deliveries=0)
        reason = outcome.failure.message if outcome.failure is not None else "rejected"
        return _with(delivery, outcome, message.link_error, now, Action.BURY, reason)
    if outcome.state == states.SUCCESS:
        kept: Outcome | None = outcome
        if message.ignore_result:
            # The end of a group's member is of interest even where its value is not.
            kept = replace(outcome, value=None) if message.group_id is not None else None
        if not message.link:
            return Settlement(delivery=delivery, outcome=kept)
        return Settlement(delivery=delivery, outcome=kept, follow_ups=_follow_ups(message, message.link, outcome, now))
    if outcome.state == states.IGNORED:
        return Settlement(delivery=delivery, outcome=outcome)
    return _with(delivery, outcome, message.link_error, now)


def _with(delivery: Delivery, outcome: Outcome, links: Sequence[Link], now: float,
          action: Action = Action.ACKNOWLEDGE, reason: str = "") -> Settlement:  # fmt: skip
    follow_ups = _follow_ups(delivery.message, links, outcome, now)
    return Settlement(delivery=delivery, action=action, outcome=outcome, follow_ups=follow_ups, reason=reason)


def _follow_ups(message: Message, links: Sequence[Link], outcome: Outcome, now: float) -> list[Message]:
    """Return the linked messages, given the result (or the id of what failed) unless they are immutable."""
    sent = []
    for link in links:
        following = replace(link.message, sent_at=now, parent_id=message.id, root_id=message.root_id or message.id)
        if not link.immutable and following.content_type == JSON.content_type:
            succeeded = outcome.state == states.SUCCESS
            value = (outcome.value or b"null") if succeeded else dumps(message.id)
            following = replace(following, body=prepend(value, following.body))
        sent.append(following)
    return sent


def _unknown(delivery: Delivery, now: float, seconds: float) -> Settlement:
    """Send a task that nobody here knows elsewhere, later and later; in the end, put it aside."""
    message = delivery.message
    since = message.unknown_since if message.unknown_since is not None else now
    if now - since >= seconds:
        error = NotRegistered(message.task)
        outcome = Outcome.failed(message, error, states.FAILURE, now)
        return _with(delivery, outcome, message.link_error, now, Action.BURY, str(error))
    first, longest = UNKNOWN_TASK_DELAYS
    back = replace(message, due_at=now + min(longest, max(first, now - since)), unknown_since=since)
    return Settlement(delivery=delivery, action=Action.RETURN, message=back, deliveries=delivery.deliveries - 1)


class Settler:
    """Carries settlements out: in one atomic step where broker and backend are joined, else store first.

    In two steps the order is store, follow up, act: a crash in between repeats work and never loses it.
    """

    def __init__(self, broker: Broker, backend: Backend) -> None:
        self._broker = broker
        self._backend = backend
        self._joined = broker.joins(backend)

    async def settle(self, lease: Lease, settlements: Sequence[Settlement]) -> list[bool]:
        """Return, for each, whether its token was good."""
        if self._joined:
            return await lease.settle(settlements)
        outcomes = [settlement.outcome for settlement in settlements if settlement.outcome is not None]
        if outcomes:
            await self._backend.store(outcomes)
        follow_ups = [message for settlement in settlements for message in settlement.follow_ups]
        if follow_ups:
            await self._broker.apublish(follow_ups)
        return await lease.settle([replace(settlement, outcome=None, follow_ups=()) for settlement in settlements])
