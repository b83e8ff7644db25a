"""Eager runs: a workflow or a message is run in this process, by the rules that the worker follows, without a broker.

Called by `workflows.py`, for `apply` and for `task_always_eager`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from celeriac import states
from celeriac.canvas.advance import advance
from celeriac.canvas.links import fitting, linked
from celeriac.canvas.planner import Planned
from celeriac.canvas.tree import Tree
from celeriac.config.settings import received_max_bytes
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.ports.workflows import PendingNode
from celeriac.tasks.execution import Executor
from celeriac.tasks.protocols import App

__all__ = ["run", "run_message"]


def run(app: App, planned: Planned) -> dict[str, Outcome]:
    """Run the tasks of a workflow in sequence, with their retries but without delays; return all outcomes by id."""
    return _Run(app, {planned.tree.id: planned.tree}, {planned.tree.id: dict(planned.missing)}).run(planned.starts)


def run_message(app: App, message: Message) -> Outcome:
    """Run one message, with its retries, its links and its replacements; return its outcome."""
    return _Run(app, {}, {}).run([message])[message.id]


class _Run:
    """A run in progress: of a workflow, and of those that replace tasks of it."""

    def __init__(self, app: App, trees: dict[str, Tree], missing: dict[str, dict[int, int]]) -> None:
        self._app = app
        self._executor = Executor(app, worker="eager", is_eager=True)
        self._largest = received_max_bytes(app.conf)
        self._trees = trees
        self._missing = missing
        self._outcomes: dict[str, Outcome] = {}
        self._ignored: set[str] = set()  # ids of tasks whose success is not stored
        self._messages: deque[Message] = deque()
        self._pending: deque[PendingNode] = deque()

    def run(self, starts: list[Message]) -> dict[str, Outcome]:
        self._messages += starts
        while self._messages or self._pending:
            if self._pending:
                self._advance(self._pending.popleft())
            else:
                self._attempt(self._messages.popleft())
        if self._app.conf.task_store_eager_result:
            ended = [outcome for id, outcome in self._outcomes.items() if id not in self._ignored]
            self._app.broker.complete(self._store(ended))
        return self._outcomes

    async def _store(self, outcomes: list[Outcome]) -> None:
        # Where a caller chooses the ids, those of an earlier run are free again.
        await self._app.backend.aforget([outcome.id for outcome in outcomes])
        await self._app.backend.store(outcomes)

    def _attempt(self, message: Message) -> None:
        outcome = self._executor.run_any(message)
        while outcome.state == states.RETRY:
            message = outcome.next_attempt(message)
            outcome = self._executor.run_any(message)
        if outcome.state == states.REPLACED:
            self._messages += outcome.following
            return
        if message.ignore_result and outcome.state == states.SUCCESS:
            self._ignored.add(outcome.id)
        self._ended(outcome)
        self._send(linked(message, outcome, self._app.clock.now()))

    def _send(self, messages: Sequence[Message]) -> None:
        self._messages += [fitting(message, self._largest) for message in messages]

    def _ended(self, outcome: Outcome) -> None:
        self._outcomes[outcome.id] = outcome
        place = outcome.place
        if place is not None:
            self._count(place.workflow, [place.join] if place.join >= 0 else [])
            self._pending.append(PendingNode(place.workflow, place.node))

    def _count(self, workflow: str, joins: list[int] | tuple[int, ...]) -> None:
        missing = self._missing[self._tree(workflow).id]
        for join in joins:
            missing[join] -= 1
            if missing[join] == 0:
                self._pending.append(PendingNode(workflow, join))

    def _tree(self, workflow: str) -> Tree:
        if workflow not in self._trees:  # it replaces a task
            planned = self._app.workflows.replacements.pop(workflow)
            self._trees[workflow] = planned.tree
            self._missing[workflow] = dict(planned.missing)
        return self._trees[workflow]

    def _advance(self, node: PendingNode) -> None:
        done = advance(self._tree(node.workflow), node.node, self._outcomes, self._app.clock.now())
        for outcome in done.outcomes:
            if outcome.place is not None and outcome.place.workflow != node.workflow:
                self._ended(outcome)
            self._outcomes[outcome.id] = outcome
        self._send(done.messages)
        self._count(node.workflow, list(done.joins))


