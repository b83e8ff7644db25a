"""Ids that callers chose (`task_id=`), and use again.

A final outcome is never replaced, and nothing follows from a second one. So whoever sends a message with such an id
forgets what is known of the call before; not while the broker holds a message of that id, waiting, running or as a dead
letter, for then it does not take the new one.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

from celeriac.errors import WorkflowError
from celeriac.tasks.protocols import App

if TYPE_CHECKING:
    from celeriac.model.message import Message
    from celeriac.model.outcome import Outcome

__all__ = ["aclaim_ids", "afree_ids", "claim_ids", "free_ids"]


def free_ids(app: App, ids: Sequence[str]) -> None:
    """Forget how calls with these ids have ended, so that they can be used again."""
    ended = _ended(app.backend.fetch(ids))
    if ended and app.broker.knows_ids:
        ended = _not_among(ended, app.broker.complete(app.broker.operations().find(ended)))
    if ended:
        app.backend.forget(ended)


async def afree_ids(app: App, ids: Sequence[str]) -> None:
    """Do as `free_ids`, for coroutines."""
    ended = _ended(await app.backend.afetch(ids))
    if ended and app.broker.knows_ids:
        ended = _not_among(ended, await app.broker.operations().find(ended))
    if ended:
        await app.backend.aforget(ended)


def claim_ids(app: App, ids: Sequence[str]) -> None:
    """Do as `free_ids`, for tasks of a workflow; raise where the broker would not take one: it would never end."""
    if app.broker.knows_ids:
        _refuse_held(app.broker.complete(app.broker.operations().find(ids)))
    app.backend.forget(ids)


async def aclaim_ids(app: App, ids: Sequence[str]) -> None:
    """Do as `claim_ids`, for coroutines."""
    if app.broker.knows_ids:
        _refuse_held(await app.broker.operations().find(ids))
    await app.backend.aforget(ids)


def _refuse_held(found: Mapping[str, tuple[str, Message]]) -> None:
    for id, (where, message) in found.items():
        raise WorkflowError(f"The id {id!r} is still in use: {message.task} is {where} in the queue {message.queue!r}. "
                            "Wait for its end (or drop the dead letter), or choose another `task_id`.")  # fmt: skip


def _ended(outcomes: Mapping[str, Outcome]) -> list[str]:
    return [id for id, outcome in outcomes.items() if outcome.ready]


def _not_among(ids: Sequence[str], held: Container[str]) -> list[str]:
    return [id for id in ids if id not in held]
