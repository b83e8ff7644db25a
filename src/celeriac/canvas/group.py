"""A set of tasks, sent together, and their results."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from celeriac import states
from celeriac.errors import ResultTimeout
from celeriac.message import new_id
from celeriac.outcome import Outcome
from celeriac.result import LONG, AsyncResult, EagerResult, forbid_waiting
from celeriac.signature import Signature

if TYPE_CHECKING:
    from celeriac.app import Celeriac

__all__ = ["GroupResult", "group"]

R = TypeVar("R")

PUBLISH_BATCH = 1000  # messages sent in one step


class group(Generic[R]):  # noqa: N801 - Celery's name
    """Signatures that are sent together: `group(add.s(i, i) for i in range(10)).delay().get()`.

    A group of one has a list of one as its result; an empty group an empty list.
    """

    def __init__(self, *tasks: Signature[R] | Iterable[Signature[R]]) -> None:
        first = tasks[0] if len(tasks) == 1 else tasks
        self.tasks: list[Signature[R]] = [first] if isinstance(first, Signature) else list(first)  # type: ignore[arg-type]
        for task in self.tasks:
            if not isinstance(task, Signature):
                raise TypeError(f"group takes signatures (task.s(...)), not {task!r}")

    def apply_async(self, **options: Any) -> GroupResult[R]:
        """Send all; the options are for each of them."""
        id, messages = self._messages(options)
        results: list[AsyncResult[R]] = []
        for start in range(0, len(messages), PUBLISH_BATCH):
            batch = messages[start : start + PUBLISH_BATCH]
            if self.tasks[0].app.publish(batch):
                results += [AsyncResult(message.id, self.tasks[0].app, message.task) for message in batch]
            else:
                results += [task.apply() for task in self.tasks[start : start + PUBLISH_BATCH]]
        return GroupResult(id, results)

    async def aapply_async(self, **options: Any) -> GroupResult[R]:
        """Do as `apply_async`, for coroutines."""
        id, messages = self._messages(options)
        results: list[AsyncResult[R]] = []
        for start in range(0, len(messages), PUBLISH_BATCH):
            batch = messages[start : start + PUBLISH_BATCH]
            if await self.tasks[0].app.apublish(batch):
                results += [AsyncResult(message.id, self.tasks[0].app, message.task) for message in batch]
            else:
                results += [task.apply() for task in self.tasks[start : start + PUBLISH_BATCH]]
        return GroupResult(id, results)

    def delay(self) -> GroupResult[R]:
        """Send all."""
        return self.apply_async()

    __call__ = delay

    async def adelay(self) -> GroupResult[R]:
        """Send all, for coroutines."""
        return await self.aapply_async()

    def apply(self) -> GroupResult[R]:
        """Run all here and now, one after the other."""
        return GroupResult(new_id(), [task.apply() for task in self.tasks])

    def _messages(self, options: dict[str, Any]) -> tuple[str, list[Any]]:
        id = options.pop("task_id", None) or new_id()  # the group's own; each task has another
        for task in self.tasks:
            task._checked((), None)
        return id, [task.message(group_id=id, **options) for task in self.tasks]

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.tasks))})"


class GroupResult(Generic[R]):
    """The results of a group, in its order."""

    def __init__(self, id: str, results: list[AsyncResult[R]]) -> None:
        self.id = id
        self.results = results

    # --- Waiting --------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None, propagate: bool = True) -> list[R]:
        """Wait for all, and return their values in order.

        With `propagate`, raises the first exception in the group's order, when all have ended, so that one error
        does not hide the rest; without, exceptions stand among the values.
        """
        outcomes = dict(self._wait(timeout))
        return [result._unwrap(outcomes[result.id], propagate) for result in self.results]

    join = get

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> list[R]:
        """Do as `get`, for coroutines."""
        outcomes = {id: outcome async for id, outcome in self._await(timeout)}
        return [result._unwrap(outcomes[result.id], propagate) for result in self.results]

    def as_completed(self, timeout: float | None = None) -> Iterator[AsyncResult[R]]:
        """Yield the results in the order in which they arrive, each ready to be `get`."""
        results = {result.id: result for result in self.results}
        for id, outcome in self._wait(timeout):
            yield _settled(results[id], outcome)

    __iter__ = as_completed

    async def aas_completed(self, timeout: float | None = None) -> AsyncIterator[AsyncResult[R]]:
        """Do as `as_completed`, for coroutines."""
        results = {result.id: result for result in self.results}
        async for id, outcome in self._await(timeout):
            yield _settled(results[id], outcome)

    def _wait(self, timeout: float | None) -> Iterator[tuple[str, Outcome]]:
        forbid_waiting()
        pending = _Pending(self.results, timeout)
        while pending.ids:
            yield from pending.take(pending.app.backend.fetch(list(pending.ids), wait=pending.left()))

    async def _await(self, timeout: float | None) -> AsyncIterator[tuple[str, Outcome]]:
        pending = _Pending(self.results, timeout)
        while pending.ids:
            for entry in pending.take(await pending.app.backend.afetch(list(pending.ids), wait=pending.left())):
                yield entry

    # --- Looking --------------------------------------------------------------------------------------

    def outcomes(self) -> dict[str, Outcome]:
        """Return what is known now, by task id."""
        known = {result.id: result.outcome for result in self.results if isinstance(result, EagerResult)}
        rest = [result.id for result in self.results if result.id not in known]
        fetched = self.results[0].app.backend.fetch(rest) if rest else {}
        return {**{id: outcome for id, outcome in known.items() if outcome is not None}, **fetched}

    def completed_count(self) -> int:
        """Return how many have ended, well or badly."""
        return sum(outcome.ready for outcome in self.outcomes().values())

    def ready(self) -> bool:
        """Say whether all have ended."""
        return self.completed_count() == len(self.results)

    def successful(self) -> bool:
        """Say whether all have returned."""
        outcomes = self.outcomes()
        return len(outcomes) == len(self.results) and all(o.state == states.SUCCESS for o in outcomes.values())

    def failed(self) -> bool:
        """Say whether any has failed."""
        return any(outcome.state == states.FAILURE for outcome in self.outcomes().values())

    def waiting(self) -> bool:
        """Say whether any has not ended."""
        return not self.ready()

    # --- Acting ---------------------------------------------------------------------------------------

    def revoke(self, terminate: bool = False) -> None:
        """Revoke all."""
        if self.results:
            self.results[0].app.control.revoke([result.id for result in self.results], terminate=terminate)

    def forget(self) -> None:
        """Drop all outcomes from the backend."""
        if self.results:
            self.results[0].app.backend.forget([result.id for result in self.results])

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> AsyncResult[R]:
        return self.results[index]

    def __repr__(self) -> str:
        return f"<GroupResult {self.id}: {len(self.results)} results>"


class _Pending:
    """Those of a group that have not been seen to end, and the time that is left for them."""

    def __init__(self, results: list[AsyncResult[Any]], timeout: float | None) -> None:
        self._eager = {r.id: r.outcome for r in results if isinstance(r, EagerResult)}
        self.ids = dict.fromkeys(result.id for result in results)
        self._total = len(self.ids)
        self._timeout = timeout
        self._deadline: float | None = None
        if results:
            self.app: Celeriac = results[0].app
            self._deadline = None if timeout is None else self.app.clock.monotonic() + timeout

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


def _settled(result: AsyncResult[R], outcome: Outcome) -> AsyncResult[R]:
    settled: EagerResult[R] = EagerResult(outcome, result.app)
    return settled


