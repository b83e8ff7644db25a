"""Changing single tasks: revoking them, sending failed ones again, running scheduled ones now."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import Response

from celeriac.web.answers.queues import Done
from celeriac.web.answers.tasks import Revoke, SentAgain
from celeriac.web.endpoints import Call, Endpoints, json_answer
from celeriac.web.problems import Problem
from celeriac.web.shapes import TaskRetry, Terminate
from celeriac.web.site import API, Site

__all__ = ["ENDPOINTS"]

ENDPOINTS = Endpoints()


@ENDPOINTS.add("POST", "/tasks/{id}/revoke", "tasks:revoke", {202: Revoke}, body=Terminate, optional=True)
async def _revoke(site: Site, call: Call) -> Response:
    """Keep a task from starting, on all workers. With `terminate`, also end it if it is running."""
    await site.app.control.arevoke(call.path["id"], terminate=call.body.terminate)
    return json_answer({"revoked": [call.path["id"]]}, HTTPStatus.ACCEPTED)


@ENDPOINTS.add("POST", "/tasks/{id}/retry", "tasks:retry", {202: SentAgain}, body=TaskRetry, optional=True,
               problems=("unknown-id", "unknown-queue", "wrong-state"), audit=lambda call: False)  # fmt: skip
async def _retry(site: Site, call: Call) -> Response:
    """Send a failed task again, as if it had never been tried, under its id."""
    id = call.path["id"]  # the inspector writes down who did it
    done = await site.read(site.inspector.retry([id], call.user.name, call.body.queue))
    if done.refused:
        await site.view(id)  # raises if nothing is known of it
        raise Problem("wrong-state", f"{id} is not sent again: {done.refused[id]}.")
    site.changed()
    return json_answer({"sent": len(done.sent), "refused": done.refused}, HTTPStatus.ACCEPTED)


@ENDPOINTS.add("POST", "/tasks/{id}/run-now", "tasks:retry", {202: Done}, problems=("unknown-id", "wrong-state"))
async def _run_now(site: Site, call: Call) -> Response:
    """Let a scheduled task start before it is due."""
    id = call.path["id"]
    count = await site.read(site.inspector.run_now([id]))
    if not count:
        view = await site.view(id)
        where = f"its message is {view.place}" if view.place is not None else f"it is {view.state}"
        raise Problem("wrong-state", f"{id} is not scheduled: {where}. GET {API}/tasks/{id} has more.")
    site.changed()
    return json_answer({"count": count}, HTTPStatus.ACCEPTED)
