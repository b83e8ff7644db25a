"""Pages of tasks that have not ended: ready and scheduled messages that a filter means, and what workers run.

The dashboard lists them beside attempts that have ended, which the history searches by the same grammar.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from celeriac.app.app import Celeriac
from celeriac.errors import NotSupported
from celeriac.inspector.looking import Looking
from celeriac.inspector.selecting import check_waiting, is_meant
from celeriac.inspector.views import ActiveTask
from celeriac.model.filters import Filter
from celeriac.model.history import Attempt
from celeriac.model.message import Message
from celeriac.ports.abilities import Ability

__all__ = ["Messages", "Running", "RunningPage", "list_ready", "list_running", "list_scheduled"]

SEARCHED: Final = 5_000  # messages that one page looks at, at most
STEP: Final = 500


class Messages(NamedTuple):
    """A page of messages."""

    rows: list[Message]
    next: str | None  # the cursor of the next page; None: there is no more
    searched: int  # how many messages this page has looked at


class Running(NamedTuple):
    """A task that a worker runs."""

    worker: str
    task: ActiveTask


class RunningPage(NamedTuple):
    """What workers run, the longest first."""

    rows: list[Running]
    of: int
    silent: tuple[str, ...]  # workers that did not reply


async def list_ready(app: Celeriac, filter: Filter, queues: Iterable[str], limit: int, cursor: str | None = None,
                     within: float = math.inf) -> Messages:  # fmt: skip
    """Return messages that workers can receive: queue by queue, in the order in which they are received.

    It looks no further once it has looked `within` seconds, or at `SEARCHED` messages.

    Raises `ValueError` for a condition that a message cannot be checked by, and for a cursor that no page gave;
    `NotSupported` if looking takes messages.
    """
    _check(app, filter)
    queue, offset = _position(cursor)
    operations = app.broker.operations()
    found: list[Message] = []
    searched, until = 0, time.monotonic() + within
    for name in sorted(queues):
        if name < queue or not Filter(queues=filter.queues).counts("", name, "", "", ""):
            continue
        start = offset if name == queue else 0
        while messages := await operations.peek(name, STEP if filter != Filter() else limit - len(found), start):
            for number, message in enumerate(messages, start=1):
                if is_meant(app, filter, message):
                    found.append(message)
                if len(found) == limit:
                    return Messages(found, f"{start + number}/{name}", searched + number)
            start, searched = start + len(messages), searched + len(messages)
            if searched >= SEARCHED or time.monotonic() > until:
                return Messages(found, f"{start}/{name}", searched)
    return Messages(found, None, searched)


async def list_scheduled(app: Celeriac, filter: Filter, limit: int, cursor: str | None = None,
                         within: float = math.inf) -> Messages:  # fmt: skip
    """Return messages that are not due yet, the soonest first. Ends and raises as `list_ready` does."""
    _check(app, filter)
    _, start = _position(cursor)
    only = filter.queues[0] if len(filter.queues) == 1 and "*" not in filter.queues[0] else None
    operations, found, searched = app.broker.operations(), list[Message](), 0
    until = time.monotonic() + within
    while messages := await operations.scheduled(only, STEP if filter != Filter() else limit - len(found), start):
        for number, message in enumerate(messages, start=1):
            if is_meant(app, filter, message):
                found.append(message)
            if len(found) == limit:
                return Messages(found, f"{start + number}/", searched + number)
        start, searched = start + len(messages), searched + len(messages)
        if searched >= SEARCHED or time.monotonic() > until:
            return Messages(found, f"{start}/", searched)
    return Messages(found, None, searched)


async def list_running(inspector: Looking, filter: Filter, limit: int, now: float) -> RunningPage:
    """Return what workers run now. They have the inspector's time to reply."""
    if filter.states or filter.words or filter.args or filter.headers or filter.errors or filter.signatures:
        raise ValueError("A running task is searched by task, queue, id, worker, attempt and runtime.")
    answers = await inspector.active()
    every = [Running(worker, task) for worker, tasks in answers.values.items() for task in tasks]
    meant = [
        one
        for one in every
        if filter.matches(
            Attempt(id=one.task.id, task=one.task.task, queue=one.task.queue, state="STARTED", worker=one.worker,
                    attempt=one.task.attempt, runtime=max(0.0, now - one.task.started_at), done_at=now)
        )
    ]  # fmt: skip
    meant.sort(key=lambda one: one.task.started_at)
    return RunningPage(meant[:limit], len(meant), answers.silent)


def _check(app: Celeriac, filter: Filter) -> None:
    check_waiting(filter)
    if not app.broker.can(Ability.KNOW_IDS) or not app.broker.can(Ability.SEE_SCHEDULED):
        raise NotSupported("This broker cannot list the messages that wait without taking them: the page of a queue "
                           "shows its first.")  # fmt: skip


def _position(cursor: str | None) -> tuple[str, int]:
    if cursor is None:
        return "", 0
    offset, slash, queue = cursor.partition("/")
    if not slash or not offset.isdecimal() or len(offset) > 12:
        raise ValueError(f"{cursor!r} is not the cursor of a page.")
    return queue, int(offset)
