"""Linked messages: those that are sent when a task ends.

Called by `worker/decide.py` and `eager.py` for tasks that ran, and by `advance.py` for groups and tasks that are not
run. What is sent passes `fitting`, in `worker/settlement_writer.py`, `worker/advancer.py` and `eager.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from celeriac import states
from celeriac.model.failure import Failure
from celeriac.model.message import Failed, Link, Message, encode
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import prepend

__all__ = ["callbacks", "fitting", "linked"]

FAILURE_BYTES = 1_000  # of an exception's message and arguments, where the whole would be too large


def linked(message: Message, outcome: Outcome, now: float) -> list[Message]:
    """Return the messages to send for the outcome of a message: its links, or its error callbacks."""
    if outcome.state != states.SUCCESS:
        return callbacks(message.link_error, outcome, now)
    sent = []
    for link in message.link:
        following = link.sent(now, parent_id=message.id, root_id=message.root_id or message.id)
        if not link.immutable:
            following = replace(following, body=prepend(outcome.value or b"null", following.body))
        sent.append(following)
    return sent


def callbacks(links: Sequence[Link], cause: Outcome, now: float) -> list[Message]:
    """Return the messages of error callbacks. Each carries the failed task, unless its link is immutable."""
    if not links or cause.state == states.IGNORED:
        return []
    failure = cause.failure or Failure("builtins", "Exception", cause.state)
    failed = Failed(cause.cause or cause.id, cause.task, failure, cause.attempt, cause.group_id, cause.parent_id,
                    cause.root_id)  # fmt: skip
    return [
        link.sent(now, parent_id=cause.id, root_id=cause.root_id or cause.id,
                  failed=None if link.immutable else failed)
        for link in links
    ]  # fmt: skip


def fitting(message: Message, largest: int) -> Message:
    """Return a message that a worker sends, so that workers receive it: they refuse more than `largest` bytes.

    A call was checked when it was made; here results have been inserted. If they are too many, the message goes without
    its arguments, and its task fails: so what waits for it ends, and the reason is told.
    """
    if len(message.body) <= largest // 4 and message.failed is None:
        return message  # the rest of it was checked at the call
    size = len(encode(message))
    if size <= largest:
        return message
    if message.failed is not None:
        failure = message.failed.failure.shortened(FAILURE_BYTES)
        message = replace(message, failed=replace(message.failed, failure=failure))
        size = len(encode(message))
    return message if size <= largest else replace(message, body=b"", omitted=size)
