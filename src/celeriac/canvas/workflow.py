"""`Workflow`: a workflow that was sent, to inspect, cancel or retry it. `app.workflow(id)` returns one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
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
from celeriac.ports.abilities import Ability
from celeriac.ports.workflows import Plan, workflow_store
from celeriac.tasks.message_template import PUBLISH_BATCH
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


def _has_ended(view: StepView) -> bool:
    return view.outcome is not None and view.outcome.ready


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
        return sum(map(_has_ended, views)), len(views)

    def finished(self) -> bool:
        """Return whether all its tasks have ended."""
        ended, total = self.progress()
        return ended == total

    def waiting(self) -> list[str]:
        """Return the ids of its tasks that have not ended."""
        return [view.id for view in self.steps() if not _has_ended(view)]

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

        If the broker goes away meanwhile, or the process dies, it can be called again, unless the broker knows no ids
        (RabbitMQ). Raises `WorkflowError` if a task has not ended.
        """
        held, views = self._held(), self.steps()
        outcomes = {view.id: view.outcome for view in views if view.outcome is not None}
        again = {view.node for view in views if view.state in UNSUCCESSFUL or not _has_ended(view)}
        if not again:
            return 0
        if not all(map(_has_ended, views)) and not self._broke_off(held, views):
            raise WorkflowError(f"The workflow {self.id} has not ended. Wait for its end, or cancel it first.")
        messages = self._messages(again, outcomes)
        ids = [self.tree.step(number).id for number in again]
        callbacks = [link.message.id for number in again for link in self.tree.step(number).message.link_error]
        callbacks += [link.message.id for node in self.tree.nodes if isinstance(node, Join) for link in node.link_error]
        # Lift earlier revocations. This comes first, so that nothing has changed if the broker is away.
        self.app.broker.complete(self.app.broker.revoke(ids, 0.0))
        self.app.backend.forget([*ids, *callbacks])
        marks = [Outcome(id=message.id, task=message.task, state=states.PENDING) for message in messages]
        self.app.broker.complete(self.app.backend.store(marks))
        missing = self._missing(again)
        store = workflow_store(self.app.backend)
        tree = store.codec.seal("tree", self.tree.encode(), self.id)
        store.plant(Plan(id=self.id, tree=tree, left=len(again), missing=missing))
        for start in range(0, len(messages), PUBLISH_BATCH):
            self.app.publish(messages[start : start + PUBLISH_BATCH])
        return len(messages)

    def _held(self) -> Collection[str] | None:
        """Return which of its tasks that have not ended the broker holds; None if it cannot tell.

        Ask before looking at the outcomes: what is not held and has not ended afterwards was never sent.
        """
        broker, waiting = self.app.broker, self.waiting()
        if not waiting:
            return ()
        return broker.complete(broker.operations().find(waiting)) if broker.can(Ability.KNOW_IDS) else None

    def _broke_off(self, held: Collection[str] | None, views: Sequence[StepView]) -> bool:
        """Return whether an earlier `retry` has marked what it was to send, and did not send it.

        Otherwise a worker runs some of it, or is about to send what follows a task that has ended.
        """
        left = {view.node for view in views if not _has_ended(view)}
        marked = {view.node for view in views if view.outcome is not None and view.outcome.state == states.PENDING}

        def waits(number: int) -> bool:
            source = self.tree.nodes[number].source
            return source >= 0 and not left.isdisjoint(self.tree.leaves(source))

        return held is not None and not held and all(number in marked or waits(number) for number in left)

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
