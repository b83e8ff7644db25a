"""What chains, groups and chords have in common: they are changed, linked, sent, run and carried as signatures are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from celeriac.canvas import graph
from celeriac.canvas.planner import Given, Planner
from celeriac.errors import WorkflowError
from celeriac.model.options import check_call
from celeriac.tasks.protocols import App
from celeriac.tasks.signature import Signature, listed, plain_options, read_options, sendable

__all__ = ["Composite", "parts_of"]


class Composite(ABC):
    """Signatures tied together.

    Options are for all its tasks, but `countdown` and `eta` for those that start at once; `link` is called after all of
    it, `link_error` once, whichever of its tasks fails; `task_id` is the id of its result.
    """

    kind: ClassVar[str]

    def __init__(self, tasks: Sequence[Any], options: Mapping[str, Any] | None = None) -> None:
        self.tasks = list(tasks)
        self.options = check_call(options or {})

    def __init_subclass__(cls) -> None:
        if "kind" in cls.__dict__:
            Signature.KINDS[cls.kind] = cls

    @abstractmethod
    def lay(self, planner: Planner, given: Given) -> int:
        """Lay out the parts; return the node whose end is the end of all."""

    @abstractmethod
    def rebuilt(self, tasks: Sequence[Any]) -> Self:
        """Return another of this kind, with these parts and the same options."""

    def ends_in_task(self) -> bool:
        """Say whether its result is that of one task."""
        last = self.tasks[-1] if self.tasks else None
        return isinstance(last, Signature) or (last is not None and bool(last.ends_in_task()))

    @property
    def app(self) -> App:
        """The app of the first task. Raises `WorkflowError` where there is none."""
        found = self.find_app()
        if found is None:
            raise WorkflowError(f"There is no task in {self!r}, so that it has no app.")
        return found

    def find_app(self) -> App | None:
        """Return the app of the first task, if there is one."""
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
        """Return a copy, with more arguments for what starts at once, and other options."""
        copy = self.rebuilt(self._with(args, kwargs or {}))
        copy.options = check_call({**self.options, **options})
        return copy

    def _with(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Return copies of the parts, with arguments for what starts at once."""
        return [task.clone(args, kwargs) for task in self.tasks]

    def link(self, callback: Any) -> Self:
        """Send `callback`, with the result as its first argument, when all of this has succeeded."""
        return self._linked("link", callback)

    def link_error(self, callback: Any) -> Self:
        """Send `callback`, once, when any part of this has failed; see `Signature.link_error`."""
        return self._linked("link_error", callback)

    on_error = link_error

    def _linked(self, name: str, callback: Any) -> Self:
        self.options[name] = [*listed(self.options.get(name)), callback]
        return self

    def __or__(self, other: Any) -> Any:
        """Return a chain: `other` is called with the result of this."""
        return Signature.KINDS["chain"](self, other) if sendable(other) else NotImplemented

    # --- Sending --------------------------------------------------------------------------------------

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it; arguments are for what starts at once."""
        return self.apply_async(args, kwargs)

    async def adelay(self, *args: Any, **kwargs: Any) -> Any:
        """Do as `delay`, for coroutines."""
        return await self.aapply_async(args, kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it."""
        return self.apply_async(args, kwargs)

    def apply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Send it, with options."""
        if self.find_app() is None:
            return self.nothing()
        return self.app.workflows.send(self, args, kwargs, check_call(options))

    async def aapply_async(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
                           **options: Any) -> Any:  # fmt: skip
        """Do as `apply_async`, for coroutines."""
        if self.find_app() is None:
            return self.nothing()
        return await self.app.workflows.asend(self, args, kwargs, check_call(options))

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it here and now."""
        if self.find_app() is None:
            return self.nothing()
        return self.app.workflows.run(self, args, kwargs, check_call(options))

    def nothing(self) -> Any:
        """Return the result of what is made up of empty groups alone: nothing is sent for it."""
        if not self.tasks:
            raise WorkflowError(f"A {self.kind} without tasks has no result. Put one into it.")
        return self.tasks[-1].nothing()

    def laid(self, planner: Planner, given: Given) -> tuple[Given, list[Any], list[Any]]:
        """Return what the parts are given, and what is linked to the end: called by `lay`."""
        options = {**self.options, **given.options}
        if "headers" in self.options and "headers" in given.options:
            options["headers"] = {**self.options["headers"], **given.options["headers"]}
        id = options.pop("task_id", None)
        links = [*listed(self.options.get("link")), *listed(given.options.get("link"))]
        errors = [*listed(self.options.get("link_error")), *listed(given.options.get("link_error"))]
        options = {name: value for name, value in options.items() if name not in ("link", "link_error")}
        return given._replace(options=options, id=given.id or id), links, errors

    # --- Carrying and showing it ----------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"kind": self.kind, "tasks": [task.to_dict() for task in self.tasks],
                "options": plain_options(self.options)}  # fmt: skip

    @classmethod
    def of_dict(cls, data: Mapping[str, Any], app: App) -> Any:
        """Return what `to_dict` gave."""
        parts = [Signature.from_dict(task, app) for task in data["tasks"]]
        made = cls._of(parts)
        made.options = check_call(read_options(data.get("options") or {}))
        return made

    @classmethod
    @abstractmethod
    def _of(cls, tasks: Sequence[Any]) -> Any:
        """Return one with these parts."""

    def graph(self, format: str = "mermaid") -> str:
        """Return a drawing: "mermaid", "dot", or "text" for a terminal."""
        tree = Planner(self.app, check=False).plan(self).tree
        return graph.draw(tree, format, {})

    def __len__(self) -> int:
        return len(self.tasks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Composite) and other.to_dict() == self.to_dict()

    __hash__ = None  # type: ignore[assignment]


def parts_of(kind: str, tasks: tuple[Any, ...]) -> list[Any]:
    """Return the parts of a chain or group, given one by one or as one iterable; refuse what is no signature."""
    first = tasks[0] if len(tasks) == 1 else tasks
    found = [first] if sendable(first) else list(first) if isinstance(first, Iterable) else [first]
    for task in found:
        if not sendable(task):
            raise TypeError(f"{kind} takes signatures (task.s(...)), not {task!r}")
    return found
