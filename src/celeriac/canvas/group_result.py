"""`GroupResult`: the results of a group. It waits for all of them, and returns them in order or as they arrive."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from typing import Any, Generic, TypeVar

from celeriac import states
from celeriac.errors import ResultIgnored, ResultTimeout
from celeriac.model.clock import Duration, limit
from celeriac.model.outcome import Outcome
from celeriac.ports.workflows import workflow_store
from celeriac.tasks.eager_result import EagerResult
from celeriac.tasks.protocols import App
from celeriac.tasks.result import LONG, AsyncResult, Spot, forbid_waiting
from celeriac.tasks.shared import current_app

__all__ = ["GroupResult"]

R = TypeVar("R", covariant=True)


class GroupResult(Generic[R]):
    """The results of a group. `await result` means `await result.aget()`.

    Iteration does not wait. It yields the results in the order of the group, so that `zip(items, result)` pairs each
    item with its result; `as_completed` yields them in the order in which they arrive.
    """

    def __init__(self, id: str, results: Sequence[Any], spot: Spot | None = None, parent: Any = None) -> None:
        self.id = id
        self.results = list(results)  # AsyncResults, and GroupResults of nested groups
        self.spot = spot  # its node in a workflow
        self._parent = parent
        # An empty group ends when the node before it ends, and in the same way.
        parts = self.results or ([self.parent] if self.parent is not None else [])
        self.leaves: list[AsyncResult[R]] = [leaf for result in parts for leaf in _leaves(result)]

    @property
    def app(self) -> App:
        """The app of the results; of an empty group, the current app."""
        if self.spot is not None:
            return self.spot.app
        return self.leaves[0].app if self.leaves else current_app()

    @property
    def parent(self) -> Any:
        """The result of the node before the group in its workflow, or None."""
        if self._parent is None and self.spot is not None:
            return self.spot.parent()
        return self._parent

    @property
    def children(self) -> list[Any]:
        """The results of its members, and of the nodes that receive the list of them."""
        return [*self.results, *(self.spot.children() if self.spot is not None else ())]

    @property
    def workflow_id(self) -> str | None:
        """The id of its workflow, or None."""
        return self.spot.workflow_id if self.spot is not None else None

    # --- Waiting --------------------------------------------------------------------------------------

    def get(self, timeout: Duration | None = None, propagate: bool = True) -> list[R]:
        """Wait for all results, and return their values in order.

        With `propagate`, raises the first exception in the group's order once all have ended. Without, exceptions are
        returned among the values. Raises `ResultIgnored` at once if a call had `ignore_result` and was not sent in a
        group, since its end is not stored.
        """
        return self._values(dict(self._wait(timeout)), propagate)

    join = get

    async def aget(self, timeout: Duration | None = None, propagate: bool = True) -> list[R]:
        """Coroutine version of `get`."""
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
        """Yield each result when its outcome arrives; its `get` then returns at once."""
        results = {result.id: result for result in self.leaves}
        for id, outcome in self._wait(timeout):
            yield _with_outcome(results[id], outcome)

    async def aas_completed(self, timeout: Duration | None = None) -> AsyncGenerator[AsyncResult[R], None]:
        """Coroutine version of `as_completed`."""
        results = {result.id: result for result in self.leaves}
        async for id, outcome in self._await(timeout):
            yield _with_outcome(results[id], outcome)

    def _wait(self, timeout: Duration | None) -> Iterator[tuple[str, Outcome]]:
        forbid_waiting()
        pending = _Pending(self.leaves, timeout)
        while pending.ids:
            yield from pending.arrived(pending.app.backend.fetch(list(pending.ids), wait=pending.left()))

    async def _await(self, timeout: Duration | None) -> AsyncGenerator[tuple[str, Outcome], None]:
        pending = _Pending(self.leaves, timeout)
        while pending.ids:
            for entry in pending.arrived(await pending.app.backend.afetch(list(pending.ids), wait=pending.left())):
                yield entry

    # --- State ----------------------------------------------------------------------------------------

    def outcomes(self) -> dict[str, Outcome]:
        """Return the outcomes that the backend has now, by task id."""
        known = {result.id: result.outcome for result in self.leaves if isinstance(result, EagerResult)}
        rest = [result.id for result in self.leaves if result.id not in known]
        fetched = self.app.backend.fetch(rest) if rest else {}
        return {**{id: outcome for id, outcome in known.items() if outcome is not None}, **fetched}

    def completed_count(self) -> int:
        """Return how many tasks have ended, in any state."""
        return sum(outcome.ready for outcome in self.outcomes().values())

    def ready(self) -> bool:
        """Return whether all tasks have ended."""
        return self.completed_count() == len(self.leaves)

    def successful(self) -> bool:
        """Return whether all tasks have succeeded."""
        outcomes = self.outcomes()
        return len(outcomes) == len(self.leaves) and all(o.state == states.SUCCESS for o in outcomes.values())

    def failed(self) -> bool:
        """Return whether any task has failed."""
        return any(outcome.state == states.FAILURE for outcome in self.outcomes().values())

    def waiting(self) -> bool:
        """Return whether any task has not ended."""
        return not self.ready()

    # --- Acting ---------------------------------------------------------------------------------------

    def revoke(self, terminate: bool = False) -> None:
        """Revoke all tasks; see `AsyncResult.revoke`."""
        if self.leaves:
            self.app.control.revoke([result.id for result in self.leaves], terminate=terminate)

    def save(self) -> GroupResult[R]:
        """Store the ids of the group in the backend, so that `restore` finds it by its id."""
        self.app.workflows.save(self)
        return self

    @classmethod
    def restore(cls, id: str, app: App | None = None) -> GroupResult[Any] | None:
        """Return the group that was saved with this id in the app, or the current one; or None."""
        found: GroupResult[Any] | None = (app or current_app()).workflows.restore(id)
        return found

    def delete(self) -> None:
        """Delete what `save` stored."""
        workflow_store(self.app.backend).uproot([self.id])

    def forget(self) -> None:
        """Delete the outcomes of all tasks from the backend."""
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
    """The results of a group whose outcomes have not arrived, and the time left to wait for them."""

    def __init__(self, results: list[AsyncResult[Any]], timeout: Duration | None) -> None:
        if ignored := [result for result in results if result.ignored]:
            raise ResultIgnored(f"Cannot wait for {ignored[0]!r}: its call had `ignore_result`, so its end is unknown. "
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

    def arrived(self, found: dict[str, Outcome]) -> Iterator[tuple[str, Outcome]]:
        for id, outcome in {**found, **self._eager}.items():
            if id in self.ids and outcome.ready:
                del self.ids[id]
                yield id, outcome
        self._eager = {}
        if self.ids and self._deadline is not None and self.app.clock.monotonic() >= self._deadline:
            raise ResultTimeout(
                f"{len(self.ids)} of {self._total} tasks have no result after {self._timeout:g} s. "
                "Is a worker running that receives from their queues, and are their modules imported there? "
                f"`celeriac explain {next(iter(self.ids))}` says why one of them has none."
            )


def _leaves(result: Any) -> list[AsyncResult[Any]]:
    return result.leaves if isinstance(result, GroupResult) else [result]


def _with_outcome(result: AsyncResult[R], outcome: Outcome) -> AsyncResult[R]:
    found: EagerResult[R] = EagerResult(outcome, result.app, result.spot)
    return found
