"""Ends tasks whose messages were deleted from their queues: they become REVOKED, and so does what waits for them.

Called by `Inspector.purge`, with the messages that the broker has deleted.
"""

from __future__ import annotations

from collections.abc import Sequence

from celeriac import states
from celeriac.canvas.links import callbacks
from celeriac.errors import TaskRevoked
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.ports.operations import UNREADABLE
from celeriac.ports.workflows import NodeEnd, WorkflowStore
from celeriac.tasks.protocols import App

__all__ = ["end_purged"]


async def end_purged(app: App, messages: Sequence[Message]) -> None:
    """Store the outcomes of purged messages, let their workflows end, and send their error callbacks."""
    now = app.clock.now()
    ends: list[NodeEnd] = []
    outcomes: list[Outcome] = []
    errors: list[Message] = []
    for message in messages:
        if message.task == UNREADABLE:
            continue
        why = TaskRevoked(f"The task was purged: its message was deleted from the queue {message.queue!r}.")
        outcome = Outcome.failed(message, why, states.REVOKED, now)
        errors += callbacks(message.link_error, outcome, now)
        if message.place is not None and isinstance(app.backend, WorkflowStore):
            ends.append(NodeEnd(outcome, leaves_pending=not message.place.alone))
        else:
            outcomes.append(outcome)
    if ends and isinstance(app.backend, WorkflowStore):
        await app.backend.conclude(ends)
    if outcomes:
        await app.backend.store(outcomes)
    if errors:
        await app.apublish(errors)
