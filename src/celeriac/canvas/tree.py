"""A workflow as data: a tree of steps and joins, written once into the backend and never changed.

`planner.py` makes it, and a backend stores it as bytes under the workflow's id. `advance.py` derives what follows from
the end of a node, `results.py` the results. Nodes refer to each other by number:

    step    a task to be run: its message, and the node whose result it receives (its `source`; -1: it starts at once)
    join    the end of a group: it ends when all its members have ended, and its result is the list of their results

A chain has no node of its own: its end is the end of its last part. Nodes are in the order in which they were written:
a source has a lower number than the nodes that wait for it, a join a lower one than its members. The `join` of a member
is the number of the join that counts it; the `group` of a node is the number of the join of the innermost group around
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TypeAlias

import msgspec

from celeriac.model.gate import Duration, Name, Unreadable, reader
from celeriac.model.message import Link, Message, Place, decode_part

__all__ = ["Join", "Node", "Step", "Tree", "decode_tree"]


class Step(msgspec.Struct, array_like=True, omit_defaults=True, frozen=True, tag=0):
    """A task to be run."""

    id: Name
    task: Name
    raw: msgspec.Raw  # the message without id and task, decoded on access
    source: int = -1
    join: int = -1
    group: int = -1
    immutable: bool = False  # the result of its source is not put before its arguments
    countdown: Duration | None = None  # seconds after it is sent
    expires: Duration | None = None  # seconds after it is sent
    foreign: Place | None = None  # the place of a task in another workflow that this step replaces

    @property
    def message(self) -> Message:
        """The message, but for the headers that `advance.send` sets."""
        return msgspec.structs.replace(decode_part(self.raw), id=self.id, task=self.task)


class Join(msgspec.Struct, array_like=True, omit_defaults=True, frozen=True, tag=1):
    """The end of a group."""

    id: Name  # the group's
    members: list[int]
    source: int = -1
    join: int = -1
    group: int = -1
    link_error: list[Link] = []


Node: TypeAlias = Step | Join


class Tree(msgspec.Struct, dict=True):
    """A workflow: its nodes, and the one whose result is its own."""

    id: Name
    root: Name  # the id that all its tasks have as their `root_id`
    nodes: list[Node]
    end: int = -1

    @cached_property
    def followers(self) -> dict[int, list[int]]:
        """By node: the steps that receive its result, and the empty joins that end with it."""
        found: dict[int, list[int]] = {}
        for number, node in enumerate(self.nodes):
            if node.source >= 0 and (isinstance(node, Step) or not node.members):
                found.setdefault(node.source, []).append(number)
        return found

    def leaves(self, number: int) -> Iterator[int]:
        """Yield the steps whose outcomes make up the result of a node, in order."""
        waiting = [number]
        while waiting:
            number = waiting.pop()
            node = self.nodes[number]
            if isinstance(node, Step):
                yield number
            elif node.members:
                waiting += reversed(node.members)
            elif node.source >= 0:  # an empty group ends as its source does
                waiting.append(node.source)

    def steps(self) -> Iterator[tuple[int, Step]]:
        """Yield the steps with their numbers."""
        for number, node in enumerate(self.nodes):
            if isinstance(node, Step):
                yield number, node

    def step(self, number: int) -> Step:
        """Return the step with this number."""
        node = self.nodes[number]
        if not isinstance(node, Step):
            raise TypeError(f"node {number} of the workflow {self.id} is a join")
        return node

    def place(self, number: int) -> Place:
        """Return the place that the message of a step carries."""
        step = self.step(number)
        return step.foreign or Place(self.id, number, step.join, number not in self.followers)

    def encode(self) -> bytes:
        """Return the tree as bytes."""
        return _encode(self)


_encode = msgspec.msgpack.Encoder().encode


def _check(tree: Tree) -> None:
    """Raise `Unreadable` unless the numbers of the nodes are as the planner makes them, so that no walk is endless."""
    count, has_empty = len(tree.nodes), False
    for number, node in enumerate(tree.nodes):
        if not (-1 <= node.source < number and -1 <= node.join < number and -1 <= node.group < count):
            raise Unreadable(f"node {number} refers to nodes that do not come before it")
        if node.join >= 0 and not isinstance(tree.nodes[node.join], Join):
            raise Unreadable(f"node {number} is a member of node {node.join}, which is not a group")
        if isinstance(node, Join):
            has_empty = has_empty or not node.members
            if not all(number < member < count and tree.nodes[member].join in (-1, number) for member in node.members):
                raise Unreadable(f"the group {number} has members that do not belong to it")
    if not -1 <= tree.end < count:
        raise Unreadable(f"its end, the node {tree.end}, is missing")
    if has_empty:  # otherwise each walk leads to higher numbers only
        _check_walks(tree)


def _check_walks(tree: Tree) -> None:
    """Raise `Unreadable` if `leaves` would be endless from a node: the source of an empty group leads back to it."""
    done: set[int] = set()
    for start in range(len(tree.nodes)):
        path: set[int] = set()
        waiting = [(start, False)]
        while waiting:
            number, left = waiting.pop()
            if left:
                path.remove(number)
                done.add(number)
                continue
            if number in path:
                raise Unreadable(f"the result of node {number} would contain itself")
            if number in done:
                continue
            path.add(number)
            waiting.append((number, True))
            node = tree.nodes[number]
            if isinstance(node, Join):
                waiting += [(member, False) for member in node.members or [node.source] if member >= 0]


decode_tree: Callable[[bytes | memoryview], Tree] = reader(Tree, "a workflow", _check)
"""Return a tree from its bytes. Raises `Unreadable`, a `ValueError`."""
