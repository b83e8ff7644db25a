"""The audit: who did what, when. Each action of an operator is written into the history.

`application.py` calls `note` for each request that changes something, but for sending tasks (`Endpoint.is_action`); the
dashboard calls `write`. The history notes tasks that were sent again, by the command too, and bulk actions themselves.
It is best effort, as the history is: an action that was done is not undone because it cannot be written down. Without a
history, the log has it.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec
from starlette.responses import Response

from celeriac.documents import event_document
from celeriac.errors import CeleriacError
from celeriac.inspector.audit import ACTION, AUDITED
from celeriac.model.history import Event as Happened
from celeriac.web.answers.history import Event
from celeriac.web.endpoints import Call, Endpoint, Endpoints, json_answer
from celeriac.web.history import history_of, instant_given
from celeriac.web.shapes import AuditQuery
from celeriac.web.site import Site

__all__ = ["ENDPOINTS", "note", "write"]

log = logging.getLogger("celeriac.web")

ENDPOINTS = Endpoints()
LONGEST: Final = 200  # characters of a name
SHOWN: Final = 20  # ids of many
LARGEST: Final = 4_000  # bytes of what was asked for


@ENDPOINTS.add("GET", "/audit", "audit:read", {200: list[Event]}, query=AuditQuery)
async def _audit(site: Site, call: Call) -> Response:
    """List what operators did, the latest first."""
    query: AuditQuery = call.query
    since = instant_given(site, query.since, "since") if query.since else 0.0
    found = await site.read(history_of(site).events(AUDITED, since, query.limit, query.id))
    return json_answer([event_document(event) for event in found])


async def note(site: Site, call: Call, endpoint: Endpoint, failed: Exception | None = None) -> None:
    """Write down what a request of the API has done. `failed`: it may have been done in part."""
    about = next(iter(call.path.values()), "")
    if not about and isinstance(ids := getattr(call.body, "ids", None), list) and len(ids) == 1:
        about = ids[0]
    body = None if call.body is None else msgspec.to_builtins(call.body)
    await write(site, call.user.name, endpoint.summary, f"{endpoint.method} {endpoint.path}", about, body, failed)


async def write(site: Site, by: str, text: str, request: str, about: str = "", body: Any = None,
                failed: Exception | None = None) -> None:  # fmt: skip
    """Write down an action: who did what, by which request, to what. `failed`: it may have been done in part."""
    history = site.app.history
    if history is None:
        return
    data: dict[str, Any] = {"request": request}
    if body is not None:
        data["body"] = _asked(body)
    if failed is not None:
        data["failed"] = str(failed)[:LARGEST]
    event = Happened(at=site.app.clock.now(), kind=ACTION, id=about[:LONGEST], by=by[:LONGEST], text=text, data=data)
    try:
        await site.read(history.audit(event))
    except CeleriacError as error:  # or it is a caller's key that this server has
        log.warning("%s: %s %s is missing in the audit: %s", by, request, about, error)


def _asked(body: Any) -> Any:
    """Return a body of plain data; of many ids, the first; of what is large, its size.

    One with an integer of over 64 bits, which a history cannot keep, is returned as the text of its JSON.
    """
    if isinstance(body, dict) and isinstance(ids := body.get("ids"), list) and len(ids) > SHOWN:
        body = {**body, "ids": ids[:SHOWN], "of": len(ids)}
    encoded = msgspec.json.encode(body)
    if len(encoded) > LARGEST:
        return {"bytes": len(encoded)}
    try:
        msgspec.msgpack.encode(body)
    except OverflowError:
        return encoded.decode()
    return body
