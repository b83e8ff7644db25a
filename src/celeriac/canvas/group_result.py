"""The results of a group: waited for together, in its order or as they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from typing import Any, Generic, TypeVar

from celeriac import states
from celeriac.errors import ResultIgnored, ResultTimeout
from celeriac.model.clock import Duration, limit
from celeriac.model.outcome import Outcome
from celeriac.ports.workflows import workflow_store
from celeriac.tasks.protocols import App
from celeriac.tasks.result import LONG, AsyncResult, EagerResult, Spot, forbid_waiting
from celeriac.tasks.shared import current_app

__all__ = ["GroupResult"]

R = TypeVar("R")


class GroupResult(Generic[R]):
    """The results of a group, in its order. `await result` is `await result.aget()`.

    Going through it waits for nothing, and gives the results in the group's order, so that `zip(items, result)` pairs
    what belongs together; `as_completed` gives them in the order of their arrival.
    """

    def __init__(self, id: str, results: Sequence[Any], spot: Spot | None = None, parent: Any = None) -> None:
        self.id = id
        self.results = list(results)  # AsyncResults; of groups within the group, GroupResults
        self.spot = spot  # in a workflow
        self._parent = parent
        # An empty group has ended when what is before it has, and as that has.
        made_of = self.results or ([self.parent] if self.parent is not None else [])
        self.leaves: list[AsyncResult[R]] = [leaf for result in made_of for leaf in _leaves(result)]

    @property
    def app(self) -> App:
        """The app of the results; of an empty group, the current one."""
        if self.spot is not None:
            return self.spot.app
        return self.leaves[0].app if self.leaves else current_app()

    @property
    def parent(self) -> Any:
        """The result of what was before the group in its workflow, or None."""
        if self._parent is None and self.spot is not None:
            return self.spot.parent()
        return self._parent

    @property
    def children(self) -> list[Any]:
        """The results of what the group is made of, and of what is called with the list of them."""
        return [*self.results, *(self.spot.children() if self.spot is not None else ())]

    @property
    def workflow_id(self) -> str | None:
        """The id of its workflow, if it is in one."""
        return self.spot.workflow_id if self.spot is not None else None

    # --- Waiting --------------------------------------------------------------------------------------

    def get(self, timeout: Duration | None = None, propagate: bool = True) -> list[R]:
        """Wait for all, and return their values in order.

        With `propagate`, raises the first exception in the group's order, when all have ended, so that one error
        does not hide the rest; without, exceptions stand among the values. Raises `ResultIgnored` at once where one was
        sent with `ignore_result`, and in no group: its end is not kept.
        """
        return self._values(dict(self._wait(timeout)), propagate)

    join = get

    async def aget(self, timeout: Duration | None = None, propagate: bool = True) -> list[R]:
        """Do as `get`, for coroutines."""
        return self._values({id: outcome async for id, outcome in self._await(timeout)}, propagate)

    ajoin = aget

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self.aget().__await__()

    def _values(self, outcomes: dict[str, Outcome], propagate: bool) -> list[Any]:
        if not self.results:
            for leaf in self.leaves:
                leaf._unwrap(outcomes[leaf.id], propagate)
        return [
            result._values(outcomes, propagate)
            if isinstance(result, GroupResult)
            else result._unwrap(outcomes[result.id], propagate)
            for result in self.results
        ]

    def as_completed(self, timeout: Duration | None = None) -> Iterator[AsyncResult[R]]:
        """Yield the results in the order in which they arrive, each ready to be `get`."""
        results = {result.id: result for result in self.leaves}
        for id, outcome in self._wait(timeout):
            yield _settled(results[id], outcome)

    async def aas_completed(self, timeout: Duration | None = None) -> AsyncIterator[AsyncResult[R]]:
        """Do as `as_completed`, for coroutines."""
        results = {result.id: result for result in self.leaves}
        async for id, outcome in self._await(timeout):
            yield _settled(results[id], outcome)

    def _wait(self, timeout: Duration | None) -> Iterator[tuple[str, Outcome]]:
        forbid_waiting()
        pending = _Pending(self.leaves, timeout)
        while pending.ids:
            yield from pending.take(pending.app.backend.fetch(list(pending.ids), wait=pending.left()))

    async def _await(self, timeout: Duration | None) -> AsyncIterator[tuple[str, Outcome]]:
        pending = _Pending(self.leaves, timeout)
        while pending.ids:
            for entry in pending.take(await pending.app.backend.afetch(list(pending.ids), wait=pending.left())):
                yield entry

    # --- Looking --------------------------------------------------------------------------------------

    def outcomes(self) -> dict[str, Outcome]:
        """Return what is known now, by task id."""
        known = {result.id: result.outcome for result in self.leaves if isinstance(result, EagerResult)}
        rest = [result.id for result in self.leaves if result.id not in known]
        fetched = self.app.backend.fetch(rest) if rest else {}
        return {**{id: outcome for id, outcome in known.items() if outcome is not None}, **fetched}

    def completed_count(self) -> int:
        """Return how many have ended, well or badly."""
        return sum(outcome.ready for outcome in self.outcomes().values())

    def ready(self) -> bool:
        """Say whether all have ended."""
        return self.completed_count() == len(self.leaves)

    def successful(self) -> bool:
        """Say whether all have returned."""
        outcomes = self.outcomes()
        return len(outcomes) == len(self.leaves) and all(o.state == states.SUCCESS for o in outcomes.values())

    def failed(self) -> bool:
        """Say whether any has failed."""
        return any(outcome.state == states.FAILURE for outcome in self.outcomes().values())

    def waiting(self) -> bool:
        """Say whether any has not ended."""
        return not self.ready()

    # --- Acting ---------------------------------------------------------------------------------------

    def revoke(self, terminate: bool = False) -> None:
        """Revoke all."""
        if self.leaves:
            self.app.control.revoke([result.id for result in self.leaves], terminate=terminate)

    def save(self) -> GroupResult[R]:
        """Keep what belongs to the group in the backend, so that `restore` finds it by its id."""
        self.app.workflows.save(self)
        return self

    @classmethod
    def restore(cls, id: str, app: App) -> GroupResult[Any] | None:
        """Return the group that was saved under this id, or None."""
        found: GroupResult[Any] | None = app.workflows.restore(id)
        return found

    def delete(self) -> None:
        """Undo `save`."""
        workflow_store(self.app.backend).uproot([self.id])

    def forget(self) -> None:
        """Drop all outcomes from the backend."""
        if self.leaves:
            self.app.backend.forget([result.id for result in self.leaves])

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> Any:
        return self.results[index]

    def __iter__(self) -> Iterator[AsyncResult[R]]:
        return iter(self.results)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupResult) and (other.id, other.results) == (self.id, self.results)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<GroupResult {self.id}: {len(self.results)} results>"


class _Pending:
    """Those of a group that have not been seen to end, and the time that is left for them."""

    def __init__(self, results: list[AsyncResult[Any]], timeout: Duration | None) -> None:
        if ignored := [result for result in results if result.ignored]:
            raise ResultIgnored(f"Nothing would tell that {ignored[0]!r} has ended, for its call had `ignore_result`. "
                                "Send it with ignore_result=False, or in a group(...).")  # fmt: skip
        self._eager = {r.id: r.outcome for r in results if isinstance(r, EagerResult)}
        self.ids = dict.fromkeys(result.id for result in results)
        self._total = len(self.ids)
        self._timeout = limit(timeout)
        self._deadline: float | None = None
        if results:
            self.app: App = results[0].app
            self._deadline = None if self._timeout is None else self.app.clock.monotonic() + self._timeout

    def left(self) -> float:
        if self._eager:
            return 0.0
        return LONG if self._deadline is None else max(1e-9, self._deadline - self.app.clock.monotonic())

    def take(self, found: dict[str, Outcome]) -> Iterator[tuple[str, Outcome]]:
        for id, outcome in {**found, **self._eager}.items():
            if id in self.ids and outcome.ready:
                del self.ids[id]
                yield id, outcome
        self._eager = {}
        if self.ids and self._deadline is not None and self.app.clock.monotonic() >= self._deadline:
            raise ResultTimeout(
                f"{len(self.ids)} of {self._total} tasks have no result after {self._timeout:g} s. "
                "Is a worker running that receives from their queues? `celeriac status` tells."
            )


def _leaves(result: Any) -> list[AsyncResult[Any]]:
    return result.leaves if isinstance(result, GroupResult) else [result]


def _settled(result: AsyncResult[R], outcome: Outcome) -> AsyncResult[R]:
    settled: EagerResult[R] = EagerResult(outcome, result.app, result.spot)
    return settled
