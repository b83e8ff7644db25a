"""Queues: counts, waiting messages, pauses, purges; and dead letters."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from starlette.responses import Response

from celeriac.documents import dead_document, message_document
from celeriac.errors import UnknownQueue
from celeriac.ports.operations import QueueCounts
from celeriac.web.answers.queues import Dead, Done, Message, Queue
from celeriac.web.endpoints import Call, Endpoints, json_answer
from celeriac.web.problems import Problem
from celeriac.web.shapes import DeadIds, DeadQuery, MessagesQuery, Paused, Purge
from celeriac.web.site import Site

__all__ = ["ENDPOINTS", "counts_of", "purge"]

ENDPOINTS = Endpoints()


@ENDPOINTS.add("GET", "/queues", "queues:read", {200: list[Queue]})
async def _list(site: Site, call: Call) -> Response:
    """Count the messages of all queues."""
    return json_answer([msgspec.to_builtins(counts) for counts in await site.counts()])


@ENDPOINTS.add("GET", "/queues/{queue:path}/messages", "queues:read", {200: list[Message]}, query=MessagesQuery,
               problems=("unknown-queue", "not-supported"))  # fmt: skip
async def _messages(site: Site, call: Call) -> Response:
    """See messages of a queue: those that workers receive next, or those that are due soonest."""
    query: MessagesQuery = call.query
    look = site.inspector.peek if query.state == "ready" else site.inspector.scheduled
    messages = await site.read(look(call.path["queue"], query.limit, query.offset))
    return json_answer([message_document(message, site.app) for message in messages])


@ENDPOINTS.add("DELETE", "/queues/{queue:path}/messages", "queues:purge", {200: Done}, body=Purge,
               problems=("unknown-queue", "changed"))  # fmt: skip
async def _purge(site: Site, call: Call) -> Response:
    """Delete the waiting messages of a queue; not if there are more than expected. Their tasks end as REVOKED."""
    return json_answer({"count": await purge(site, call.path["queue"], call.body.expected)})


@ENDPOINTS.add("GET", "/queues/{queue:path}", "queues:read", {200: Queue}, problems=("unknown-queue",))
async def _show(site: Site, call: Call) -> Response:
    """Count the messages of a queue."""
    return json_answer(msgspec.to_builtins(await counts_of(site, call.path["queue"])))


@ENDPOINTS.add("PATCH", "/queues/{queue:path}", "queues:write", {200: Queue}, body=Paused, problems=("unknown-queue",))
async def _pause(site: Site, call: Call) -> Response:
    """Pause a queue, so that no worker receives from it, or resume it."""
    queue = call.path["queue"]
    act = site.inspector.pause if call.body.paused else site.inspector.resume
    await site.read(act([queue]))
    site.changed()
    return json_answer(msgspec.to_builtins(await counts_of(site, queue)))


async def purge(site: Site, queue: str, expected: int) -> int:
    """Delete the waiting messages of a queue; return how many. Raises a `Problem` if there are more than expected."""
    site.changed()
    counts = await counts_of(site, queue)
    waiting = counts.ready + counts.scheduled
    if waiting > expected:
        raise Problem("changed", f"The queue {queue} holds {waiting:,} messages by now, and {expected:,} were "
                      "expected. Look again, and repeat this with the new number.", count=waiting)  # fmt: skip
    done = await site.read(site.inspector.purge([queue]))
    site.changed()
    return done[queue]


async def counts_of(site: Site, queue: str) -> QueueCounts:
    """Return the counts of a queue. Raises `UnknownQueue`."""
    counts = await site.counts()
    for found in counts:
        if found.queue == queue:
            return found
    raise UnknownQueue(queue, [found.queue for found in counts])


# --- Dead letters -------------------------------------------------------------------------------------


@ENDPOINTS.add("GET", "/dead", "tasks:read", {200: list[Dead]}, query=DeadQuery, problems=("unknown-queue",))
async def _dead(site: Site, call: Call) -> Response:
    """List dead letters: messages that workers gave up on. Newest first."""
    query: DeadQuery = call.query
    letters = await site.read(site.inspector.dead(query.queue, query.limit, query.offset))
    return json_answer([dead_document(letter, site.app) for letter in letters])


@ENDPOINTS.add("POST", "/dead/resend", "dead:write", {202: Done}, body=DeadIds)
async def _resend(site: Site, call: Call) -> Response:
    """Return dead letters to their queues, as new messages."""
    count = await site.read(site.inspector.resend(call.body.ids))
    site.changed()
    return json_answer({"count": count}, HTTPStatus.ACCEPTED)


@ENDPOINTS.add("POST", "/dead/drop", "dead:write", {200: Done}, body=DeadIds)
async def _drop(site: Site, call: Call) -> Response:
    """Delete dead letters."""
    count = await site.read(site.inspector.drop(call.body.ids))
    site.changed()
    return json_answer({"count": count})
