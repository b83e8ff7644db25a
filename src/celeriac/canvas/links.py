"""Linked messages: those that are sent when a task ends.

Called by `worker/decide.py` and `eager.py` for tasks that ran, and by `advance.py` for groups and tasks that are not
run.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from celeriac import states
from celeriac.model.failure import Failure
from celeriac.model.message import Failed, Link, Message
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import prepend

__all__ = ["callbacks", "linked"]


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
