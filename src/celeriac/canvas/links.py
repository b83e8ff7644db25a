"""What is sent when a task has ended: the messages that were linked to its own.

Called by the worker's `decide`, by `advance.py` for tasks that end with others, and by `eager.py`.
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
    """Return the messages that are linked to the outcome of a task."""
    if outcome.state != states.SUCCESS:
        return callbacks(message.link_error, outcome, now)
    sent = []
    for link in message.link:
        following = replace(link.message, sent_at=now, parent_id=message.id, root_id=message.root_id or message.id)
        if not link.immutable:
            following = replace(following, body=prepend(outcome.value or b"null", following.body))
        sent.append(following)
    return sent


def callbacks(links: Sequence[Link], cause: Outcome, now: float) -> list[Message]:
    """Return the messages of error callbacks: durable tasks, told of what failed unless they are immutable."""
    if not links or cause.state == states.IGNORED:
        return []
    failure = cause.failure or Failure("builtins", "Exception", cause.state)
    failed = Failed(cause.cause or cause.id, cause.task, failure, cause.attempt, cause.group_id, cause.parent_id,
                    cause.root_id)  # fmt: skip
    return [
        replace(link.message, sent_at=now, parent_id=cause.id, root_id=cause.root_id or cause.id,
                failed=None if link.immutable else failed)
        for link in links
    ]  # fmt: skip
