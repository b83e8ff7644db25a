"""`app.workflows`: sends workflows, runs them, finds them again.

In come signatures tied together; out go a plan, to the backend, and the messages of what starts at once, to the broker;
what the caller gets is the result of the whole.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from celeriac.canvas.chain import chain
from celeriac.canvas.composite import Composite
from celeriac.canvas.eager import run, run_message
from celeriac.canvas.group_result import GroupResult
from celeriac.canvas.planner import Planned, Planner, standing
from celeriac.canvas.results import TreeSpot, result_of
from celeriac.canvas.tree import Join, Node, Step, Tree, decode_tree
from celeriac.canvas.workflow import Workflow
from celeriac.errors import MessageTooLarge, WorkflowError
from celeriac.model.message import Link, Message, Place, encode
from celeriac.model.outcome import Outcome
from celeriac.ports.workflows import Plan, WorkflowStore, workflow_store
from celeriac.tasks.custom_ids import aclaim_ids, claim_ids
from celeriac.tasks.protocols import App
from celeriac.tasks.result import AsyncResult
from celeriac.tasks.signature import Signature

if TYPE_CHECKING:
    from celeriac.tasks.context import Request

__all__ = ["GATHER", "Workflows"]

log = logging.getLogger("celeriac.workflows")

GATHER = "celeriac.gather"  # the built-in task that returns what it is given
PUBLISH_BATCH = 1000  # messages sent in one step
TREES = 256  # kept in memory, besides those that the backend has
TREE_BYTES = 32_000_000  # and so large together


class Workflows:
    """The workflows of an app."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._trees: OrderedDict[str, tuple[int, Tree]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self.replacements: dict[str, Planned] = {}  # of tasks that were run at once; see `eager.py`

    # --- Sending --------------------------------------------------------------------------------------

    def send(self, part: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Any:
        """Send a workflow; return the result of the whole."""
        planned = Planner(self._app).plan(part, args, kwargs, options)
        if self._app.conf.task_always_eager:
            return self._run(planned)
        if not planned.has_steps:
            return part.nothing()
        if planned.chosen:
            claim_ids(self._app, planned.chosen)
        if not isinstance(self._app.backend, WorkflowStore):
            message, result = self._continued(part, planned)
            self._app.publish([message])
            return result
        self._app.backend.plant(planned.plan())
        for start in range(0, len(planned.starts), PUBLISH_BATCH):
            self._app.publish(planned.starts[start : start + PUBLISH_BATCH])
        return result_of(self._app, planned.tree, planned.tree.end)

    async def asend(self, part: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None,
                    options: Mapping[str, Any]) -> Any:  # fmt: skip
        """Do as `send`, for coroutines."""
        planned = Planner(self._app).plan(part, args, kwargs, options)
        if self._app.conf.task_always_eager:
            return self._run(planned)
        if not planned.has_steps:
            return part.nothing()
        if planned.chosen:
            await aclaim_ids(self._app, planned.chosen)
        if not isinstance(self._app.backend, WorkflowStore):
            message, result = self._continued(part, planned)
            await self._app.apublish([message])
            return result
        await self._app.backend.aplant(planned.plan())
        for start in range(0, len(planned.starts), PUBLISH_BATCH):
            await self._app.apublish(planned.starts[start : start + PUBLISH_BATCH])
        return result_of(self._app, planned.tree, planned.tree.end)

    def run(self, part: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Any:
        """Run a workflow here and now."""
        return self._run(Planner(self._app).plan(part, args, kwargs, options))

    def run_message(self, message: Message) -> Outcome:
        """Run one message here and now, with its retries, its links and whatever replaces it; return its outcome."""
        return run_message(self._app, message)

    def _run(self, planned: Planned) -> Any:
        outcomes = run(self._app, planned)
        result = result_of(self._app, planned.tree, planned.tree.end, outcomes)
        if self._app.conf.task_eager_propagates:
            result.get()
        return result

    def _continued(self, part: Any, planned: Planned) -> tuple[Message, AsyncResult[Any]]:
        """Return a plain chain as one message, that carries the next; there is nothing else to keep it in."""
        if not isinstance(part, chain) or not part.plain():
            raise WorkflowError("A workflow other than a plain chain of tasks needs a result backend that keeps it: "
                                "set `result_backend`.")  # fmt: skip
        tree = planned.tree
        steps = [step for _, step in tree.steps()]
        result: AsyncResult[Any] | None = None
        for step in steps:
            result = AsyncResult(step.id, self._app, step.task, parent=result)
        last = steps[-1].message
        for before, step in zip(reversed(steps[:-1]), reversed(steps[1:]), strict=True):
            if step.countdown is not None or step.expires is not None:
                raise WorkflowError(f"{step.task} has a countdown or expires, and is not the first of its chain: that "
                                    "needs a result backend that keeps workflows. Set `result_backend`.")  # fmt: skip
            last = replace(before.message, link=[Link(last, step.immutable)])
        size = len(encode(last))
        if size > self._app.conf.message_max_bytes:
            raise MessageTooLarge(
                f"A chain of {len(steps)} tasks is {size:,} bytes in one message, more than `message_max_bytes` allows "
                f"({self._app.conf.message_max_bytes:,}). With a result backend that keeps workflows it would be sent "
                "step by step: set `result_backend`."
            )
        assert result is not None
        return last, result

    def replacement(self, request: Request, part: Any) -> list[Message]:
        """Keep what takes a running task's place; return the messages that it begins with."""
        old = request.message
        if isinstance(part, Signature) and not part.leads_on():
            part._checked((), None)
            return [standing(part.message(), old)]
        if isinstance(part, Signature):
            part = chain(part)
        if not isinstance(part, Composite):
            raise TypeError(f"replace takes a signature or a workflow, not {part!r}")
        if not part.ends_in_task():
            part = part | Signature(self._app, GATHER)
        planned = Planner(self._app).plan(part, stands_for=old)
        if request.is_eager:
            self.replacements[planned.tree.id] = planned
        elif not isinstance(self._app.backend, WorkflowStore):
            raise WorkflowError("To replace a task by a workflow, a result backend is needed that keeps it: set "
                                "`result_backend`.")  # fmt: skip
        else:
            if planned.chosen:
                claim_ids(self._app, planned.chosen)
            self._app.backend.plant(planned.plan())
        return planned.starts

    # --- Finding --------------------------------------------------------------------------------------

    def find(self, id: str) -> Workflow:
        """Return a workflow by its id, to look at it, cancel it or run it again from what failed."""
        return Workflow(self._app, self._tree(id))

    def spot(self, place: Place) -> TreeSpot | None:
        """Return a place in a workflow, if that is still known."""
        try:
            return TreeSpot(self._app, self._tree(place.workflow), place.node)
        except WorkflowError:
            return None

    def _tree(self, id: str) -> Tree:
        known = self.known([id])
        if id not in known:
            known = self.learn(workflow_store(self._app.backend).trees([id]))
        if id not in known:
            raise WorkflowError(f"Nothing is known of the workflow {id}: the id is mistyped, or it has expired.")
        return known[id]

    async def load(self, ids: Sequence[str]) -> dict[str, Tree]:
        """Return the trees of workflows, by id; those that are not in memory from the backend."""
        found = self.known(ids)
        if missing := list({id for id in ids if id not in found}):
            found |= self.learn(await workflow_store(self._app.backend).atrees(missing))
        return found

    def known(self, ids: Sequence[str]) -> dict[str, Tree]:
        """Return those trees that are in memory, by id."""
        found = {}
        with self._lock:
            for id in ids:
                if id in self._trees:
                    self._trees.move_to_end(id)
                    found[id] = self._trees[id][1]
        return found

    def learn(self, trees: Mapping[str, bytes]) -> dict[str, Tree]:
        """Return trees, decoded; and keep them in memory for a while: they never change.

        One that cannot be read is left out, as if it had expired: it must not stop a worker.
        """
        found = {}
        for id, data in trees.items():
            try:
                found[id] = decode_tree(data)
            except ValueError as error:
                log.error("The workflow %s cannot be read: %s", id, error)
        with self._lock:
            for id, tree in found.items():
                if id not in self._trees:
                    self._trees[id] = (len(trees[id]), tree)
                    self._bytes += len(trees[id])
            while len(self._trees) > TREES or (self._bytes > TREE_BYTES and len(self._trees) > 1):
                _, (size, _) = self._trees.popitem(last=False)
                self._bytes -= size
        return found

    # --- Groups that are kept ---------------------------------------------------------------------------

    def save(self, group: GroupResult[Any]) -> None:
        """Keep a group's ids in the backend, under its own."""
        nodes: list[Node] = []
        end = _noted(group, nodes)
        tree = Tree(group.id, group.id, nodes, end)
        workflow_store(self._app.backend).plant(Plan(id=group.id, tree=tree.encode(), left=0))

    def restore(self, id: str) -> GroupResult[Any] | None:
        """Return a group that was kept."""
        found = workflow_store(self._app.backend).trees([id])
        if id not in found:
            return None
        tree = decode_tree(found[id])
        result: GroupResult[Any] = result_of(self._app, tree, tree.end)
        return result


def _noted(result: Any, nodes: list[Node]) -> int:
    """Note a result and what it is made of as nodes; return its number."""
    number = len(nodes)
    if not isinstance(result, GroupResult):
        nodes.append(Step(result.id, result.task_name, msgspec.Raw(encode(Message(id="", task="")))))
        return number
    join = Join(result.id, [])
    nodes.append(join)
    for inner in result.results:
        join.members.append(_noted(inner, nodes))
    return number
