"""Where the parts of a workflow are drawn: boxes and the edges between them, from the tree alone.

A workflow is series-parallel: steps follow each other from left to right, and the members of a group stand one below
the other, between what came before and the join that gathers their results. So a recursive function lays it out: the
size of a part is that of its parts, and their places follow from it.

What is too much for a picture is folded into one box: a group of more than `MEMBERS`, the middle of a long chain, and
deeper groups, as far as is needed to stay below `MOST` boxes. A template draws it. States are no part of it, so that
the layout of a tree, which never changes, is worked out once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from celeriac.canvas.graph import edges
from celeriac.canvas.tree import Join, Step, Tree

__all__ = ["MEMBERS", "MOST", "Box", "Edge", "Layout", "critical_path", "lay_out", "outline"]

MEMBERS: Final = 50  # of a group that is drawn one by one
CHAIN: Final = 40  # parts that follow each other, and are drawn one by one …
ENDS: Final = (16, 8)  # … or else the first and the last of them
MOST: Final = 300  # boxes
DETAIL: Final = ((6, MEMBERS), (3, MEMBERS), (2, MEMBERS), (1, MEMBERS), (1, 20), (1, 6), (0, 0))
"""How deep groups are drawn, and how many members: the first that gives at most `MOST` boxes."""

WIDTH, HEIGHT = 168.0, 44.0  # of a step, in pixels
JOIN: Final = 28.0  # the diameter of a join
ACROSS, DOWN = 44.0, 14.0  # between boxes
MARGIN: Final = 12.0


class Box(NamedTuple):
    """Something that is drawn: a step, a join, or nodes that are folded."""

    kind: str  # "step", "join" or "folded"
    nodes: Sequence[int]  # one, or all that are folded
    x: float
    y: float
    width: float
    height: float
    within: int = -1  # the join of the group that is folded; -1: part of a chain, or no group

    @property
    def middle(self) -> float:
        """Where edges meet it."""
        return self.y + self.height / 2


class Edge(NamedTuple):
    """That one box waits for another, by their numbers."""

    before: int
    after: int


class Layout(NamedTuple):
    """A picture of a workflow."""

    boxes: Sequence[Box]
    edges: Sequence[Edge]
    width: float
    height: float
    number_of: Mapping[int, int]  # the box of each node

    def path(self, edge: Edge) -> str:
        """Return the path of an edge, as SVG has it: a curve from the right of a box to the left of another."""
        before, after = self.boxes[edge.before], self.boxes[edge.after]
        x1, x2 = before.x + before.width, after.x
        if before.middle == after.middle:
            return f"M{x1:g} {before.middle:g}H{x2:g}"
        bend = x2 - ACROSS / 2 if before.kind != "join" and after.kind == "join" else x1 + ACROSS / 2
        start, end = bend - ACROSS / 2, bend + ACROSS / 2
        return (f"M{x1:g} {before.middle:g}H{start:g}C{bend:g} {before.middle:g} {bend:g} {after.middle:g} "
                f"{end:g} {after.middle:g}H{x2:g}")  # fmt: skip


# --- Parts --------------------------------------------------------------------------------------------


class _Leaf(NamedTuple):
    """One box. Of folded nodes, `nodes` are there themselves, and `starts` with all that follows them."""

    kind: str
    nodes: Sequence[int]
    starts: Sequence[int] = ()
    within: int = -1


class _Parallel(NamedTuple):
    """Series that stand one below the other."""

    branches: Sequence[_Series]


_Series: TypeAlias = "Sequence[_Leaf | _Parallel]"


class _Parts:
    """Finds the parts of a tree.

    Each node starts in one place: after its source, in its group. A damaged tree may have nodes that nothing leads to.
    """

    def __init__(self, tree: Tree) -> None:
        self._nodes = tree.nodes
        self._starting: dict[tuple[int, int], list[int]] = {}
        self._groups: list[int] = []
        for number, node in enumerate(tree.nodes):
            group = node.group if node.group < number else -1
            self._groups.append(group)
            self._starting.setdefault((node.source, group), []).append(number)

    def top(self, depth: int, members: int) -> _Series:
        """Return the whole workflow. Groups are drawn down to this depth, if they have no more members."""
        starts = self._starting.get((-1, -1), [])
        series = self._branches(starts, depth, members)
        lost = set(range(len(self._nodes))).difference(self._all(starts))
        return [*series, _Leaf("folded", sorted(lost))] if lost else series

    def contents(self, leaf: _Leaf) -> list[int]:
        """Return all nodes of a box."""
        return [*leaf.nodes, *self._all(leaf.starts)]

    def _after(self, number: int) -> list[int]:
        return self._starting.get((number, self._groups[number]), [])

    def _inside(self, number: int) -> list[int]:
        node = self._nodes[number]
        return self._starting.get((node.source, number), []) if isinstance(node, Join) else []

    def _all(self, starts: Sequence[int]) -> list[int]:
        """Return nodes with all that follows them. What follows, and what is inside, has higher numbers: it ends."""
        found, waiting = list[int](), list(starts)
        while waiting:
            number = waiting.pop()
            found.append(number)
            waiting += self._inside(number)
            waiting += self._after(number)
        return found

    def _branches(self, starts: Sequence[int], depth: int, members: int) -> _Series:
        """Return what starts at one place and does not meet again."""
        if not starts:
            return []
        if len(starts) == 1:
            return self._series(starts[0], depth, members)
        if len(starts) > members or depth <= 0:
            return [_Leaf("folded", (), starts)]
        return [_Parallel([self._series(start, depth - 1, members) for start in starts])]

    def _series(self, start: int, depth: int, members: int) -> _Series:
        """Return a part and what follows it, up to the end of the group around it."""
        numbers, following = [start], self._after(start)
        while len(following) == 1:
            numbers += following
            following = self._after(numbers[-1])
        begin, end = ENDS if len(numbers) > CHAIN else (len(numbers), 0)
        parts = [part for number in numbers[:begin] for part in self._part(number, depth, members)]
        if end:
            folded = numbers[begin:-end]
            parts.append(_Leaf("folded", folded, [one for number in folded for one in self._inside(number)]))
            parts += [part for number in numbers[-end:] for part in self._part(number, depth, members)]
        return [*parts, *self._branches(following, depth, members)]

    def _part(self, number: int, depth: int, members: int) -> _Series:
        """Return a step, or a group and its join."""
        if isinstance(self._nodes[number], Step):
            return [_Leaf("step", (number,))]
        starts, join = self._inside(number), _Leaf("join", (number,))
        if not starts:
            return [join]
        if depth <= 0 or len(starts) > members:
            return [_Leaf("folded", (number,), starts, within=number)]
        return [_Parallel([self._series(start, depth - 1, members) for start in starts]), join]


def outline(tree: Tree, most: int = 4) -> list[str]:
    """Return what follows each other in a workflow, in words: `add`, `40 × resize`, `3 tasks at once`."""
    parts = _Parts(tree)
    found = list[str]()
    for part in parts.top(1, 0):
        if not isinstance(part, _Leaf) or part.kind == "join":
            continue
        steps = [node for node in map(tree.nodes.__getitem__, parts.contents(part)) if isinstance(node, Step)]
        names = {step.task.rpartition(".")[2] for step in steps}
        if part.kind == "step":
            found += names
        elif len(names) == 1:
            found.append(f"{len(steps):,} × {names.pop()}")
        else:
            branches = len(part.starts) if part.within >= 0 else 1
            among = f" in {branches:,} branches" if 1 < branches < len(steps) else ""
            found.append(f"{len(steps):,} tasks{among}")
    return found if len(found) <= most else [*found[: most - 1], f"{len(found) - most + 1} more"]


def _count(series: _Series) -> int:
    return sum(1 if isinstance(part, _Leaf) else sum(map(_count, part.branches)) for part in series)


# --- Places -------------------------------------------------------------------------------------------


def lay_out(tree: Tree) -> Layout:
    """Return the layout of a workflow, with each of its nodes in one box."""
    parts = _Parts(tree)
    series: _Series = []
    for depth, members in DETAIL:
        series = parts.top(depth, members)
        if _count(series) <= MOST:
            break
    width, height = _size(series)
    boxes: list[Box] = []
    _place(series, MARGIN, MARGIN + height / 2, parts, boxes)
    number_of = {node: number for number, box in enumerate(boxes) for node in box.nodes}
    pairs = ((number_of[before], number_of[after]) for before, after in edges(tree))
    unique = dict.fromkeys(Edge(before, after) for before, after in pairs if before != after)
    return Layout(boxes, list(unique), width + 2 * MARGIN, height + 2 * MARGIN, number_of)


def _size(series: _Series) -> tuple[float, float]:
    """Return the width and the height of parts that follow each other."""
    sizes = [_size_of(part) for part in series]
    across = max(0, len(sizes) - 1) * ACROSS
    return sum(width for width, _ in sizes) + across, max((height for _, height in sizes), default=0.0)


def _size_of(part: _Leaf | _Parallel) -> tuple[float, float]:
    if isinstance(part, _Leaf):
        return (JOIN, JOIN) if part.kind == "join" else (WIDTH, HEIGHT)
    sizes = [_size(branch) for branch in part.branches]
    return max(width for width, _ in sizes), sum(height for _, height in sizes) + (len(sizes) - 1) * DOWN


def _place(series: _Series, x: float, middle: float, parts: _Parts, boxes: list[Box]) -> None:
    """Append the boxes of parts that follow each other, around a line."""
    for part in series:
        width, height = _size_of(part)
        if isinstance(part, _Leaf):
            boxes.append(Box(part.kind, parts.contents(part), x, middle - height / 2, width, height, part.within))
        else:
            y = middle - height / 2
            for branch in part.branches:
                _, high = _size(branch)
                _place(branch, x, y + high / 2, parts, boxes)
                y += high + DOWN
        x += width + ACROSS


# --- The critical path --------------------------------------------------------------------------------


def critical_path(tree: Tree, ended: Mapping[int, float], failed: Collection[int] = ()) -> set[int]:
    """Return the nodes that the end of a workflow has waited for, or is still waiting for.

    `ended` tells when steps have ended. Of the members of a group, the path leads through the one behind which most
    steps have not ended; or else through one that has failed, which is why the end is as it is; or else through the one
    that ended last.
    """
    if not tree.nodes:
        return set()
    end = tree.end if tree.end >= 0 else len(tree.nodes) - 1
    costs: dict[int, _Cost] = {}
    waiting, entered = [end], set[int]()
    while waiting:
        number = waiting[-1]
        before = [one for one in _before(tree, number) if one not in costs and one not in entered]
        if before and number not in entered:
            entered.add(number)
            waiting += before
            continue
        waiting.pop()
        if number not in costs:
            costs[number] = _cost(tree, number, costs, ended, failed)
    path = {end}
    while before := [one for one in _before(tree, end) if one in costs and one not in path]:
        end = max(before, key=lambda one: costs[one])
        path.add(end)
    return path


class _Cost(NamedTuple):
    """What a node has waited for: the larger, the more critical."""

    left: int  # steps that have not ended
    is_failed: bool
    at: float  # when the latest has ended


def _before(tree: Tree, number: int) -> Sequence[int]:
    node = tree.nodes[number]
    if isinstance(node, Join) and node.members:
        return node.members
    return (node.source,) if node.source >= 0 else ()


def _cost(tree: Tree, number: int, costs: Mapping[int, _Cost], ended: Mapping[int, float],
          failed: Collection[int]) -> _Cost:  # fmt: skip
    before = max((costs[one] for one in _before(tree, number) if one in costs), default=_Cost(0, False, 0.0))
    if isinstance(tree.nodes[number], Join):
        return before
    if number not in ended:
        return before._replace(left=before.left + 1)
    return _Cost(before.left, before.is_failed or number in failed, max(before.at, ended[number]))
