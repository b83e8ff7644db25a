"""The results of a workflow's nodes, made from its tree: an `AsyncResult` for a step, a `GroupResult` for a join.

`workflows.py` asks for one when a workflow is sent, run or looked up. `parent` and `children` of a result make others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celeriac.canvas.group_result import GroupResult
from celeriac.canvas.tree import Step, Tree
from celeriac.model.outcome import Outcome
from celeriac.tasks.eager_result import EagerResult
from celeriac.tasks.protocols import App
from celeriac.tasks.result import AsyncResult

__all__ = ["TreeSpot", "result_of"]


class TreeSpot:
    """A node of a workflow, with the tree: from it come the result of the node, and of those before and after it."""

    __slots__ = ("_outcomes", "app", "node", "tree")

    def __init__(self, app: App, tree: Tree, node: int, outcomes: Mapping[str, Outcome] | None = None) -> None:
        self.app = app
        self.tree = tree
        self.node = node
        self._outcomes = outcomes  # of a workflow that ran in this process

    @property
    def workflow_id(self) -> str:
        """The id of the workflow."""
        return self.tree.id

    def result(self) -> Any:
        """Return the result of this node."""
        node = self.tree.nodes[self.node]
        if not isinstance(node, Step):
            return GroupResult(node.id, [self._at(member).result() for member in node.members], self)
        if self._outcomes is not None:
            return EagerResult(self._outcomes[node.id], self.app, self)
        return AsyncResult(node.id, self.app, node.task, spot=self)

    def parent(self) -> Any:
        """Return the result of the node before it, or None."""
        source = self.tree.nodes[self.node].source
        return self._at(source).result() if source >= 0 else None

    def children(self) -> list[Any]:
        """Return the results of the nodes after it; where a group follows, that of the group and not of its members."""
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
