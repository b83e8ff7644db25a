"""The base class of chains, groups and chords. Like signatures, they can be changed, linked, sent, run and stored.

`workflows.py` sends and runs them; its `Planner` calls `lay_out` of each part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from celeriac.canvas import graph
from celeriac.canvas.planner import Given, Planner
from celeriac.errors import WorkflowError
from celeriac.model.options import check_call
from celeriac.tasks.protocols import App
from celeriac.tasks.signature import Sendable, Signature, listed, plain_options, read_options, workflow_class

__all__ = ["Composite", "parts_of"]


class Composite(Sendable, ABC):
    """Signatures tied together.

    Options apply to all its tasks, but `countdown` and `eta` only to those that start at once. `link` is sent when all
    of it has succeeded, `link_error` once if any of its tasks fails. `task_id` is the id of its result.
    """

    kind: ClassVar[str]

    def __init__(self, tasks: Sequence[Any], options: Mapping[str, Any] | None = None) -> None:
        self.tasks = list(tasks)
        self.options = check_call(options or {})

    @abstractmethod
    def lay_out(self, planner: Planner, given: Given) -> int:
        """Add the nodes of its parts to a planner; return the node whose end is the end of the whole."""

    @property
    def app(self) -> App:
        """The app of the first task. Raises `WorkflowError` if there is no task."""
        found = self.find_app()
        if found is None:
            raise WorkflowError(f"{self!r} contains no task, so it has no app. Add at least one task.")
        return found

    def find_app(self) -> App | None:
        """Return the app of the first task, or None."""
        links = [*listed(self.options.get("link")), *listed(self.options.get("link_error"))]
        for part in (*self.tasks, *links):
            if isinstance(part, Signature):
                return part.app
            if isinstance(part, Composite) and (found := part.find_app()) is not None:
                return found
        return None

    # --- Changing -------------------------------------------------------------------------------------

    def set(self, **options: Any) -> Self:
        """Change options in place, and return the workflow."""
        self.options = check_call({**self.options, **options})
        return self

    def stamp(self, **stamps: Any) -> Self:
        """Add headers to all its tasks, in place."""
        return self.set(headers={**self.options.get("headers", {}), **stamps})

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy with these options, and with these arguments added to the tasks that start at once."""
        copy: Self = self._of_parts(self._parts_with(args, kwargs or {}))
        copy.options = check_call({**self.options, **options})
        return copy

    def _parts_with(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Return copies of the parts, with these arguments added to the tasks that start at once."""
        return [task.clone(args, kwargs) for task in self.tasks]

    def link(self, callback: Any) -> Self:
        """Send `callback` when all of this has succeeded, with the result as its first argument."""
        return self._linked("link", callback)

    def link_error(self, callback: Any) -> Self:
        """Send `callback` once if any part of this fails; see `Signature.link_error`."""
        return self._linked("link_error", callback)

    on_error = link_error

    def _linked(self, name: str, callback: Any) -> Self:
        self.options[name] = [*listed(self.options.get(name)), callback]
        return self

    def __or__(self, other: Any) -> Any:
        """Return a chain that calls `other` with the result of this."""
        return workflow_class("chain")(self, other) if isinstance(other, Sendable) else NotImplemented

    # --- Sending --------------------------------------------------------------------------------------

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it. The arguments are added to the tasks that start at once."""
        return self.apply_async(args, kwargs)

    async def adelay(self, *args: Any, **kwargs: Any) -> Any:
        """Coroutine version of `delay`."""
        return await self.aapply_async(args, kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Alias of `delay`."""
        return self.apply_async(args, kwargs)

    def apply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Send it with options."""
        if self.find_app() is None:
            return self.empty_result()
        return self.app.workflows.send(self, args, kwargs, check_call(options))

    async def aapply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                           **options: Any) -> Any:  # fmt: skip
        """Coroutine version of `apply_async`."""
        if self.find_app() is None:
            return self.empty_result()
        return await self.app.workflows.asend(self, args, kwargs, check_call(options))

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it in this process, and return its result."""
        if self.find_app() is None:
            return self.empty_result()
        return self.app.workflows.run(self, args, kwargs, check_call(options))

    def empty_result(self) -> Any:
        """Return the result of a workflow that has only empty groups, for which nothing is sent."""
        if not self.tasks:
            raise WorkflowError(f"A {self.kind} without tasks has no result. Add at least one task.")
        return self.tasks[-1].empty_result()

    def prepare(self, given: Given) -> tuple[Given, list[Any], list[Any]]:
        """Return the `Given` of the parts, the links and the error callbacks. `lay_out` calls this first."""
        options = {**self.options, **given.options}
        if "headers" in self.options and "headers" in given.options:
            options["headers"] = {**self.options["headers"], **given.options["headers"]}
        id = options.pop("task_id", None)
        links = [*listed(self.options.get("link")), *listed(given.options.get("link"))]
        errors = [*listed(self.options.get("link_error")), *listed(given.options.get("link_error"))]
        options = {name: value for name, value in options.items() if name not in ("link", "link_error")}
        return given._replace(options=options, id=given.id or id), links, errors

    # --- Plain data, drawings -------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the workflow as plain data."""
        return {"kind": self.kind, "tasks": [task.to_dict() for task in self.tasks],
                "options": plain_options(self.options)}  # fmt: skip

    @classmethod
    def of_dict(cls, data: Mapping[str, Any], app: App) -> Any:
        """Return a workflow from the data of `to_dict`."""
        parts = [Signature.from_dict(task, app) for task in data["tasks"]]
        made = cls._of_parts(parts)
        made.options = check_call(read_options(data.get("options") or {}))
        return made

    @classmethod
    @abstractmethod
    def _of_parts(cls, tasks: Sequence[Any]) -> Any:
        """Return a workflow of this kind with these parts."""

    def graph(self, format: str = "mermaid") -> str:
        """Return a drawing as "mermaid", "dot", "json", or "text" for a terminal."""
        tree = Planner(self.app, check=False).plan(self).tree
        return graph.draw(tree, format, {})

    def __len__(self) -> int:
        return len(self.tasks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Composite) and other.to_dict() == self.to_dict()

    __hash__ = None  # type: ignore[assignment]


def parts_of(kind: str, tasks: tuple[Any, ...]) -> list[Any]:
    """Return the parts of a chain or group, given one by one or as one iterable. Raises `TypeError` for any other."""
    first = tasks[0] if len(tasks) == 1 else tasks
    found = [first] if isinstance(first, Sendable) else list(first) if isinstance(first, Iterable) else [first]
    for task in found:
        if not isinstance(task, Sendable):
            raise TypeError(f"{kind} needs signatures (task.s(...)), not {task!r}")
    return found
