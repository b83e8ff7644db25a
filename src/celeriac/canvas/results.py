"""The results of a workflow's nodes, made from its tree: an `AsyncResult` for a step, a `GroupResult` for a join.

Made by `workflows.py` when a workflow is sent, run or looked up; from there `parent` and `children` lead on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celeriac.canvas.group_result import GroupResult
from celeriac.canvas.tree import Step, Tree
from celeriac.model.outcome import Outcome
from celeriac.tasks.protocols import App
from celeriac.tasks.result import AsyncResult, EagerResult

__all__ = ["TreeSpot", "result_of"]


class TreeSpot:
    """Where in a workflow a result stands."""

    __slots__ = ("_outcomes", "app", "node", "tree")

    def __init__(self, app: App, tree: Tree, node: int, outcomes: Mapping[str, Outcome] | None = None) -> None:
        self.app = app
        self.tree = tree
        self.node = node
        self._outcomes = outcomes  # where it was run at once

    @property
    def workflow_id(self) -> str:
        """The id of the workflow."""
        return self.tree.id

    def result(self) -> Any:
        """Return the result that stands here."""
        node = self.tree.nodes[self.node]
        if not isinstance(node, Step):
            return GroupResult(node.id, [self._at(member).result() for member in node.members], self)
        if self._outcomes is not None:
            return EagerResult(self._outcomes[node.id], self.app, self)
        return AsyncResult(node.id, self.app, node.task, spot=self)

    def parent(self) -> Any:
        """Return the result of what was before it, or None."""
        source = self.tree.nodes[self.node].source
        return self._at(source).result() if source >= 0 else None

    def children(self) -> list[Any]:
        """Return the results of what comes after it: of a group, the group's."""
        nodes = self.tree.nodes
        return [
            self._at(number).result()
            for number, node in enumerate(nodes)
            if node.source == self.node and (node.group < 0 or nodes[node.group].source != self.node)
        ]

    def _at(self, node: int) -> TreeSpot:
        return TreeSpot(self.app, self.tree, node, self._outcomes)


def result_of(app: App, tree: Tree, node: int, outcomes: Mapping[str, Outcome] | None = None) -> Any:
    """Return the result of a node."""
    return TreeSpot(app, tree, node, outcomes).result()
