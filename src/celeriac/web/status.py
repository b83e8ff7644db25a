"""The status URL: `GET /s/{id}.{expiry}.{signature}`, for web pages that poll it without a token.

`AsyncResult.status_url` makes it. The answer is what `AsyncResult.to_dict` gives: state, progress, value, and the
exception without its traceback and without the folders of the worker's machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from celeriac.errors import EncodeError
from celeriac.model.status_urls import open_ticket
from celeriac.web.bodies import JSON
from celeriac.web.endpoints import Call, Endpoints, json_answer
from celeriac.web.problems import Problem
from celeriac.web.shapes import WaitQuery
from celeriac.web.site import Site

__all__ = ["ENDPOINTS", "cors"]

ENDPOINTS = Endpoints()
LONGEST_WAIT = 30.0  # seconds; the clients are anybody's browsers


@ENDPOINTS.add("GET", "/s/{ticket:path}", None, {200: dict[str, Any]}, query=WaitQuery, under="",
               problems=("unknown-id", "expired", "too-many", "not-supported", "broker-unavailable"))  # fmt: skip
async def _status(site: Site, call: Call) -> Response:
    """Tell how a task is doing, to whoever has this URL."""
    secret: str | None = site.app.conf.web_secret
    ticket = open_ticket(secret, call.path["ticket"]) if secret is not None else None
    if ticket is None:
        raise Problem("unknown-id", "This is not a status URL of this server: it is incomplete, or was changed.")
    if site.app.clock.now() > ticket.expires_at:
        raise Problem("expired", "This status URL has expired.")
    site.buckets.take(f"status {ticket.id}")
    if site.app.sends_outcomes:
        raise Problem("not-supported", "With rpc:// results go only to the caller: set `result_backend`.")
    result = site.app.AsyncResult(ticket.id)
    outcome = await result.aoutcome()
    if call.query.wait and (outcome is None or not outcome.ready):
        await site.ended(call.request, [ticket.id], min(call.query.wait, LONGEST_WAIT))
    try:
        document = await result.ato_dict()
    except EncodeError:  # the value is not plain data
        outcome = await result.aoutcome()
        document = {"id": ticket.id, "state": outcome and outcome.state, "ready": True, "progress": None, "value": None,
                    "error": None}  # fmt: skip
    if not ticket.result:
        document.pop("value")
    return json_answer(document)


@ENDPOINTS.add("OPTIONS", "/s/{ticket:path}", None, {204: None}, under="")
async def _preflight(site: Site, call: Call) -> Response:
    """Tell a browser that a page of another site may read a status URL."""
    return Response(status_code=HTTPStatus.NO_CONTENT, media_type=JSON)


def cors(site: Site, request: Request) -> Mapping[str, str]:
    """Return the headers that let the page of a listed site read an answer."""
    allowed: list[str] = site.app.conf.web_origins
    origin = request.headers.get("origin")
    if origin is None or not (origin in allowed or "*" in allowed):
        return {"Vary": "Origin"}
    return {"Vary": "Origin", "Access-Control-Allow-Origin": origin, "Access-Control-Allow-Methods": "GET",
            "Access-Control-Max-Age": "86400"}  # fmt: skip
