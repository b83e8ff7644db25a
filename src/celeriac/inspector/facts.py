"""What is known of why a task does not run, from everyone who knows something: broker, backend, history, workers.

`FactFinder` asks them, and `explaining.py` reasons about their answers. What cannot be known stays empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

import msgspec

from celeriac.canvas.tree import Step, Tree
from celeriac.canvas.workflow import StepView
from celeriac.errors import NotSupported
from celeriac.inspector.looking import Looking
from celeriac.inspector.views import Answers, Circumstances, TaskView
from celeriac.model.filters import Filter
from celeriac.model.history import Attempt
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability
from celeriac.ports.history import Timeline
from celeriac.ports.operations import Dead, Holder, QueueCounts, WorkerInfo
from celeriac.ports.workflows import WorkflowStore

__all__ = ["PEEKED", "Behind", "FactFinder", "Facts"]

PEEKED: Final = 200  # messages that come next, among which a waiting one is looked for
RATE_SECONDS: Final = 300.0  # over which the rate of a queue is measured
LETTERS: Final = 1000  # dead letters that are read at a time
MOST_LETTERS: Final = 10_000  # that are looked through for one
RECENT: Final = 200  # outcomes whose ids an unknown one is compared with


class Behind(NamedTuple):
    """Where a task of a workflow is that was not sent yet, or a workflow as a whole (`step` is None)."""

    workflow: str
    step: StepView | None
    waits_for: list[StepView]  # tasks that come before and have not ended, but for those that wait for others of them
    ended: int
    total: int


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about one task, and about what it needs to run."""

    now: float
    view: TaskView
    task: str = ""  # its name; empty: unknown
    queue: str = ""  # likewise
    task_known_here: bool = False
    lane: str | None = None  # of its message, or of its task as it is known here
    max_attempts: int | None = None  # None: no bound, or unknown
    holder: Holder | None = None
    revoked: bool = False
    counts: QueueCounts | None = None  # of its queue
    before: int | None = None  # tasks that its queue gives to workers first; None: at least `PEEKED`, or unknown
    per_second: float | None = None  # attempts that ended lately in its queue
    workers: list[WorkerInfo] = []
    replies: Answers[Circumstances] = msgspec.field(default_factory=lambda: Answers({}))
    dead: Dead | None = None
    behind: Behind | None = None
    timeline: Timeline | None = None
    similar: str | None = None  # an id that is known
    sees_messages: bool = True  # otherwise the broker cannot find one by its id
    sees_outcomes: bool = True
    result_expires: float | None = None
    unknown_task_seconds: float = 0.0
    max_deliveries: int = 0


class FactFinder(Looking):
    """The part of `Inspector` that gathers facts about one task."""

    async def facts(self, id: str, *, workflow: str | None = None, task: str | None = None, queue: str | None = None,
                    counts: Sequence[QueueCounts] | None = None) -> Facts:  # fmt: skip
        """Return what is known about a task.

        A task of a workflow that was not sent is known to the workflow alone. `task` and `queue` help where the broker
        cannot find messages. `counts` saves counting again.
        """
        app = self._app
        sees_messages, sees_outcomes = app.broker.can(Ability.KNOW_IDS), not app.sends_outcomes
        view = await self._view(id, sees_messages, sees_outcomes)
        message, outcome = view.message, view.outcome
        timeline = await app.history.timeline(id) if app.history is not None and not view.known else None
        last = timeline.attempts[-1] if timeline is not None and timeline.attempts else None
        task = view.task or (last.task if last is not None else "") or task or ""
        queue = _queue(message, outcome, last) or queue or (self._usual_queue(task) if task else "")
        found = Facts(
            now=app.clock.now(), view=view, task=task, queue=queue, task_known_here=task in app.tasks,
            lane=message.lane if message is not None else app.tasks[task].lane if task in app.tasks else None,
            max_attempts=self._max_attempts(task, message), timeline=timeline, sees_messages=sees_messages,
            sees_outcomes=sees_outcomes,
            result_expires=app.conf.result_expires, unknown_task_seconds=app.conf.worker_unknown_task_seconds,
            max_deliveries=app.conf.task_max_deliveries,
        )  # fmt: skip
        if view.place == "dead" and message is not None:
            return msgspec.structs.replace(found, dead=await self._letter(message))
        if outcome is not None and outcome.ready and view.place is None:
            return found
        if not view.known:
            behind = await self._behind(id, workflow)
            if behind is not None or (sees_messages and not task):
                similar = await self._similar(id) if behind is None and last is None else None
                return msgspec.structs.replace(found, behind=behind, similar=similar)
            if last is not None and sees_messages:
                return found
        return await self._with_surroundings(found, counts)

    async def _with_surroundings(self, facts: Facts, counts: Sequence[QueueCounts] | None) -> Facts:
        """Return the facts with what is known of the queue and the workers."""
        operations, message, queue = self._app.broker.operations(), facts.view.message, facts.queue
        workers, replies, holder, revoked = await asyncio.gather(
            self.workers(),
            self._answers(Circumstances, "explain", {"id": facts.view.id, "task": facts.task}),
            operations.holder(message) if message is not None and facts.view.place == "active" else _nobody(),
            operations.revoked([facts.view.id]),
        )
        known = counts if counts is not None else await self.queues() if facts.view.place != "active" else []
        return msgspec.structs.replace(
            facts, workers=workers, replies=replies, holder=holder, revoked=facts.view.id in revoked,
            counts=next((one for one in known if one.queue == queue), None),
            before=await self._before(message) if message is not None and facts.view.place == "ready" else None,
            per_second=await self._per_second(queue) if facts.view.place == "ready" else None,
        )  # fmt: skip

    async def _view(self, id: str, sees_messages: bool, sees_outcomes: bool) -> TaskView:
        if sees_outcomes:
            return (await self.find([id]))[id]
        if not sees_messages:
            return TaskView(id)
        place, message = (await self._app.broker.operations().find([id])).get(id, (None, None))
        return TaskView(id, place, message)

    def _usual_queue(self, task: str) -> str:
        route, options = self._app.routes.route(task), self._app.tasks[task].options if task in self._app.tasks else {}
        return str(route.get("queue") or options.get("queue") or self._app.conf.task_default_queue)

    def _max_attempts(self, task: str, message: Message | None) -> int | None:
        known = self._app.tasks.get(task)
        retries = message.max_retries if message is not None else None
        if retries is None and known is not None:
            retries = known.options.get("max_retries", self._app.conf.task_max_retries)
        return None if retries is None else retries + 1

    async def _before(self, message: Message) -> int | None:
        """Return how many messages come before one, if they are few."""
        heads = await self._app.broker.operations().peek(message.queue, PEEKED)
        return next((number for number, one in enumerate(heads) if one.id == message.id), None)

    async def _per_second(self, queue: str) -> float | None:
        if self._app.history is None:
            return None
        now = self._app.clock.now()
        points = await self._app.history.series(now - RATE_SECONDS, now, 60, Filter(queues=(queue,)))
        return sum(point.sums.n for point in points) / RATE_SECONDS or None

    async def _letter(self, message: Message) -> Dead | None:
        for offset in range(0, MOST_LETTERS, LETTERS):
            letters = await self._app.broker.operations().dead(message.queue, LETTERS, offset)
            for letter in letters:
                if letter.message.id == message.id:
                    return letter
            if len(letters) < LETTERS:
                break
        return None

    async def _similar(self, id: str) -> str | None:
        """Return the id of a task that has ended lately, if this one begins like it, or differs by one character."""
        try:
            recent = await self._app.backend.recent(RECENT, 0, None)
        except NotSupported:
            return None
        return next((one.id for one in recent if _is_nearly(id, one.id)), None)

    # --- Workflows ------------------------------------------------------------------------------------

    async def _behind(self, id: str, workflow: str | None) -> Behind | None:
        """Return what a task waits for that its workflow has not sent; the workflow as a whole if `id` is its own."""
        if not isinstance(self._app.backend, WorkflowStore):
            return None
        tree = (await self._app.workflows.load([workflow or id])).get(workflow or id)
        if tree is None:
            return None
        steps = list(tree.steps())
        outcomes = await self._app.backend.afetch([step.id for _, step in steps])
        number = next((number for number, step in steps if step.id == id), None)
        if number is None and workflow is not None:
            return None

        @cache
        def sources_ended(source: int) -> bool:
            return source < 0 or all(_has_ended(tree.step(leaf), outcomes) for leaf in tree.leaves(source))

        earlier = _earlier(tree, number) if number is not None else {one for one, _ in steps}
        open_ones = {one for one in earlier if not _has_ended(tree.step(one), outcomes)}
        first = [one for one in sorted(open_ones) if sources_ended(tree.nodes[one].source)]
        return Behind(tree.id, None if number is None else _seen(tree, number, outcomes),
                      [_seen(tree, one, outcomes) for one in first],
                      sum(_has_ended(step, outcomes) for _, step in steps), len(steps))  # fmt: skip


def _earlier(tree: Tree, number: int) -> set[int]:
    """Return the steps that have to end before a step is sent."""
    found: set[int] = set()
    sources = [tree.nodes[number].source]
    while sources:
        source = sources.pop()
        if source < 0:
            continue
        for leaf in tree.leaves(source):
            if leaf not in found:
                found.add(leaf)
                sources.append(tree.nodes[leaf].source)
    return found


def _has_ended(step: Step, outcomes: dict[str, Outcome]) -> bool:
    return step.id in outcomes and outcomes[step.id].ready


def _seen(tree: Tree, number: int, outcomes: dict[str, Outcome]) -> StepView:
    step = tree.step(number)
    return StepView(number, step.id, step.task, outcomes.get(step.id))


def _queue(message: Message | None, outcome: Outcome | None, last: Attempt | None) -> str:
    if message is not None:
        return message.queue
    if outcome is not None and outcome.call is not None:
        return outcome.call.queue
    return last.queue if last is not None else ""


def _is_nearly(id: str, known: str) -> bool:
    if len(id) >= 8 and (known.startswith(id) or id.startswith(known)):
        return True
    return len(id) == len(known) and sum(one != other for one, other in zip(id, known, strict=True)) == 1


async def _nobody() -> None:
    return None
