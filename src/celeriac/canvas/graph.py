"""Drawings of workflows as Mermaid, DOT, JSON, or text for a terminal. Called by the `graph` methods of workflows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from celeriac.canvas.tree import Step, Tree
from celeriac.errors import nearest
from celeriac.states import PENDING

__all__ = ["draw", "edges"]

States = Mapping[int, str]


def draw(tree: Tree, format: str, states: States) -> str:
    """Return a drawing of a workflow, with the known states of its tasks by node number."""
    if format not in FORMATS:
        raise ValueError(f"There is no drawing {format!r}.{nearest(format, FORMATS)} Known: {', '.join(FORMATS)}.")
    return FORMATS[format](tree, states)


def _label(tree: Tree, number: int, states: States) -> str:
    node = tree.nodes[number]
    if not isinstance(node, Step):
        return f"{len(node.members)} results" if len(node.members) != 1 else "1 result"
    name = node.task.rpartition(".")[2]
    return f"{name}: {states[number]}" if number in states else name


def edges(tree: Tree) -> Iterator[tuple[int, int]]:
    """Yield which node waits for which, as pairs of before and after."""
    for number, node in enumerate(tree.nodes):
        if isinstance(node, Step):
            if node.source >= 0:
                yield node.source, number
        else:
            for member in node.members:
                yield member, number
            if not node.members and node.source >= 0:
                yield node.source, number


def _mermaid(tree: Tree, states: States) -> str:
    lines = ["flowchart TD"]
    for number, node in enumerate(tree.nodes):
        opening, closing = ("[", "]") if isinstance(node, Step) else ("([", "])")
        lines.append(f'    n{number}{opening}"{_label(tree, number, states)}"{closing}')
    lines += [f"    n{before} --> n{after}" for before, after in edges(tree)]
    return "\n".join(lines)


def _dot(tree: Tree, states: States) -> str:
    lines = ["digraph workflow {"]
    for number, node in enumerate(tree.nodes):
        shape = "box" if isinstance(node, Step) else "ellipse"
        lines.append(f'    n{number} [label="{_label(tree, number, states)}", shape={shape}];')
    lines += [f"    n{before} -> n{after};" for before, after in edges(tree)]
    return "\n".join([*lines, "}"])


def _json(tree: Tree, states: States) -> str:
    """Return nodes and edges. A node with `members` gathers the results of a group, and is no task."""
    nodes = [
        {"node": number, "id": node.id, "task": node.task, "state": states.get(number, PENDING)}
        if isinstance(node, Step)
        else {"node": number, "id": node.id, "members": node.members}
        for number, node in enumerate(tree.nodes)
    ]
    return msgspec.json.encode({"nodes": nodes, "edges": list(edges(tree))}).decode()


def _text(tree: Tree, states: States) -> str:
    """Draw the steps from top to bottom in order; the members of a group are indented between `┌` and `└`."""
    lines: list[str] = []
    starting: dict[tuple[int, int], list[int]] = {}
    for number, node in enumerate(tree.nodes):
        starting.setdefault((node.source, node.group), []).append(number)

    # A stack instead of recursion, since a chain may be longer than Python's recursion limit.
    waiting: list[tuple[Any, int]] = []  # numbers of nodes, or finished lines

    def after(source: int, group: int, depth: int) -> None:
        waiting.extend((number, depth) for number in reversed(starting.get((source, group), [])))

    after(-1, -1, 0)
    while waiting:
        number, depth = waiting.pop()
        if isinstance(number, str):
            lines.append(number)
            continue
        node, indent = tree.nodes[number], "│ " * depth
        if isinstance(node, Step):
            lines.append(f"{indent}{_label(tree, number, states)}")
            after(number, node.group, depth)
        else:
            lines.append(f"{indent}┌ group of {len(node.members)}")
            after(number, node.group, depth)
            waiting.append((f"{indent}└ {_label(tree, number, states)}", 0))
            after(node.source, number, depth + 1)
    return "\n".join(lines)


FORMATS: dict[str, Callable[[Tree, States], str]] = {"mermaid": _mermaid, "dot": _dot, "json": _json,
                                                     "text": _text}  # fmt: skip
