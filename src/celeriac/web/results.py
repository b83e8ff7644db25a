"""Looking at tasks: their views, their results, and why they do not run."""

from __future__ import annotations

from hashlib import sha256
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from celeriac import states
from celeriac.documents import explanation_document, to_json, value_of, view_document
from celeriac.inspector import TaskView
from celeriac.model.serialization import JSON as JSON_SERIALIZER
from celeriac.web.answers.tasks import Explanation, Tasks, View
from celeriac.web.bodies import JSON
from celeriac.web.endpoints import Call, Endpoints, json_answer
from celeriac.web.history import searched
from celeriac.web.problems import Problem
from celeriac.web.shapes import ExplainQuery, TasksQuery, ViewQuery
from celeriac.web.site import Site

__all__ = ["ENDPOINTS", "split_ids"]

ENDPOINTS = Endpoints()
SOON = {"Retry-After": "1"}


@ENDPOINTS.add("GET", "/tasks", "results:read", {200: Tasks}, query=TasksQuery, problems=("unknown-workflow",))
async def _tasks(site: Site, call: Call) -> Response:
    """Look at tasks by their `ids` (with `wait`: until the first ends), or search the history with `q`."""
    if (call.query.ids is None) == (call.query.q is None):
        raise Problem("bad-query", "Give either ids=…,… or q=…: a filter, as in q=task:shop.* state:failure since:2h.",
                      parameter="ids")  # fmt: skip
    if call.query.q is not None:
        return await searched(site, call)
    ids = split_ids(site, call.query.ids)
    views = await site.views(ids, call.query.workflow)
    if call.query.wait and views and not any(_ready(view) for view in views.values()):
        await site.ended(call.request, ids, call.query.wait)
        views = await site.views(ids, call.query.workflow)
    traceback = call.may("results:traceback")
    return json_answer({"tasks": {id: view_document(view, site.app, traceback) for id, view in views.items()}})


@ENDPOINTS.add("GET", "/tasks/{id}", "results:read", {200: View}, query=ViewQuery, problems=("unknown-id",))
async def _task(site: Site, call: Call) -> Response:
    """Look at a task. With `wait`, wait for its end."""
    view, applied = await _waited(site, call)
    body = to_json(view_document(view, site.app, call.may("results:traceback")))
    tag = f'"{sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Authorization", **applied}
    if tag in (one.strip().removeprefix("W/") for one in call.request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, HTTPStatus.OK, headers, JSON)


@ENDPOINTS.add("GET", "/tasks/{id}/result", "results:read", {200: Any, 202: View}, query=ViewQuery,
               problems=("unknown-id", "task-failed", "expired"))  # fmt: skip
async def _result(site: Site, call: Call) -> Response:
    """Return the bare value that a task has returned. With `wait`, wait for its end."""
    view, applied = await _waited(site, call)
    outcome = view.outcome
    if outcome is None or not outcome.ready:
        return json_answer(view_document(view, site.app), HTTPStatus.ACCEPTED, {**SOON, **applied})
    if outcome.state in (states.FAILURE, states.REVOKED):
        error = view_document(view, site.app)["error"]
        what = f"{error['type']}: {error['message']}" if error else "it was revoked"
        raise Problem("task-failed", f"{outcome.task}[{outcome.id}] ended in {outcome.state}: {what}",
                      state=outcome.state, error=error, cause=outcome.cause)  # fmt: skip
    if outcome.state == states.IGNORED:
        raise Problem("expired", f"{outcome.task}[{outcome.id}] has ended, and keeps no value.", state=outcome.state)
    headers = {"Cache-Control": "private, no-store", **applied}
    if outcome.value is not None and outcome.content_type != JSON_SERIALIZER.content_type:
        value = outcome.encoded_value(site.app.conf.result_max_bytes)
        return Response(value, HTTPStatus.OK, headers, outcome.content_type)
    return Response(to_json(value_of(outcome, site.app)), HTTPStatus.OK, headers, JSON)


@ENDPOINTS.add("GET", "/tasks/{id}/explain", "tasks:read", {200: Explanation}, query=ExplainQuery)
async def _explain(site: Site, call: Call) -> Response:
    """Say why a task is not running, or what has happened to it."""
    query: ExplainQuery = call.query
    counts = await site.counts()
    found = await site.read(site.inspector.explain(call.path["id"], workflow=query.workflow, task=query.task,
                                                   queue=query.queue, counts=counts))  # fmt: skip
    return json_answer(explanation_document(found))


def split_ids(site: Site, text: str) -> list[str]:
    """Return the ids between commas, each once. Raises a `Problem` if there are none, or too many."""
    ids = list(dict.fromkeys(filter(None, (id.strip() for id in text.split(",")))))
    if not 0 < len(ids) <= site.limits.ids:
        raise Problem("bad-query", f"ids: 1 to {site.limits.ids:,} ids between commas, not {len(ids):,}.",
                      parameter="ids")  # fmt: skip
    return ids


async def _waited(site: Site, call: Call) -> tuple[TaskView, dict[str, str]]:
    """Return the view of a task, after a wait for its end if the request asks for one; and headers that say so."""
    id = call.path["id"]
    view = await site.view(id, call.query.workflow)
    preferred = _preferred(call.request)
    wait = call.query.wait or preferred or 0.0
    if wait and not _ready(view):
        await site.ended(call.request, [id], wait)
        view = await site.view(id, call.query.workflow)
    headers = {"Preference-Applied": f"wait={preferred:g}"} if preferred is not None and not call.query.wait else {}
    return view, headers


def _preferred(request: Request) -> float | None:
    """Return the seconds of `Prefer: wait=…` (RFC 7240), at most as many as `wait` may have; None without."""
    for preference in request.headers.get("prefer", "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        value = value.strip().strip('"')
        if name.strip().lower() == "wait" and value.isdecimal() and len(value) < 10:
            return min(60.0, float(value))
    return None


def _ready(view: TaskView) -> bool:
    return view.outcome is not None and view.outcome.ready

