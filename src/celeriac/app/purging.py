"""Purges queues: deletes the messages that wait, and ends their tasks as REVOKED, and with them what waits for those.

Called by `Inspector.purge`. Nobody may wait for a task that is gone, and no task may both run and be told to be purged,
whatever is killed in between, and whichever messages workers take meanwhile. So, for a slice of messages at a time:

- Where broker and backend are joined, the messages that still wait are deleted, their outcomes stored and their error
  callbacks published in one step. A message that a worker has taken is left to it.
- A queue server is another server than the backend. The messages are taken, so that no worker has them; their outcomes
  are stored; then they are deleted. After a crash in between the server puts them back, marked as redelivered, and the
  worker that receives one finds its outcome and does not run it. (With `rpc://` it can find none, and runs it.)
- Any other broker that is not joined with the backend: the messages are revoked, so that no worker starts one from then
  on; for those that still wait, outcomes are stored; then they are deleted, and the revocations end. After a crash in
  between, workers end what is left as REVOKED.
"""

from __future__ import annotations

from collections.abc import Sequence

from celeriac import states
from celeriac.app.control import REVOKE_SECONDS
from celeriac.app.notifier import Notifier
from celeriac.canvas.links import callbacks
from celeriac.errors import TaskRevoked
from celeriac.model.message import Message
from celeriac.model.outcome import WHOLE_CALLS, Call, Outcome
from celeriac.ports.operations import UNREADABLE, WITHDRAWN, Removal, Waiting
from celeriac.ports.workflows import NodeEnd, WorkflowStore
from celeriac.tasks.protocols import App

__all__ = ["purge"]

ON_THE_WAY = ("ready", "scheduled")


async def purge(app: App, queue: str) -> int:
    """Delete the ready and scheduled messages of a queue, and end their tasks; return how many there were."""
    if app.broker.joins(app.backend):
        return await _purge_joined(app, queue)
    count, operations, notifier = 0, app.broker.operations(), Notifier(app.broker, app.backend)
    while True:
        purged = await operations.withdraw(queue, WITHDRAWN, lambda messages: _end(app, messages, notifier))
        await notifier.finish()
        if app.broker.knows_ids and purged:
            await app.broker.revoke([message.id for message in purged], 0.0)
        if not purged and not await _has_more(app, queue):
            return count
        count += len(purged)


async def _purge_joined(app: App, queue: str) -> int:
    count, operations = 0, app.broker.operations()
    while found := await operations.waiting(queue, WITHDRAWN):
        now = app.clock.now()
        count += sum(await operations.remove(queue, [_removal(app, one, now) for one in found]))
    return count


async def _has_more(app: App, queue: str) -> bool:
    """Return whether messages wait. If workers took all that were found, there may be others behind them."""
    return app.broker.knows_ids and bool(await app.broker.operations().waiting(queue, 1))


def _removal(app: App, waiting: Waiting, now: float) -> Removal:
    message = waiting.message
    if message.task == UNREADABLE:
        return Removal(waiting.key)
    outcome = _purged(app, message, now)
    return Removal(waiting.key, outcome, message.place is not None and not message.place.alone,
                   callbacks(message.link_error, outcome, now))  # fmt: skip


async def _end(app: App, messages: Sequence[Message], notifier: Notifier) -> Sequence[Message]:
    """Store the outcomes of messages that no worker starts any more; return them, with those that are unreadable."""
    unreadable = [message for message in messages if message.task == UNREADABLE]
    messages = [message for message in messages if message.task != UNREADABLE]
    if app.broker.knows_ids and messages:
        ids = [message.id for message in messages]
        await app.broker.revoke(ids, app.clock.now() + REVOKE_SECONDS)
        found = await app.broker.operations().find(ids)
        still = {id for id, (state, _) in found.items() if state in ON_THE_WAY}
        messages = [message for message in messages if message.id in still]
        taken = [id for id in ids if id not in still]
        if taken:  # a worker runs them, and may retry them
            await app.broker.revoke(taken, 0.0)
    notifier.stored(await _store(app, messages))
    return [*messages, *unreadable]


async def _store(app: App, messages: Sequence[Message]) -> list[Outcome]:
    """Store the outcomes of purged messages, and send their error callbacks, unless their tasks had ended before.

    Return the outcomes.
    """
    now = app.clock.now()
    ends: list[NodeEnd] = []
    alone: list[Outcome] = []
    errors: dict[str, list[Message]] = {}
    for message in messages:
        outcome = _purged(app, message, now)
        errors[message.id] = callbacks(message.link_error, outcome, now)
        if message.place is not None and isinstance(app.backend, WorkflowStore):
            ends.append(NodeEnd(outcome, leaves_pending=not message.place.alone))
        else:
            alone.append(outcome)
    stored: list[tuple[Outcome, bool]] = []
    if ends and isinstance(app.backend, WorkflowStore):
        is_new = await app.backend.conclude(ends)
        stored += zip([end.outcome for end in ends], is_new, strict=True)
    if alone:
        stored += zip(alone, await app.backend.store(alone), strict=True)
    following = [message for outcome, is_new in stored if is_new for message in errors[outcome.id]]
    if following:
        await app.broker.apublish(following)
    return [outcome for outcome, _ in stored]


def _purged(app: App, message: Message, now: float) -> Outcome:
    why = TaskRevoked(f"The task was purged: its message was deleted from the queue {message.queue!r}.")
    outcome, task = Outcome.failed(message, why, states.REVOKED, now), app.tasks.get(message.task)
    is_extended = task is not None and task.options.get("result_extended", False)
    if is_extended or app.conf.result_extended or message.task in WHOLE_CALLS:
        outcome.call = Call.of(message)
    return outcome
