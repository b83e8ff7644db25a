"""`Results`: what `delay_many` returns, the results of many calls of one task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from celeriac.tasks.protocols import App
from celeriac.tasks.result import AsyncResult

if TYPE_CHECKING:
    from celeriac.model.message import Message

__all__ = ["Results"]

R = TypeVar("R")


class Results(Sequence[AsyncResult[R]]):
    """The results of many calls of one task, in the order of the calls.

    Only the ids are stored; each `AsyncResult` is made on access.
    """

    __slots__ = ("_app", "_ignored", "_task_name", "ids")

    def __init__(self, app: App, task_name: str) -> None:
        self.ids: list[str] = []
        self._app = app
        self._task_name = task_name
        self._ignored = False

    def add(self, messages: Sequence[Message]) -> None:
        """Add messages that were sent, all with the same options."""
        self.ids += [message.id for message in messages]
        self._ignored = messages[0].ignore_result

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> AsyncResult[R]: ...

    @overload
    def __getitem__(self, index: slice) -> list[AsyncResult[R]]: ...

    def __getitem__(self, index: int | slice) -> AsyncResult[R] | list[AsyncResult[R]]:
        if isinstance(index, slice):
            return [self._result(id) for id in self.ids[index]]
        return self._result(self.ids[index])

    def __iter__(self) -> Iterator[AsyncResult[R]]:
        return map(self._result, self.ids)

    def __add__(self, others: Iterable[AsyncResult[Any]]) -> list[AsyncResult[Any]]:
        return [*self, *others]

    def __radd__(self, others: Iterable[AsyncResult[Any]]) -> list[AsyncResult[Any]]:
        return [*others, *self]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Results | list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def _result(self, id: str) -> AsyncResult[R]:
        return AsyncResult(id, self._app, self._task_name, self._ignored)

    def __repr__(self) -> str:
        return f"<Results {self._task_name}: {len(self.ids)}>"
