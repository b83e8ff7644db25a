"""`Workflow`: a workflow that was sent, to inspect, cancel or retry it. `app.workflow(id)` returns one."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from celeriac import states
from celeriac.canvas import graph
from celeriac.canvas.advance import end_of, send
from celeriac.canvas.links import fitting
from celeriac.canvas.results import result_of
from celeriac.canvas.tree import Join, Step, Tree
from celeriac.config.settings import received_max_bytes
from celeriac.errors import WorkflowError
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.ports.workflows import Plan, workflow_store
from celeriac.tasks.protocols import App

__all__ = ["StepView", "Workflow"]

UNSUCCESSFUL = (states.FAILURE, states.REVOKED, states.IGNORED)


class StepView(NamedTuple):
    """A task of a workflow, with its outcome if the backend has one."""

    node: int
    id: str
    task: str
    outcome: Outcome | None

    @property
    def state(self) -> str:
        """Its state; PENDING without an outcome."""
        return self.outcome.state if self.outcome is not None else states.PENDING


class Workflow:
    """A workflow that was sent: `app.workflow(result.workflow_id)`."""

    def __init__(self, app: App, tree: Tree) -> None:
        self.app = app
        self.tree = tree

    @property
    def id(self) -> str:
        """The workflow's id."""
        return self.tree.id

    @property
    def result(self) -> Any:
        """The result of the workflow: an `AsyncResult`, or a `GroupResult` if it ends in a group."""
        return result_of(self.app, self.tree, self.tree.end)

    # --- State ----------------------------------------------------------------------------------------

    def steps(self) -> list[StepView]:
        """Return its tasks in the order in which they were written, with their outcomes so far."""
        steps = list(self.tree.steps())
        outcomes = self.app.backend.fetch([step.id for _, step in steps]) if steps else {}
        return [StepView(number, step.id, step.task, outcomes.get(step.id)) for number, step in steps]

    def counts(self) -> dict[str, int]:
        """Return the number of its tasks by state."""
        return dict(Counter(view.state for view in self.steps()))

    def progress(self) -> tuple[int, int]:
        """Return how many of its tasks have ended, and how many tasks it has."""
        views = self.steps()
        return sum(view.outcome is not None and view.outcome.ready for view in views), len(views)

    def finished(self) -> bool:
        """Return whether all its tasks have ended."""
        ended, total = self.progress()
        return ended == total

    def waiting(self) -> list[str]:
        """Return the ids of its tasks that have not ended."""
        return [view.id for view in self.steps() if view.outcome is None or not view.outcome.ready]

    def graph(self, format: str = "mermaid") -> str:
        """Return a drawing with the states of its tasks, as "mermaid", "dot", "json" or "text"."""
        return graph.draw(self.tree, format, {view.node: view.state for view in self.steps()})

    # --- Acting ---------------------------------------------------------------------------------------

    def cancel(self, terminate: bool = False) -> int:
        """Revoke all tasks that have not ended; return how many. With `terminate`, also end those that run."""
        ids = self.waiting()
        if ids:
            self.app.control.revoke(ids, terminate=terminate)
        return len(ids)

    def retry(self) -> int:
        """Run all tasks that did not succeed again; return how many are sent now. The others wait for their sources.

        Raises `WorkflowError` if a task has not ended.
        """
        views = self.steps()
        if any(view.outcome is None or not view.outcome.ready for view in views):
            raise WorkflowError(f"The workflow {self.id} has not ended. Wait for its end, or cancel it first.")
        outcomes = {view.id: view.outcome for view in views if view.outcome is not None}
        again = {view.node for view in views if outcomes[view.id].state in UNSUCCESSFUL}
        if not again:
            return 0
        messages = self._messages(again, outcomes)
        ids = [self.tree.step(number).id for number in again]
        callbacks = [link.message.id for number in again for link in self.tree.step(number).message.link_error]
        callbacks += [link.message.id for node in self.tree.nodes if isinstance(node, Join) for link in node.link_error]
        self.app.backend.forget([*ids, *callbacks])
        self.app.broker.complete(self.app.broker.revoke(ids, 0.0))  # lift earlier revocations
        missing = self._missing(again)
        store = workflow_store(self.app.backend)
        tree = store.codec.seal("tree", self.tree.encode(), self.id)
        store.plant(Plan(id=self.id, tree=tree, left=len(again), missing=missing))
        self.app.publish(messages)
        return len(messages)

    def _messages(self, again: set[int], outcomes: dict[str, Outcome]) -> list[Message]:
        """Return the messages of the steps to run again whose sources have ended well."""
        now, largest = self.app.clock.now(), received_max_bytes(self.app.conf)
        messages = []
        for number in sorted(again):
            source = self.tree.nodes[number].source
            if source < 0:
                messages.append(send(self.tree, number, None, now))
            else:
                before = end_of(self.tree, source, outcomes)
                if before.cause is None:
                    messages.append(fitting(send(self.tree, number, before, now), largest))
        return messages

    def _missing(self, again: set[int]) -> dict[int, int]:
        """Return how many members each join waits for, by join."""
        missing: dict[int, int] = {}

        def waits(number: int) -> bool:
            node = self.tree.nodes[number]
            if isinstance(node, Step):
                return number in again
            if not node.members:
                return node.source >= 0 and waits(node.source)
            missing[number] = sum([waits(member) for member in node.members])
            return missing[number] > 0

        for number, node in enumerate(self.tree.nodes):
            if isinstance(node, Join) and node.join < 0:
                waits(number)
        return missing

    def forget(self) -> None:
        """Delete the workflow and its outcomes from the backend."""
        self.app.backend.forget([step.id for _, step in self.tree.steps()])
        workflow_store(self.app.backend).uproot([self.id])

    def __repr__(self) -> str:
        return f"<Workflow {self.id}: {sum(1 for _ in self.tree.steps())} tasks>"
