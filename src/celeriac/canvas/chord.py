"""`chord`: a group, and a call that receives the list of its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celeriac.canvas.composite import Composite, parts_of
from celeriac.canvas.group import group
from celeriac.canvas.planner import Given, Planner
from celeriac.tasks.signature import Signature

__all__ = ["chord"]


class chord(Composite):  # noqa: N801 - Celery's name
    """`chord([add.s(i, i) for i in range(10)])(total.s())`, or `group(…) | total.s()`.

    When all tasks of the header have succeeded, the body is sent with the list of their results. If any has failed, the
    body is not run, ends in the same state, and its error callbacks are sent. Either happens exactly once.
    """

    kind = "chord"

    def __init__(self, header: Any, body: Any = None, **options: Any) -> None:
        self.header = header if isinstance(header, group) else group(*parts_of("chord", (header,)))
        self.body = body
        super().__init__([self.header] if body is None else [self.header, body], options)

    def __call__(self, body: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Send the chord with this body, if one is given."""
        whole = self if body is None else type(self)(self.header, body, **self.options)
        return whole.apply_async(args, kwargs)

    def lay_out(self, planner: Planner, given: Given) -> int:
        inside, links, errors = self.prepare(given)
        end = planner.add(self.header, inside if self.body is None else inside._replace(id=None))
        if self.body is not None:
            end = planner.add(self.body, inside._replace(source=end))
        planner.add_links(end, links, errors, inside)
        return end

    @classmethod
    def _of_parts(cls, tasks: Sequence[Any]) -> Any:
        return cls(*tasks)

    def _parts_with(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        parts = [self.header.clone(args, kwargs)]
        return parts if self.body is None else [*parts, self.body.clone()]

    def __repr__(self) -> str:
        if self.body is None:
            return f"chord({self.header!r})"
        body = repr(self.body)
        return f"{self.header!r} | {body if isinstance(self.body, Signature | group) else f'({body})'}"
