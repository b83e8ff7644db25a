"""What becomes of the steps of a workflow: their states, as far as the backend and the broker tell.

A workflow may have 100,000 steps. So what was found is used again by all who look, for `SHARE` times as long as it
took, and the layout of a tree, which never changes, is kept.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from celeriac.canvas.tree import Join, Tree
from celeriac.canvas.workflow import StepView, Workflow
from celeriac.dashboard.workflow_layout import Layout, lay_out
from celeriac.ports.complete import in_thread
from celeriac.states import FAILURE, IGNORED, PENDING, PROGRESS, RETRY, REVOKED, STARTED, SUCCESS
from celeriac.web.site import Site

__all__ = ["BLOCKED", "NOT_RUN", "ORDER", "Looked", "counted", "look", "named", "states_of"]

BLOCKED: Final = "BLOCKED"
"""Of a step that waits for others before it."""

NOT_RUN: Final = "NOT_RUN"
"""Of a step that ended without having run, because one before it did not end well."""

ORDER: Final = (SUCCESS, FAILURE, REVOKED, IGNORED, NOT_RUN, RETRY, STARTED, PROGRESS, PENDING, BLOCKED)
"""In which states are told."""

NAMES: Final = {
    SUCCESS: "succeeded", FAILURE: "failed", REVOKED: "revoked", IGNORED: "ignored", RETRY: "to be retried",
    STARTED: "running", PROGRESS: "running", PENDING: "ready", BLOCKED: "waiting", NOT_RUN: "not run",
}  # fmt: skip

SHARE: Final = 20  # looking takes at most one part in so many of the time
KEPT: Final = 64  # workflows
ASKED: Final = 200  # steps that the broker is asked for: those that run are told from those that are ready


class Looked(NamedTuple):
    """A workflow, as it was a moment ago."""

    workflow: Workflow
    layout: Layout
    steps: Mapping[int, StepView]
    states: Mapping[int, str]  # by node, of steps

    @property
    def counts(self) -> dict[str, int]:
        """How many steps are in which state, in the order in which they are told."""
        return counted(self.states.values())

    @property
    def is_over(self) -> bool:
        """Whether all its steps have ended."""
        return all(view.outcome is not None and view.outcome.ready for view in self.steps.values())


_KEPT: WeakKeyDictionary[Site, OrderedDict[str, tuple[float, Looked]]] = WeakKeyDictionary()


def named(state: str) -> str:
    """Return what a state is called."""
    return NAMES.get(state, state.lower())


def counted(states: Iterable[str]) -> dict[str, int]:
    """Return how many there are of each state, in the order in which they are told."""
    found = Counter(states)
    return {state: found[state] for state in (*ORDER, *sorted(found.keys() - set(ORDER))) if found[state]}


async def look(site: Site, id: str, again: bool = False) -> Looked:
    """Return a workflow and the states of its steps. Raises a `Problem`. `again`: it was changed just now."""
    kept = _KEPT.setdefault(site, OrderedDict())
    until, looked = kept.get(id, (0.0, None))
    if looked is not None and time.monotonic() < until and not again:
        kept.move_to_end(id)
        return looked
    begun = time.monotonic()
    workflow = await site.workflow(id)
    steps = {view.node: view for view in await in_thread(workflow.steps)}
    layout = looked.layout if looked is not None else await in_thread(lay_out, workflow.tree)
    states = states_of(workflow.tree, steps)
    ready = [number for number, state in states.items() if state == PENDING]
    if 0 < len(ready) <= ASKED:
        found = await site.read(site.inspector.find([steps[number].id for number in ready]))
        states |= {number: STARTED for number in ready if found[steps[number].id].place == "active"}
    looked = Looked(workflow, layout, steps, states)
    now = time.monotonic()
    kept[id] = now + (now - begun) * SHARE, looked
    while len(kept) > KEPT:
        kept.popitem(last=False)
    return looked


def states_of(tree: Tree, steps: Mapping[int, StepView]) -> dict[int, str]:
    """Return the state of each step: of those that have none yet, whether others must end before."""
    over: dict[int, bool] = {number: view.outcome is not None and view.outcome.ready for number, view in steps.items()}
    for number in range(len(tree.nodes) - 1, -1, -1):  # a join has a lower number than its members
        node = tree.nodes[number]
        if isinstance(node, Join):
            over[number] = all(over.get(member, False) for member in node.members)
    found = {}
    for number, view in steps.items():
        source = tree.step(number).source
        found[number] = BLOCKED if view.state == PENDING and source >= 0 and not over.get(source, True) else view.state
        if view.outcome is not None and view.outcome.cause is not None:
            found[number] = NOT_RUN
    return found
