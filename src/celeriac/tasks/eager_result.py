"""The result of a task that ran in the calling process: `apply`, `task_always_eager`, and steps of such workflows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from celeriac.model.clock import Duration
from celeriac.model.outcome import Outcome
from celeriac.tasks.protocols import App, Spot
from celeriac.tasks.result import AsyncResult

__all__ = ["EagerResult"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    R = TypeVar("R", default=Any, covariant=True)
else:
    from typing import TypeVar

    R = TypeVar("R", covariant=True)


class EagerResult(AsyncResult[R]):
    """The result of a task that ran in the calling process."""

    __slots__ = ("_outcome",)

    def __init__(self, outcome: Outcome, app: App, spot: Spot | None = None) -> None:
        super().__init__(outcome.id, app, outcome.task, spot=spot)
        self._outcome = outcome

    @property
    def outcome(self) -> Outcome:
        """The outcome of the task."""
        return self._outcome

    def get(self, timeout: Duration | None = None, propagate: bool = True) -> R:
        """Return the return value, or raise the exception of the task."""
        return cast(R, self._unwrap(self._outcome, propagate))

    async def aget(self, timeout: Duration | None = None, propagate: bool = True) -> R:
        """Coroutine version of `get`."""
        return self.get(timeout, propagate)

    async def aoutcome(self) -> Outcome:
        """Coroutine version of `outcome`."""
        return self._outcome

    def forget(self) -> None:
        """Do nothing: no outcome is stored."""

    def revoke(self, terminate: bool = False) -> None:
        """Do nothing: the task has ended."""

    async def arevoke(self, terminate: bool = False) -> None:
        """Do nothing: the task has ended."""
