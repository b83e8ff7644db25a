"""`chain`: calls in sequence, each with the result of the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celeriac.canvas.chord import chord
from celeriac.canvas.composite import Composite, parts_of
from celeriac.canvas.group import group
from celeriac.canvas.planner import Given, Planner
from celeriac.errors import WorkflowError
from celeriac.tasks.signature import Signature

__all__ = ["chain"]


class chain(Composite):  # noqa: N801 - Celery's name
    """Tasks in sequence: `chain(add.s(2, 2), double.s())`, or `add.s(2, 2) | double.s()`.

    Nested chains become one chain; a group and the task after it become a chord. The result is that of the last task.
    Tasks after one that fails are not run, and end in its state.
    """

    kind = "chain"

    def __init__(self, *tasks: Any, **options: Any) -> None:
        parts: list[Any] = []
        for task in parts_of("chain", tasks):
            for part in task.tasks if isinstance(task, chain) and not task.options else [task]:
                if parts and isinstance(parts[-1], group):
                    parts[-1] = chord(parts[-1], part)
                else:
                    parts.append(part)
        super().__init__(parts, options)

    def lay_out(self, planner: Planner, given: Given) -> int:
        if not self.tasks:
            raise WorkflowError("A chain without tasks has no result. Add at least one task.")
        inside, links, errors = self.prepare(given)
        end = given.source
        for number, task in enumerate(self.tasks):
            last = number == len(self.tasks) - 1
            end = planner.add(task, inside._replace(source=end, id=inside.id if last else None))
        planner.add_links(end, links, errors, inside)
        return end

    @classmethod
    def _of_parts(cls, tasks: Sequence[Any]) -> Any:
        return cls(*tasks)

    def _parts_with(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        return [task.clone(args, kwargs) if i == 0 else task.clone() for i, task in enumerate(self.tasks)]

    def is_plain(self) -> bool:
        """Return whether it has only tasks, and no links: such a chain needs no backend."""
        links = ("link", "link_error")
        return all(
            isinstance(task, Signature) and not any(task.options.get(name) for name in links) for task in self.tasks
        ) and not any(self.options.get(name) for name in links)

    def __repr__(self) -> str:
        text = " | ".join(map(repr, self.tasks))
        return f"({text})" if self.options else text
