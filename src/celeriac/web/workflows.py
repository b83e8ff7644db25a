"""Workflows: chains, groups and chords from JSON, nested to any depth; and looking at those that were sent."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from celeriac.canvas.chain import chain
from celeriac.canvas.chord import chord
from celeriac.canvas.group import group
from celeriac.canvas.group_result import GroupResult
from celeriac.documents import workflow_document
from celeriac.errors import CeleriacError, NotRegistered, UnknownQueue, WorkflowError, nearest
from celeriac.ports.complete import in_thread
from celeriac.tasks.signature import Signature
from celeriac.web.answers.queues import Done
from celeriac.web.answers.workflows import Workflow, WorkflowSent
from celeriac.web.bodies import converted
from celeriac.web.endpoints import Call, Endpoints, json_answer, link
from celeriac.web.idempotency import HEADER
from celeriac.web.problems import Problem
from celeriac.web.shapes import Flow, GraphQuery, Leaf, Terminate
from celeriac.web.site import API, Site
from celeriac.web.tasks import call_options, check_allowed

__all__ = ["ENDPOINTS"]

ENDPOINTS = Endpoints()
KINDS = ("chain", "group", "chord")
DRAWINGS = {"json": "application/json", "mermaid": "text/vnd.mermaid", "dot": "text/vnd.graphviz", "text": "text/plain"}


@ENDPOINTS.add("POST", "/workflows", "tasks:send", {202: WorkflowSent}, body=Flow, batch=True,
               problems=("bad-request", "unknown-task", "unknown-queue", "bad-arguments"))  # fmt: skip
async def _send(site: Site, call: Call) -> Response:
    """Send a workflow: a chain, a group or a chord of calls and of workflows."""
    if HEADER in call.request.headers:
        raise Problem("bad-request", "Workflows take no Idempotency-Key: a repeated request would send another one.")
    part = _Reader(site, call).part(call.body, "")
    if not isinstance(part, Signature) and part.find_app() is None:
        raise Problem("bad-body", "The workflow has no task.", errors=[{"pointer": "", "detail": "it has no task"}])
    try:
        if site.app.conf.task_always_eager:
            result = await in_thread(part.apply_async)
        else:
            result = await part.aapply_async()
    except (NotRegistered, UnknownQueue):
        raise
    except WorkflowError as error:
        raise Problem("bad-body", str(error), errors=[{"pointer": "", "detail": str(error)}]) from None
    except (TypeError, ValueError) as error:
        kind = "bad-arguments" if isinstance(error, CeleriacError) else "bad-body"
        raise Problem(kind, str(error), errors=[{"pointer": "", "detail": str(error)}]) from None
    workflow_id = await in_thread(lambda: result.workflow_id) if not site.app.conf.task_always_eager else None
    ids = [leaf.id for leaf in result.leaves] if isinstance(result, GroupResult) else [result.id]
    asked = ",".join(quote(id, safe="") for id in ids)
    inside = f"&workflow={quote(workflow_id, safe='')}" if workflow_id is not None else ""
    links = {"self": link(call.request, f"{API}/tasks?ids={asked}{inside}"),
             "events": link(call.request, f"{API}/events?ids={asked}")}  # fmt: skip
    if workflow_id is not None:
        own = link(call.request, f"{API}/workflows/{quote(workflow_id, safe='')}")
        links |= {"workflow": own, "graph": f"{own}/graph"}
    return json_answer({"id": result.id, "workflow_id": workflow_id, "ids": ids, "links": links}, HTTPStatus.ACCEPTED)


class _Reader:
    """Turns the data of one request into signatures and workflows."""

    def __init__(self, site: Site, call: Call) -> None:
        self._site = site
        self._call = call
        self._left = site.limits.calls

    def part(self, data: Any, pointer: str) -> Any:
        """Return the workflow, or the signature, of data at a pointer. Raises a `Problem`."""
        if not isinstance(data, dict):
            raise _bad(pointer, 'a call ({"task": …}), or one of {"chain": […]}, {"group": […]}, {"chord": {…}}')
        kinds = [kind for kind in KINDS if kind in data]
        if not kinds:
            return self._leaf(data, pointer)
        if len(data) > 1:
            unknown = next(name for name in data if name != kinds[0])
            hint = "" if unknown in KINDS else nearest(unknown, KINDS)
            raise _bad(pointer, f"{kinds[0]!r} alone, without {unknown!r}.{hint}")
        inner = data[kinds[0]]
        inside = f"{pointer}/{kinds[0]}"
        if kinds[0] == "chord":
            if not isinstance(inner, dict) or inner.keys() != {"header", "body"}:
                raise _bad(inside, '{"header": […], "body": {…}}')
            header = self._parts(inner["header"], f"{inside}/header")
            return self._made(lambda: chord(header, self.part(inner["body"], f"{inside}/body")), inside)
        parts = self._parts(inner, inside)
        return self._made(lambda: chain(*parts) if kinds[0] == "chain" else group(parts), inside)

    def _parts(self, data: Any, pointer: str) -> list[Any]:
        if not isinstance(data, list) or not data:
            raise _bad(pointer, "a list of at least one call or workflow")
        return [self.part(item, f"{pointer}/{index}") for index, item in enumerate(data)]

    def _leaf(self, data: dict[str, Any], pointer: str) -> Any:
        leaf = converted(data, Leaf, pointer)
        self._left -= 1
        if self._left < 0:
            raise Problem("too-large", f"A workflow has at most {self._site.limits.calls:,} tasks.",
                          limit=self._site.limits.calls)  # fmt: skip
        self._site.task(leaf.task)
        check_allowed(self._call, leaf.task)
        return self._made(lambda: self._site.app.signature(leaf.task, leaf.args, leaf.kwargs, immutable=leaf.immutable,
                                                           **call_options(leaf.options)), pointer)  # fmt: skip

    def _made(self, make: Callable[[], Any], pointer: str) -> Any:
        try:
            return make()
        except (TypeError, ValueError, WorkflowError) as error:
            errors = [{"pointer": pointer, "detail": str(error)}]
            raise Problem("bad-body", f"{pointer}: {error}", errors=errors) from None


def _bad(pointer: str, wanted: str) -> Problem:
    return Problem("bad-body", f"{pointer or 'The body'} takes {wanted}.",
                   errors=[{"pointer": pointer, "detail": f"takes {wanted}"}])  # fmt: skip


@ENDPOINTS.add("GET", "/workflows/{id}", "tasks:read", {200: Workflow}, problems=("unknown-workflow",))
async def _show(site: Site, call: Call) -> Response:
    """Look at a workflow: its tasks, and how many have ended."""
    found = await site.workflow(call.path["id"])
    return json_answer(workflow_document(found, await in_thread(found.steps)))


@ENDPOINTS.add("GET", "/workflows/{id}/graph", "tasks:read", {200: "graph"}, query=GraphQuery,
               problems=("unknown-workflow",))  # fmt: skip
async def _graph(site: Site, call: Call) -> Response:
    """Draw a workflow, with the states of its tasks."""
    found = await site.workflow(call.path["id"])
    drawing = await in_thread(found.graph, call.query.format)
    return Response(drawing, HTTPStatus.OK, {"Cache-Control": "no-store"}, DRAWINGS[call.query.format])


@ENDPOINTS.add("POST", "/workflows/{id}/revoke", "tasks:revoke", {202: Done}, body=Terminate, optional=True,
               problems=("unknown-workflow",))  # fmt: skip
async def _revoke(site: Site, call: Call) -> Response:
    """Revoke the tasks of a workflow that have not ended."""
    found = await site.workflow(call.path["id"])
    count = await in_thread(found.cancel, call.body.terminate)
    return json_answer({"count": count}, HTTPStatus.ACCEPTED)


@ENDPOINTS.add("POST", "/workflows/{id}/retry", "tasks:retry", {202: Done}, problems=("unknown-workflow", "changed"))
async def _retry(site: Site, call: Call) -> Response:
    """Run the tasks of a workflow again that did not succeed. It must have ended."""
    found = await site.workflow(call.path["id"])
    try:
        count = await in_thread(found.retry)
    except WorkflowError as error:
        raise Problem("changed", str(error)) from None
    return json_answer({"count": count}, HTTPStatus.ACCEPTED)
