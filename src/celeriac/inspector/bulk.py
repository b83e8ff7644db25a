"""Actions on many tasks at once: which tasks each acts on, and one step of it.

The HTTP API runs them as jobs (`web/bulk.py`), in steps of at most `STEP` tasks. What was done is not found again: an
action that was interrupted is finished by doing it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from celeriac.app.app import Celeriac
from celeriac.inspector.changing import Inspector
from celeriac.inspector.selecting import Bound, Cut, Matched, Source, dead_letters, failures, scheduled, waiting
from celeriac.model.filters import Filter
from celeriac.ports.abilities import Ability

__all__ = ["ACTIONS", "STEP", "Action", "Bulk", "Done"]

STEP: Final = 1000


class Done(NamedTuple):
    """What one step has done: how many tasks, and why others were refused."""

    number: int
    refused: Counter[str]


class Bulk(NamedTuple):
    """One action on many tasks, by somebody."""

    app: Celeriac
    action: Action
    cut: Cut
    by: str
    queue: str | None = None

    async def select(self, filter: Filter, bound: Bound) -> Matched:
        """Return the tasks that a filter means, as far as the bound. Raises `ValueError`, `NotSupported`."""
        return await self.action.source(self.app, filter, self.cut, bound)

    async def step(self, ids: Sequence[str]) -> Done:
        """Do it to these, at most `STEP`."""
        return await self.action.apply(self, ids)


class Action(NamedTuple):
    """A kind of action."""

    name: str
    scope: str  # what its user needs
    source: Source
    apply: Callable[[Bulk, Sequence[str]], Awaitable[Done]]
    runs: bool  # whether the tasks run then, so that a few can go first
    needs: Ability | None = None  # of the broker


def _of(count: int, ids: Sequence[str], why: str) -> Done:
    return Done(count, Counter({why: len(ids) - count} if count < len(ids) else {}))


async def _resend(bulk: Bulk, ids: Sequence[str]) -> Done:
    return _of(await Inspector(bulk.app).resend(ids), ids, "it is no dead letter any more")


async def _drop(bulk: Bulk, ids: Sequence[str]) -> Done:
    return _of(await Inspector(bulk.app).drop(ids), ids, "it is no dead letter any more")


async def _revoke(bulk: Bulk, ids: Sequence[str]) -> Done:
    await Inspector(bulk.app).revoke(ids)
    return Done(len(ids), Counter())


async def _retry(bulk: Bulk, ids: Sequence[str]) -> Done:
    done = await Inspector(bulk.app).retry(ids, bulk.by, bulk.queue, bulk.cut.at)
    return Done(len(done.sent), Counter(done.refused.values()))


async def _run_now(bulk: Bulk, ids: Sequence[str]) -> Done:
    return _of(await Inspector(bulk.app).run_now(ids), ids, "it is not scheduled any more")


async def _move(bulk: Bulk, ids: Sequence[str]) -> Done:
    count = await Inspector(bulk.app).move(ids, bulk.queue or "")
    return _of(count, ids, "it does not wait any more, or is there already")


ACTIONS: Final = {
    action.name: action
    for action in (
        Action("resend", "dead:write", dead_letters, _resend, runs=True),
        Action("drop", "dead:write", dead_letters, _drop, runs=False),
        Action("retry", "tasks:retry", failures, _retry, runs=True),
        Action("revoke", "tasks:revoke", waiting, _revoke, runs=False),
        Action("run-now", "tasks:retry", scheduled, _run_now, runs=True, needs=Ability.SEE_SCHEDULED),
        Action("move", "queues:write", waiting, _move, runs=False, needs=Ability.SEE_SCHEDULED),
    )
}
"""All actions, by name."""
