"""The addresses of Celery's web views and of Flower's task API, for clients that call those today.

    /compat/{id}/status/   /compat/{id}/done/   /compat/apply/{task}/   /compat/tasks/      django-celery 3
    /compat/api/task/…     /compat/api/tasks    /compat/api/queues/length                   Flower

The answers have their shapes, not ours. `apply` takes named arguments alone, as text, from the query or a form.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.responses import Response

from celeriac import states
from celeriac.documents import instant, value_of
from celeriac.model.outcome import Outcome
from celeriac.web.bodies import content_type, converted, decoded
from celeriac.web.endpoints import Call, Endpoints, json_answer
from celeriac.web.idempotency import sent_once
from celeriac.web.problems import Problem
from celeriac.web.shapes import AnyQuery, FlowerCall, FlowerRevoke, FlowerTimeout, Options, Page
from celeriac.web.site import Site
from celeriac.web.tasks import message_of

__all__ = ["ENDPOINTS"]

ENDPOINTS = Endpoints()
UNDER: Final = "/compat"
FORM: Final = "application/x-www-form-urlencoded"
EXCEPTION_STATES: Final = frozenset({states.RETRY, states.FAILURE, states.REVOKED})
FLOWER_WAIT: Final = 60.0  # seconds that `apply` waits for the end
Document = dict[str, Any]


# --- django-celery ------------------------------------------------------------------------------------


@ENDPOINTS.add("GET", "/{id}/status/", "results:read", {200: Document}, under=UNDER)
async def _status(site: Site, call: Call) -> Response:
    """Tell the state of a task, as Celery's view of a status did."""
    outcome = await _outcome(site, call.path["id"])
    told: Document = {"id": call.path["id"], "status": _state(outcome), "result": None}
    if outcome is not None and outcome.state in EXCEPTION_STATES:
        failure = outcome.failure
        kind = "celeriac.errors.TaskRevoked" if failure is None else f"{failure.module}.{failure.type}"
        seen = failure is not None and call.may("results:traceback")
        told |= {"result": _shown(outcome), "exc": kind, "traceback": failure.traceback if failure and seen else None}
    elif outcome is not None:
        told["result"] = value_of(outcome, site.app)
    return json_answer({"task": told})


@ENDPOINTS.add("GET", "/{id}/done/", "results:read", {200: Document}, under=UNDER)
async def _done(site: Site, call: Call) -> Response:
    """Tell whether a task has succeeded, as Celery's `is_task_successful` did."""
    outcome = await _outcome(site, call.path["id"])
    return json_answer({"task": {"id": call.path["id"], "executed": _state(outcome) == states.SUCCESS}})


@ENDPOINTS.add("GET", "/apply/{task:path}/", "tasks:send", {200: Document}, query=AnyQuery, under=UNDER,
               problems=("unknown-task", "bad-arguments"))  # fmt: skip
async def _apply_get(site: Site, call: Call) -> Response:
    """Send a task with the query as named arguments, as Celery's `apply` did."""
    return await _apply(site, call, dict(call.request.query_params.multi_items()))


@ENDPOINTS.add("POST", "/apply/{task:path}/", "tasks:send", {200: Document}, query=AnyQuery, body="form",
               optional=True, under=UNDER, problems=("unknown-task", "bad-arguments"))  # fmt: skip
async def _apply_post(site: Site, call: Call) -> Response:
    """Send a task with a form, or the query, as named arguments, as Celery's `apply` did."""
    if call.data and content_type(call.request) != FORM:
        raise Problem("wrong-content-type", f"Send a form: Content-Type: {FORM}.")
    try:
        form = dict(parse_qsl(call.data.decode(), keep_blank_values=True, max_num_fields=1000))
    except ValueError as error:
        raise Problem("bad-request", f"The form cannot be read: {error}.") from None
    return await _apply(site, call, {**dict(call.request.query_params.multi_items()), **form})


async def _apply(site: Site, call: Call, kwargs: dict[str, Any]) -> Response:
    message = message_of(site, call, call.path["task"], [], kwargs, Options())
    (message,), _ = await sent_once(site, call, [message], False)
    return json_answer({"ok": "true", "task_id": message.id})


@ENDPOINTS.add("GET", "/tasks/", "tasks:read", {200: Document}, under=UNDER)
async def _registered(site: Site, call: Call) -> Response:
    """List the names of tasks, as Celery's `registered_tasks` did."""
    return json_answer({"regular": sorted(site.app.tasks), "periodic": ""})


# --- Flower -------------------------------------------------------------------------------------------


async def _flower_send(site: Site, call: Call) -> tuple[str, dict[str, Outcome]]:
    body = FlowerCall() if not call.data else converted(decoded(call.data), FlowerCall)
    options = {name: value for name, value in {"queue": body.queue, "countdown": body.countdown, "eta": body.eta,
                                               "expires": body.expires, "priority": body.priority,
                                               "id": body.task_id}.items() if value is not None}  # fmt: skip
    message = message_of(site, call, call.path["task"], body.args, body.kwargs, converted(options, Options))
    (message,), ran = await sent_once(site, call, [message], body.task_id is not None)
    return message.id, ran


@ENDPOINTS.add("POST", "/api/task/async-apply/{task:path}", "tasks:send", {200: Document}, body="any", optional=True,
               under=UNDER, problems=("unknown-task", "bad-arguments"))  # fmt: skip
async def _async_apply(site: Site, call: Call) -> Response:
    """Send a task, as Flower's `async-apply` does."""
    id, _ = await _flower_send(site, call)
    return json_answer({"task-id": id, "state": states.PENDING})


@ENDPOINTS.add("POST", "/api/task/send-task/{task:path}", "tasks:send", {200: Document}, body="any", optional=True,
               under=UNDER, problems=("unknown-task", "bad-arguments"))  # fmt: skip
async def _send_task(site: Site, call: Call) -> Response:
    """Send a task, as Flower's `send-task` does."""
    id, _ = await _flower_send(site, call)
    return json_answer({"task-id": id, "state": states.PENDING})


@ENDPOINTS.add("POST", "/api/task/apply/{task:path}", "tasks:send", {200: Document}, body="any", optional=True,
               under=UNDER, problems=("unknown-task", "bad-arguments"))  # fmt: skip
async def _apply_and_wait(site: Site, call: Call) -> Response:
    """Send a task and wait for its end, as Flower's `apply` does; for a minute at most."""
    id, ran = await _flower_send(site, call)
    outcome = ran.get(id) or (await site.ended(call.request, [id], FLOWER_WAIT)).get(id)
    return json_answer(_flower_document(site, call, id, outcome))


@ENDPOINTS.add("GET", "/api/task/result/{id}", "results:read", {200: Document}, query=FlowerTimeout, under=UNDER)
async def _flower_result(site: Site, call: Call) -> Response:
    """Tell the result of a task, as Flower's `result` does."""
    id = call.path["id"]
    outcome = (await site.ended(call.request, [id], call.query.timeout)).get(id) or await _outcome(site, id)
    return json_answer(_flower_document(site, call, id, outcome))


@ENDPOINTS.add("GET", "/api/task/info/{id}", "results:read", {200: Document}, under=UNDER, problems=("unknown-id",))
async def _flower_info(site: Site, call: Call) -> Response:
    """Tell what is known of a task, as Flower's `info` does."""
    view = await site.view(call.path["id"])
    return json_answer({"name": view.task, "received": None, **_flower_document(site, call, view.id, view.outcome)})


@ENDPOINTS.add("POST", "/api/task/revoke/{id}", "tasks:revoke", {200: Document}, query=FlowerRevoke, under=UNDER)
async def _flower_revoke(site: Site, call: Call) -> Response:
    """Revoke a task, as Flower's `revoke` does."""
    id = call.path["id"]
    await site.app.control.arevoke(id, terminate=call.query.terminate.lower() in ("true", "1"))
    return json_answer({"message": f"Revoked '{id}'"})


@ENDPOINTS.add("GET", "/api/tasks", "results:read", {200: Document}, query=Page, under=UNDER)
async def _flower_tasks(site: Site, call: Call) -> Response:
    """List the tasks whose outcomes were stored last, as Flower's `tasks` does."""
    outcomes = await site.read(site.inspector.recent(call.query.limit))
    return json_answer({
        outcome.id: {"uuid": outcome.id, "name": outcome.task, "worker": outcome.worker,
                     "started": outcome.started_at or None, "timestamp": outcome.done_at or None,
                     "runtime": outcome.runtime, **_flower_document(site, call, outcome.id, outcome)}
        for outcome in outcomes
    })  # fmt: skip


@ENDPOINTS.add("GET", "/api/queues/length", "queues:read", {200: Document}, under=UNDER)
async def _flower_lengths(site: Site, call: Call) -> Response:
    """Count the waiting messages of queues, as Flower's `queues/length` does."""
    counts = await site.counts()
    return json_answer({"active_queues": [{"name": queue.queue, "messages": queue.ready} for queue in counts]})


def _flower_document(site: Site, call: Call, id: str, outcome: Outcome | None) -> Document:
    told: Document = {"task-id": id, "state": _state(outcome)}
    if outcome is None or not outcome.ready:
        return told
    if outcome.state in EXCEPTION_STATES:
        told["result"] = _shown(outcome)
        if outcome.failure is not None and call.may("results:traceback"):
            told["traceback"] = outcome.failure.traceback
    else:
        told["result"] = value_of(outcome, site.app)
    return {**told, "done_at": instant(outcome.done_at)}


async def _outcome(site: Site, id: str) -> Outcome | None:
    return (await site.inspector.find([id]))[id].outcome


def _state(outcome: Outcome | None) -> str:
    return states.PENDING if outcome is None else outcome.state


def _shown(outcome: Outcome) -> str:
    """Return the exception of an outcome as `repr` shows it, without making one."""
    failure = outcome.failure
    return "TaskRevoked()" if failure is None else f"{failure.type}({failure.message!r})"

