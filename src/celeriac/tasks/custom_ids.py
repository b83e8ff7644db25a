"""Reuse of ids that callers choose (`task_id=`).

A stored final outcome is never overwritten. So before a message with a chosen id is sent, the outcome of the earlier
call with that id is forgotten. While the broker holds a message with the id (waiting, running, or a dead letter), the
outcome is kept, because the broker then ignores the new message; in a workflow, where that would leave a node without
an end, it is an error. Called by everything that sends: tasks, groups, workflows and `app.send_task`.

Where outcomes are on another server than messages, a worker stores an outcome first, and then acknowledges its message.
A caller that has just received the result would find its message there. So calls that have ended, and whose messages
are active, are given the time to be acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from celeriac.errors import WorkflowError
from celeriac.ports.complete import sleep
from celeriac.tasks.protocols import App

if TYPE_CHECKING:
    from celeriac.model.message import Message
    from celeriac.model.outcome import Outcome

__all__ = ["afree_ids", "afree_unused_ids", "free_ids", "free_unused_ids"]

ACKNOWLEDGED_SECONDS: Final = 1.0  # for a worker to acknowledge a message; it takes milliseconds, unless it has died
PAUSE: Final = 0.005


def free_ids(app: App, ids: Sequence[str]) -> None:
    """Forget the outcomes of ended calls with these ids, except those whose message the broker still holds."""
    ended = _ended(app.backend.fetch(ids))
    if ended and app.broker.knows_ids:
        ended = _without(ended, app.broker.complete(_held(app, ended, ended)))
    if ended:
        app.backend.forget(ended)


async def afree_ids(app: App, ids: Sequence[str]) -> None:
    """Coroutine version of `free_ids`."""
    ended = _ended(await app.backend.afetch(ids))
    if ended and app.broker.knows_ids:
        ended = _without(ended, await _held(app, ended, ended))
    if ended:
        await app.backend.aforget(ended)


def free_unused_ids(app: App, ids: Sequence[str]) -> None:
    """Forget the outcomes of these ids. Raises `WorkflowError` if the broker holds a message of one."""
    if app.broker.knows_ids:
        held = app.broker.complete(app.broker.operations().find(ids))
        if held:
            held = app.broker.complete(_held(app, ids, _ended(app.backend.fetch(list(held)))))
        _raise_if_held(held)
    app.backend.forget(ids)


async def afree_unused_ids(app: App, ids: Sequence[str]) -> None:
    """Coroutine version of `free_unused_ids`."""
    if app.broker.knows_ids:
        held = await app.broker.operations().find(ids)
        if held:
            held = await _held(app, ids, _ended(await app.backend.afetch(list(held))))
        _raise_if_held(held)
    await app.backend.aforget(ids)


async def _held(app: App, ids: Sequence[str], ended: Sequence[str]) -> dict[str, tuple[str, Message]]:
    """Return which of the ids the broker holds, once the messages of calls that have ended are acknowledged."""
    until = time.monotonic() + (0.0 if app.broker.joins(app.backend) else ACKNOWLEDGED_SECONDS)
    while True:
        held = await app.broker.operations().find(ids)
        is_settling = any(held[id][0] == "active" for id in ended if id in held)
        if not is_settling or time.monotonic() >= until:
            return held
        await sleep(PAUSE)


def _raise_if_held(found: Mapping[str, tuple[str, Message]]) -> None:
    for id, (status, message) in found.items():
        raise WorkflowError(f"The id {id!r} is in use: {message.task} is {status} in the queue {message.queue!r}. "
                            "Wait for its end (or drop the dead letter), or choose another `task_id`.")  # fmt: skip


def _ended(outcomes: Mapping[str, Outcome]) -> list[str]:
    return [id for id, outcome in outcomes.items() if outcome.ready]


def _without(ids: Sequence[str], held: Container[str]) -> list[str]:
    return [id for id in ids if id not in held]
