"""The graph of a workflow as its template draws it: boxes and edges of the layout, with names, states and links."""

from __future__ import annotations

from typing import Any, Final

from celeriac.canvas.tree import Join
from celeriac.dashboard.charts import kind_of
from celeriac.dashboard.view import View, segment
from celeriac.dashboard.wording import duration
from celeriac.dashboard.workflow_layout import Box, Edge, critical_path
from celeriac.dashboard.workflow_states import NOT_RUN, Looked, counted, named
from celeriac.states import FAILURE, PENDING, RETRY, REVOKED, STARTED

__all__ = ["graph"]

LONGEST: Final = 19  # characters in a box
PADDING: Final = 14.0
WORST: Final = (FAILURE, RETRY, STARTED, PENDING)  # the state of what is folded: the first of these that one has


def graph(looked: Looked, view: View) -> dict[str, Any]:
    """Return what the template draws."""
    layout, tree = looked.layout, looked.workflow.tree
    outcomes = ((number, one.outcome) for number, one in looked.steps.items())
    ended = {number: outcome.done_at for number, outcome in outcomes if outcome is not None and outcome.ready}
    failed = {number for number, state in looked.states.items() if state in (FAILURE, REVOKED)}
    critical = {layout.number_of[number] for number in critical_path(tree, ended, failed)}
    return {
        "width": round(layout.width),
        "height": round(layout.height),
        "boxes": [_box(looked, view, number, box, number in critical) for number, box in enumerate(layout.boxes)],
        "edges": [(layout.path(edge), _is_critical(looked, edge, critical)) for edge in layout.edges],
    }


def _is_critical(looked: Looked, edge: Edge, critical: set[int]) -> bool:
    return edge.before in critical and edge.after in critical


def _box(looked: Looked, view: View, number: int, box: Box, is_critical: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"box": box, "critical": " critical" if is_critical else "", "segments": []}
    if box.kind == "step":
        return found | _step(looked, view, box.nodes[0])
    if box.kind == "join":
        return found | _join(looked, box.nodes[0])
    return found | _folded(looked, view, number, box)


def _join(looked: Looked, number: int) -> dict[str, Any]:
    node = looked.workflow.tree.nodes[number]
    count = len(node.members) if isinstance(node, Join) else 0
    return {"label": str(count) if count < 1000 else f"{count // 1000}k", "title": f"the results of {count:,} members"}


def _step(looked: Looked, view: View, number: int) -> dict[str, Any]:
    step, state = looked.steps[number], looked.states[number]
    outcome = step.outcome
    sub = named(state)
    if outcome is not None and outcome.ready and outcome.runtime and state != NOT_RUN:
        sub = f"{sub} · {duration(outcome.runtime)}"
    full = step.task.rpartition(".")[2] or step.task
    label, title = _cut(full), f"{step.task}: {sub}"
    return {
        "kind": kind_of(state),
        "label": label,
        "sub": sub,
        "title": title,
        "name": title if label == full else f"{label} {sub}, {title}",  # it begins with what is seen
        "url": view.url(f"/tasks/{segment(step.id)}", workflow=looked.workflow.id),
    }


def _folded(looked: Looked, view: View, number: int, box: Box) -> dict[str, Any]:
    steps = [one for one in box.nodes if one in looked.steps]
    states = counted(looked.states[one] for one in steps)
    names = {looked.steps[one].task.rpartition(".")[2] for one in steps}
    label = f"{len(steps):,} × {names.pop()}" if len(names) == 1 else f"{len(steps):,} tasks"
    state = next((one for one in WORST if one in states), next(iter(states), PENDING))
    x, segments = 0.0, []
    for one, count in states.items():
        width = count / len(steps) * (box.width - 2 * PADDING)
        segments.append((kind_of(one), round(x, 2), round(width, 2)))
        x += width
    told = ", ".join(f"{count:,} {named(one)}" for one, count in states.items())
    title = f"{label}: {told}"
    return {
        "kind": f"{kind_of(state)} folded",
        "label": _cut(label),
        "segments": segments,
        "title": title,
        "name": title if _cut(label) == label else f"{_cut(label)}, {title}",
        "url": f"{view.with_query(inside=number, offset=None, state=None)}#tasks",
    }


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
