"""`app.workflows`: sends workflows, runs them in this process, and finds those that were sent.

Signatures tied together come in. A plan goes to the backend, and then the messages of the steps that start at once to
the broker; the caller receives the result. The worker loads trees from here.
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
from celeriac.canvas.planner import Planned, Planner, as_replacement
from celeriac.canvas.results import TreeSpot, result_of
from celeriac.canvas.tree import Join, Node, Step, Tree, decode_tree
from celeriac.canvas.workflow import Workflow
from celeriac.errors import MessageTooLarge, WorkflowError
from celeriac.model.gate import Unreadable
from celeriac.model.message import Link, Message, Place, check_depth, encode
from celeriac.model.outcome import Outcome
from celeriac.ports.workflows import KEEPERS, Plan, WorkflowStore, workflow_store
from celeriac.tasks.custom_ids import afree_unused_ids, free_unused_ids
from celeriac.tasks.message_template import PUBLISH_BATCH
from celeriac.tasks.protocols import App
from celeriac.tasks.result import AsyncResult
from celeriac.tasks.signature import Signature
from celeriac.tasks.tracing import Sending

if TYPE_CHECKING:
    from celeriac.tasks.request import Request

__all__ = ["Workflows"]

log = logging.getLogger("celeriac.workflows")

CACHED_TREES = 256  # kept in memory at most
CACHED_BYTES = 32_000_000  # of all cached trees together


class Workflows:
    """The workflows of an app."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._trees: OrderedDict[str, tuple[int, Tree]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self.replacements: dict[str, Planned] = {}  # of tasks that run eagerly, by workflow id; `eager.py` removes them

    # --- Sending --------------------------------------------------------------------------------------

    def send(self, part: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Any:
        """Send a workflow; return its result."""
        with self._app.tracing.batch(_name_of_send(part)) as batch:
            planned = Planner(self._app, sending=batch).plan(part, args, kwargs, options)
            if self._app.conf.task_always_eager:
                return self._run(planned)
            if not planned.has_steps:
                return part.empty_result()
            if planned.chosen:
                free_unused_ids(self._app, planned.chosen)
            if not isinstance(self._app.backend, WorkflowStore):
                message, result = self._as_one_message(part, planned)
                self._app.publish([message], batch)
                return result
            self._app.backend.plant(planned.plan(self._app.backend.codec))
            for start in range(0, len(planned.starts), PUBLISH_BATCH):
                self._app.publish(planned.starts[start : start + PUBLISH_BATCH], batch)
        return result_of(self._app, planned.tree, planned.tree.end)

    async def asend(self, part: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None,
                    options: Mapping[str, Any]) -> Any:  # fmt: skip
        """Coroutine version of `send`."""
        with self._app.tracing.batch(_name_of_send(part)) as batch:
            planned = Planner(self._app, sending=batch).plan(part, args, kwargs, options)
            if self._app.conf.task_always_eager:
                return self._run(planned)
            if not planned.has_steps:
                return part.empty_result()
            if planned.chosen:
                await afree_unused_ids(self._app, planned.chosen)
            if not isinstance(self._app.backend, WorkflowStore):
                message, result = self._as_one_message(part, planned)
                await self._app.apublish([message], batch)
                return result
            await self._app.backend.aplant(planned.plan(self._app.backend.codec))
            for start in range(0, len(planned.starts), PUBLISH_BATCH):
                await self._app.apublish(planned.starts[start : start + PUBLISH_BATCH], batch)
        return result_of(self._app, planned.tree, planned.tree.end)

    def run(self, part: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Any:
        """Run a workflow in this process; return its result."""
        return self._run(Planner(self._app).plan(part, args, kwargs, options))

    def run_message(self, message: Message) -> Outcome:
        """Run one message in this process, with its retries, its links and its replacements; return its outcome."""
        return run_message(self._app, message)

    def _run(self, planned: Planned) -> Any:
        outcomes = run(self._app, planned)
        result = result_of(self._app, planned.tree, planned.tree.end, outcomes)
        if self._app.conf.task_eager_propagates:
            result.get()
        return result

    def _as_one_message(self, part: Any, planned: Planned) -> tuple[Message, AsyncResult[Any]]:
        """Return a plain chain as one message whose links hold the rest, for a backend that cannot store workflows."""
        if not isinstance(part, chain) or not part.is_plain():
            raise WorkflowError("A workflow other than a plain chain of tasks needs a result backend that stores "
                                f"workflows: set `result_backend` to one of {KEEPERS}.")  # fmt: skip
        tree = planned.tree
        steps = [step for _, step in tree.steps()]
        result: AsyncResult[Any] | None = None
        for step in steps:
            result = AsyncResult(step.id, self._app, step.task, parent=result)
        last = steps[-1].message
        for before, step in zip(reversed(steps[:-1]), reversed(steps[1:]), strict=True):
            last = replace(before.message, link=[Link(last, step.immutable, step.expires)])
        try:
            check_depth(last)
        except Unreadable as error:
            raise MessageTooLarge(
                f"A chain of {len(steps)} tasks in one message: {error}. Make it shorter, or set `result_backend` to "
                f"one that stores workflows: {KEEPERS}."
            ) from None
        size = len(encode(last))
        if size > self._app.conf.message_max_bytes:
            raise MessageTooLarge(
                f"A chain of {len(steps)} tasks is {size:,} bytes in one message, more than `message_max_bytes` allows "
                f"({self._app.conf.message_max_bytes:,}). A result backend that stores workflows would send it step by "
                f"step: set `result_backend` to one of {KEEPERS}."
            )
        assert result is not None
        return last, result

    def replacement(self, request: Request, part: Any) -> list[Message]:
        """Store the replacement of a running task; return the messages to send first."""
        with self._app.tracing.batch(_name_of_send(part)) as batch:
            return self._replacement(request, part, batch)

    def _replacement(self, request: Request, part: Any, batch: Sending | None) -> list[Message]:
        old = request.message
        if isinstance(part, Signature) and not part.leads_on():
            part._checked((), None)
            message = as_replacement(part.message(), old)
            if batch is not None:
                message = replace(message, headers={**message.headers, **batch.carrier})
            return [message]
        if isinstance(part, Signature):
            part = chain(part)
        if not isinstance(part, Composite):
            raise TypeError(f"replace needs a signature or a workflow, not {part!r}")
        planned = Planner(self._app, sending=batch).plan(part, stands_for=old)
        if request.is_eager:
            self.replacements[planned.tree.id] = planned
        elif not isinstance(self._app.backend, WorkflowStore):
            raise WorkflowError("Replacing a task with a workflow needs a result backend that stores workflows: set "
                                f"`result_backend` to one of {KEEPERS}.")  # fmt: skip
        else:
            if planned.chosen:
                free_unused_ids(self._app, planned.chosen)
            self._app.backend.plant(planned.plan(self._app.backend.codec))
        return planned.starts

    # --- Finding --------------------------------------------------------------------------------------

    def find(self, id: str) -> Workflow:
        """Return a workflow by its id. Raises `WorkflowError` if it is not stored."""
        return Workflow(self._app, self._tree(id))

    def spot(self, place: Place) -> TreeSpot | None:
        """Return the node of a place, or None if the workflow is no longer stored."""
        try:
            return TreeSpot(self._app, self._tree(place.workflow), place.node)
        except WorkflowError:
            return None

    def _tree(self, id: str) -> Tree:
        trees = self.cached([id])
        if id not in trees:
            trees = self.cache(workflow_store(self._app.backend).trees([id]))
        if id not in trees:
            raise WorkflowError(f"There is no workflow {id}: the id is wrong, or the workflow has expired.")
        return trees[id]

    async def load(self, ids: Sequence[str]) -> dict[str, Tree]:
        """Return the trees of workflows by id, from memory or else from the backend. The worker calls this."""
        found = self.cached(ids)
        if missing := list({id for id in ids if id not in found}):
            found |= self.cache(await workflow_store(self._app.backend).atrees(missing))
        return found

    def cached(self, ids: Sequence[str]) -> dict[str, Tree]:
        """Return the trees that are in memory, by id."""
        found = {}
        with self._lock:
            for id in ids:
                if id in self._trees:
                    self._trees.move_to_end(id)
                    found[id] = self._trees[id][1]
        return found

    def cache(self, trees: Mapping[str, bytes]) -> dict[str, Tree]:
        """Decode trees, keep them in memory (they never change), and return them by id.

        A tree that cannot be decoded is logged and left out, as if it had expired, so that it does not stop a worker.
        """
        found, codec = {}, self._app.backend.codec
        for id, data in trees.items():
            try:
                tree = decode_tree(codec.open("tree", data, id))
                if tree.id != id:
                    raise Unreadable(f"it is that of the workflow {tree.id!r}")
                found[id] = tree
            except ValueError as error:
                log.error("Cannot decode the stored tree of workflow %s: %s", id, error)
        with self._lock:
            for id, tree in found.items():
                if id not in self._trees:
                    self._trees[id] = (len(trees[id]), tree)
                    self._bytes += len(trees[id])
            while len(self._trees) > CACHED_TREES or (self._bytes > CACHED_BYTES and len(self._trees) > 1):
                _, (size, _) = self._trees.popitem(last=False)
                self._bytes -= size
        return found

    # --- Saved groups -----------------------------------------------------------------------------------

    def save(self, group: GroupResult[Any]) -> None:
        """Store the ids of a group in the backend, under the group's id."""
        nodes: list[Node] = []
        end = _add_nodes(group, nodes)
        backend = workflow_store(self._app.backend)
        tree = backend.codec.seal("tree", Tree(group.id, group.id, nodes, end).encode(), group.id)
        backend.plant(Plan(id=group.id, tree=tree, left=0))

    def restore(self, id: str) -> GroupResult[Any] | None:
        """Return a group that was saved, or None."""
        tree = self.cache(workflow_store(self._app.backend).trees([id])).get(id)
        if tree is None:
            return None
        result: GroupResult[Any] = result_of(self._app, tree, tree.end)
        return result


def _name_of_send(part: Any) -> str:
    """Return the name of the span that sends a part."""
    return f"send {part.task}" if isinstance(part, Signature) else f"send {getattr(part, 'kind', 'workflow')}"


def _add_nodes(result: Any, nodes: list[Node]) -> int:
    """Append the nodes of a result and its members; return the number of its node."""
    number = len(nodes)
    if not isinstance(result, GroupResult):
        nodes.append(Step(result.id, result.task_name, msgspec.Raw(encode(Message(id="", task="")))))
        return number
    join = Join(result.id, [])
    nodes.append(join)
    for inner in result.results:
        join.members.append(_add_nodes(inner, nodes))
    return number
