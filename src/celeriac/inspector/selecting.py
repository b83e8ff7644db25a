"""Which tasks a bulk action acts on: failures in the history, dead letters, or waiting messages that a filter means.

What came after the cut-off is left out, so that an action hits what was counted before it, and nothing else: messages
by when they were sent, failures and dead letters by when they became such.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec

from celeriac import states
from celeriac.app.app import Celeriac
from celeriac.errors import DecodeError, NotSupported
from celeriac.model.filters import Filter
from celeriac.model.history import Attempt
from celeriac.model.message import Message, made_at
from celeriac.model.serialization import decode
from celeriac.ports.abilities import Ability

__all__ = ["MOST", "Bound", "Cut", "Matched", "Source", "check_waiting", "dead_letters", "failures", "is_meant",
           "scheduled", "waiting"]  # fmt: skip

PAGE: Final = 1000
MOST: Final = 100_000  # tasks of one action
PASSES: Final = 5  # over messages that workers take meanwhile, so that pages shift
ANY: Final = Filter()
ENDED: Final = ("worker", "signature", "error", "runtime", "wait")  # conditions that only attempts tell


class Cut(NamedTuple):
    """Nothing that came after this is meant."""

    id: str
    at: float  # seconds since the epoch

    def has(self, id: str, at: float) -> bool:
        """Return whether something came before. Ids of Celeriac sort by time; for others, `at` decides."""
        return id <= self.id if made_at(id) is not None else at <= self.at


class Bound(NamedTuple):
    """Where a search for tasks ends before it has seen all."""

    found: int = MOST
    searched: float = math.inf

    def is_reached(self, found: int, searched: int) -> bool:
        """Return whether it ends here: there may be more."""
        return found > self.found or searched >= self.searched


class Matched(NamedTuple):
    """What a filter means."""

    ids: list[str]
    is_all: bool  # otherwise there may be more: a bound was reached
    searched: int = 0  # attempts, letters or messages that were looked at


Source = Callable[[Celeriac, Filter, Cut, Bound], Awaitable[Matched]]
"""Finds tasks. Raises `ValueError` for a condition that it cannot check, or `NotSupported`."""


async def failures(app: Celeriac, filter: Filter, cut: Cut, bound: Bound) -> Matched:
    """Return tasks whose last failure is in the history."""
    history = app.history
    if history is None:
        raise NotSupported("This app keeps no history, so failed tasks cannot be searched for: name them by their ids, "
                           "or set `history_url`.")  # fmt: skip
    if set(filter.states) - {states.FAILURE}:
        raise ValueError("Only tasks that have failed can be sent again: leave the state out.")
    chosen = msgspec.structs.replace(filter, states=(states.FAILURE,))
    found: dict[str, None] = {}
    cursor: str | None = None
    searched = 0
    while not bound.is_reached(len(found), searched):
        page = await history.search(chosen, PAGE, cursor, most=bound.searched - searched)
        found |= dict.fromkeys(one.id for one in page.rows if one.done_at <= cut.at)
        cursor, searched = page.next, searched + page.searched
        if cursor is None:
            return _matched(found, bound, searched)
    return _matched(found, bound, searched, is_all=False)


async def dead_letters(app: Celeriac, filter: Filter, cut: Cut, bound: Bound) -> Matched:
    """Return dead letters."""
    _check(filter, "dead letter")
    if set(filter.states) - {states.FAILURE}:
        raise ValueError("A dead letter has failed: leave the state out.")
    operations = app.broker.operations()
    found: dict[str, None] = {}
    offset = 0
    while not bound.is_reached(len(found), offset):
        letters = await operations.dead(None, PAGE, offset)
        for letter in letters:
            seen = _seen(letter.message, letter.at, letter.reason, states.FAILURE)
            if letter.at <= cut.at and is_meant(app, filter, letter.message, seen):
                found[letter.message.id] = None
        offset += len(letters)
        if len(letters) < PAGE:
            return _matched(found, bound, offset)
    return _matched(found, bound, offset, is_all=False)


def _matched(found: dict[str, None], bound: Bound, searched: int, *, is_all: bool = True) -> Matched:
    return Matched(list(found)[: bound.found], is_all and len(found) <= bound.found, searched)


async def waiting(app: Celeriac, filter: Filter, cut: Cut, bound: Bound) -> Matched:
    """Return tasks whose messages are ready or scheduled."""
    return await _of_queues(app, filter, cut, bound, ("peek", "scheduled"))


async def scheduled(app: Celeriac, filter: Filter, cut: Cut, bound: Bound) -> Matched:
    """Return tasks whose messages are not due yet."""
    return await _of_queues(app, filter, cut, bound, ("scheduled",))


async def _of_queues(app: Celeriac, filter: Filter, cut: Cut, bound: Bound, looks: tuple[str, ...]) -> Matched:
    check_waiting(filter)
    if not app.broker.can(Ability.SEE_SCHEDULED):
        raise NotSupported("This broker cannot list all messages that wait, so none can be chosen by a filter.")
    operations = app.broker.operations()
    queues = [counts.queue for counts in await operations.queues()]
    found: dict[str, None] = {}
    searched = 0
    for number in range(PASSES):
        before = len(found)
        for queue in queues:
            if not Filter(queues=filter.queues).counts("", queue, "", "", ""):
                continue
            for look in looks:
                async for message in _messages(getattr(operations, look), queue):
                    wanted = is_meant(app, filter, message)
                    if cut.has(message.id, message.sent_at) and wanted:
                        found[message.id] = None
                    searched += number == 0  # later, the same ones are looked at again
                    if bound.is_reached(len(found), searched):
                        return _matched(found, bound, searched, is_all=False)
        if len(found) == before:
            break
    return _matched(found, bound, searched)


async def _messages(look: Callable[[str, int, int], Awaitable[list[Message]]], queue: str) -> AsyncIterator[Message]:
    offset = 0
    while messages := await look(queue, PAGE, offset):
        for message in messages:
            yield message
        if len(messages) < PAGE:
            return
        offset += len(messages)


def check_waiting(filter: Filter) -> None:
    """Raise `ValueError` for conditions that only tasks have that have run."""
    _check(filter, "waiting task")
    if filter.states or filter.words:
        raise ValueError("A waiting task has neither a state nor an error: leave them out.")


def _check(filter: Filter, what: str) -> None:
    wrong = [name for name in ENDED if getattr(filter, name if name in ("runtime", "wait") else f"{name}s")
             != getattr(Filter(), name if name in ("runtime", "wait") else f"{name}s")]  # fmt: skip
    if wrong:
        raise ValueError(f"A {what} has no {wrong[0]}: leave it out.")


def _seen(message: Message, at: float, reason: str = "", state: str = "") -> Attempt:
    """Return a message as a filter sees an attempt."""
    return Attempt(id=message.id, task=message.task, queue=message.queue, state=state or states.PENDING,
                   attempt=message.attempt, done_at=at, message=reason, root_id=message.root_id,
                   group_id=message.group_id, headers=message.headers)  # fmt: skip


def is_meant(app: Celeriac, filter: Filter, message: Message, seen: Attempt | None = None) -> bool:
    """Return whether a message is meant, which a filter sees as an attempt."""
    if seen is None and (filter == ANY or not filter.counts(message.task, message.queue, "", "", "")):
        return filter == ANY  # most are decided by this, without an attempt that is made of them
    as_attempt = seen if seen is not None else _seen(message, message.sent_at)
    return filter.matches(as_attempt) and (not filter.args or _has_args(app, filter, message))


def _has_args(app: Celeriac, filter: Filter, message: Message) -> bool:
    """Return whether a message has arguments of these values: by their names, or by their numbers."""
    try:
        args, kwargs = decode(message.content_type, message.body, app.conf.accept_content)
    except (DecodeError, TypeError, ValueError):
        return False
    named: dict[str, Any] = {**dict(zip(map(str, range(len(args))), args, strict=True)), **kwargs}
    task = app.tasks.get(message.task)
    if task is not None:
        with contextlib.suppress(TypeError):  # it was sent by another version of the task
            named |= task.arguments.signature.bind_partial(*args, **kwargs).arguments
    return filter.has_args(named)
