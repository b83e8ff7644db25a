"""Layouts of workflows: no boxes overlap, each edge joins the right ones, and no picture is too large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac import Celeriac, chain, chord, group
from celeriac.canvas.graph import edges
from celeriac.canvas.planner import Planner
from celeriac.canvas.tree import Join, Step, Tree
from celeriac.dashboard.workflow_layout import MOST, Layout, critical_path, lay_out, outline
from tests.canvas.oracle import Journal, Node, register, signature, trees

APP = Celeriac("layout", broker_url="memory://", environ={})
register(APP, Journal())
RAW = msgspec.Raw(b"\xc0")


def step(label: int = 0) -> Any:
    return APP.tasks["step"].si("nothing", label, "returns")


def planned(workflow: Any) -> Tree:
    return Planner(APP, check=False).plan(workflow, (7,)).tree


def tree_of(node: Node) -> Tree:
    return planned(signature(APP, node))


def check(tree: Tree) -> Layout:
    """Check what holds for each layout, and return it."""
    layout = lay_out(tree)
    drawn = sorted(node for box in layout.boxes for node in box.nodes)
    assert drawn == list(range(len(tree.nodes))), "each node is in one box"
    assert len(layout.boxes) <= MOST
    for number, box in enumerate(layout.boxes):
        assert 0 <= box.x <= box.x + box.width <= layout.width
        assert 0 <= box.y <= box.y + box.height <= layout.height
        for other in layout.boxes[:number]:
            apart = (box.x + box.width < other.x or other.x + other.width < box.x
                     or box.y + box.height < other.y or other.y + other.height < box.y)  # fmt: skip
            assert apart, f"{box} overlaps {other}"
    box_of = {node: number for number, box in enumerate(layout.boxes) for node in box.nodes}
    wanted = {(box_of[before], box_of[after]) for before, after in edges(tree) if box_of[before] != box_of[after]}
    assert set(layout.edges) == wanted
    assert len(layout.edges) == len(wanted), "no edge is drawn twice"
    for edge in layout.edges:
        before, after = layout.boxes[edge.before], layout.boxes[edge.after]
        assert before.x + before.width < after.x, "edges lead from the left to the right"
        assert layout.path(edge).startswith("M")
    return layout


@settings(max_examples=60, deadline=None)
@given(trees())
def test_boxes_do_not_overlap_and_edges_join_what_follows_each_other(node: Node) -> None:
    check(tree_of(node))


def test_a_chord_stands_between_its_source_and_its_body() -> None:
    tree = planned(chain(step(1), group(step(2), step(3), step(4)), step(5)))
    layout = check(tree)
    kinds = [box.kind for box in layout.boxes]
    assert kinds == ["step", "step", "step", "step", "join", "step"]
    first, *members, join, body = layout.boxes
    assert len({member.x for member in members}) == 1
    assert first.middle == members[1].middle == join.middle == body.middle
    assert first.x < members[0].x < join.x < body.x


def large_group(members: int) -> Tree:
    """Return a step, a group of so many, and a body, as the planner would."""
    steps = [Step(f"m{number}", "a", RAW, 0, join=1, group=1) for number in range(members)]
    group = Join("g", list(range(2, members + 2)), 0)
    nodes = [Step("first", "a", RAW), group, *steps, Step("body", "a", RAW, 1)]
    return Tree("w", "w", nodes, len(nodes) - 1)


@pytest.mark.parametrize(
    ("make", "boxes"),
    [
        (lambda: group(step(n) for n in range(200)), 1),
        (lambda: chord([step(n) for n in range(200)], step()), 2),
        (lambda: chain(*[step(n) for n in range(500)]), 25),
        (lambda: group(group(step(n) for n in range(40)) for _ in range(40)), 41),
        (lambda: group(chain(step(1), group(step(n) for n in range(60)), step(2)) for _ in range(20)), 101),
        (lambda: chain(*[group(step(n) for n in range(30)) for _ in range(30)]), MOST),
    ],
)
def test_a_large_workflow_is_a_small_picture(make: Callable[[], Any], boxes: int) -> None:
    tree = planned(make())
    layout = lay_out(tree)
    assert sum(len(box.nodes) for box in layout.boxes) == len(tree.nodes)
    assert len(layout.boxes) <= boxes
    assert layout.height < 20_000


def test_a_group_of_100_000_is_one_box_and_its_critical_path_is_found() -> None:
    tree = large_group(100_000)
    first, folded, body = lay_out(tree).boxes
    assert (first.kind, folded.kind, body.kind) == ("step", "folded", "step")
    assert len(folded.nodes) == 100_001
    assert critical_path(tree, {0: 1.0, 77: 9.0, **dict.fromkeys(range(2, 77), 2.0)}) == {0, 1, 78, len(tree.nodes) - 1}
    assert outline(tree) == ["a", "100,000 × a", "a"]


def test_a_folded_group_tells_which_it_is() -> None:
    tree = planned(chain(step(), group(step(n) for n in range(51)), step()))
    first, folded, last = check(tree).boxes
    assert (folded.kind, folded.within) == ("folded", 1)
    assert isinstance(tree.nodes[folded.within], Join)
    assert len(folded.nodes) == 52
    assert (first.kind, last.kind) == ("step", "step")


def test_groups_deep_within_each_other_are_folded() -> None:
    workflow = step()
    for _ in range(30):
        workflow = group(workflow, step())
    layout = check(planned(workflow))
    assert any(box.kind == "folded" for box in layout.boxes)


@given(st.lists(st.tuples(st.booleans(), st.integers(-1, 30), st.integers(-1, 30)), max_size=30))
def test_a_damaged_tree_is_drawn_too(parts: list[tuple[bool, int, int]]) -> None:
    nodes: list[Any] = []
    for number, (is_step, source, within) in enumerate(parts):
        source = min(source, number - 1)
        node = Step(f"t{number}", "a", RAW, source, group=within) if is_step else Join(f"g{number}", [], source)
        nodes.append(node)
    layout = lay_out(Tree("w", "w", nodes))
    assert sorted(node for box in layout.boxes for node in box.nodes) == list(range(len(nodes)))
    critical_path(Tree("w", "w", nodes), {})


def test_the_critical_path_leads_through_the_member_that_ended_last() -> None:
    tree = planned(chain(step(1), group(step(2), chain(step(3), step(4)), step(5)), step(6)))
    labels = {node.message.id: number for number, node in tree.steps()}
    assert len(labels) == 6
    ended = {number: float(number) for number, _ in tree.steps()}
    slow = next(number for number, _ in tree.steps() if number == 2)
    path = critical_path(tree, {**ended, slow: 100.0})
    assert path == {0, 1, slow, tree.end}


def test_the_critical_path_of_a_workflow_that_runs_leads_through_what_is_left() -> None:
    tree = planned(chain(step(1), group(step(2), chain(step(3), step(4)), step(5)), step(6)))
    done = critical_path(tree, {0: 1.0, 2: 100.0, 5: 3.0})
    assert done == {0, 1, 3, 4, tree.end}


def test_the_critical_path_of_a_workflow_that_has_failed_leads_through_what_failed() -> None:
    tree = planned(chain(step(1), group(step(2), step(3)), step(4)))
    ended = {number: 10.0 - number for number, _ in tree.steps()}
    failed = {3}
    assert critical_path(tree, ended, failed) == {0, 1, 3, tree.end}
    assert critical_path(tree, ended) == {0, 1, 2, tree.end}


def test_the_outline_tells_what_follows_each_other() -> None:
    send = APP.tasks["callback"].si("x", 1)
    assert outline(planned(chain(step(1), group(step(2), step(3)), send))) == ["step", "2 × step", "callback"]
    assert outline(planned(chain(step(1), group(chain(step(2), send), chain(step(3), send))))) == [
        "step", "4 tasks in 2 branches",
    ]  # fmt: skip
    assert outline(planned(chain(*[step(n) for n in range(9)]))) == ["step", "step", "step", "6 more"]
