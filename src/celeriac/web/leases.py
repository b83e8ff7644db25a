"""Leases over HTTP: for workers in any language. docs/reference/http-worker.md defines the protocol.

A lease's id says what its worker has said of itself, so that any server of the app can answer it, and one that was
started a moment ago. What the worker may receive is checked with each request. `worker/remote_worker.py` has the rest.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from celeriac import states
from celeriac.errors import BackendError
from celeriac.ports.broker import Delivery
from celeriac.web.answers.leases import Deliveries, Granted, Heartbeat, Settled
from celeriac.web.deliveries import delivery_document, ending_of, state_of
from celeriac.web.endpoints import Call, Endpoints, json_answer, link
from celeriac.web.lease_shapes import Enter, Holds, ReceiveQuery, Settle
from celeriac.web.problems import Problem
from celeriac.web.scopes import WORK
from celeriac.web.site import API, Site
from celeriac.worker.gateway import Gateway
from celeriac.worker.pools.child import state_outcome
from celeriac.worker.remote_tokens import message_of
from celeriac.worker.remote_worker import Received, Registration, RemoteWorker

__all__ = ["ENDPOINTS"]

ENDPOINTS = Endpoints()
MOST_LEASES: Final = 200  # that one server answers; each may have a request open
LONGEST_ID: Final = 6000  # characters: a request has at most 64 KiB of headers, and proxies allow less
LARGEST_ID: Final = 300_000  # bytes, decompressed


@ENDPOINTS.add("POST", "/leases", WORK, {201: Granted}, body=Enter, problems=("unknown-queue",))
async def _enter(site: Site, call: Call) -> Response:
    """Enter as a worker, with the queues to receive from and the tasks that it can run."""
    body: Enter = call.body
    for queue in body.queues:
        site.app.check_queue(queue)
    if body.lease_seconds is None:
        body.lease_seconds = site.app.conf.worker_lease_seconds
    id = _lease_id(body)
    if len(id) > LONGEST_ID:
        raise Problem("bad-body", "/tasks: The names are too long together. Use patterns, such as 'shop.*'.",
                      errors=[{"pointer": "/tasks", "detail": "the names are too long together"}])  # fmt: skip
    worker = _worker(site, call, id, body)
    await worker.enter()
    own = link(call.request, f"{API}/leases/{quote(id, safe='')}")
    links = {"self": own, **{name: f"{own}/{name}" for name in ("receive", "settle", "renew")}}
    answer = {"lease": id, "lease_seconds": body.lease_seconds, "renew_seconds": body.lease_seconds / 3, "links": links}
    return json_answer(answer, HTTPStatus.CREATED, {"Location": own})


@ENDPOINTS.add("POST", "/leases/{lease}/receive", WORK, {200: Deliveries}, query=ReceiveQuery, body=Holds,
               problems=("unknown-lease", "unknown-queue"))  # fmt: skip
async def _receive(site: Site, call: Call) -> Response:
    """Receive tasks; wait for the first. One such request at a time: another ends it."""
    worker = _known(site, call)
    receiving = worker.receive(call.query.limit, call.query.wait, _distinct(call.body.holds))
    received = await site.while_wanted(call.request, receiving)
    if received is None:
        received = Received()  # nobody waits for it, or the server stops
    fitting, rest = _fitting(received, site.limits.batch)
    if await call.request.is_disconnected():
        fitting, rest = {}, dict(received.deliveries)
    if rest:
        worker.return_soon([*rest])
    now = site.app.clock.now()
    for delivery in fitting.values():
        if delivery.message.track_started and not delivery.message.ignore_result:
            started = state_outcome(delivery.message, states.STARTED, None)
            _gateway(site).settler.reported(msgspec.structs.replace(started, started_at=now))
    documents = [delivery_document(token, delivery, site.app) for token, delivery in fitting.items()]
    return json_answer({"deliveries": documents, "lost": received.lost})


@ENDPOINTS.add("POST", "/leases/{lease}/settle", WORK, {200: Settled}, body=Settle, batch=True,
               problems=("unknown-lease", "unknown-queue"))  # fmt: skip
async def _settle(site: Site, call: Call) -> Response:
    """Say how tasks have ended. It may be repeated."""
    body: Settle = call.body
    worker = _known(site, call)
    name, now = worker.options.name, site.app.clock.now()
    held = await worker.find(_distinct([one.token for one in body.settlements]))
    endings, answered = [], dict.fromkeys((one.token for one in body.settlements), False)
    taken = set()
    for one in body.settlements:
        if one.token in held and one.token not in taken:
            delivery = held[one.token].delivery
            if one.state == "PROGRESS":
                answered[one.token] = True
                if not delivery.message.ignore_result:
                    _gateway(site).settler.reported(state_of(name, delivery.message, one, now))
            else:
                taken.add(one.token)
                endings.append(ending_of(site.app, name, delivery, one, now))
    # A worker is told the truth, and so is its client, whether or not it still listens.
    answered |= await asyncio.shield(asyncio.ensure_future(worker.settle(endings)))
    for token in answered:
        answered[token] = answered[token] or worker.was_settled(token)
    stale = [token for token, good in answered.items() if not good]
    if stale:
        answered |= await _ended_here(site, name, stale)
    return json_answer({"settlements": [{"token": one.token, "accepted": answered[one.token]}
                                        for one in body.settlements]})  # fmt: skip


@ENDPOINTS.add("POST", "/leases/{lease}/renew", WORK, {200: Heartbeat}, body=Holds,
               problems=("unknown-lease", "unknown-queue"))  # fmt: skip
async def _renew(site: Site, call: Call) -> Response:
    """Renew the claim on all that the worker holds, and learn what to stop."""
    renewed = await _known(site, call).renew(_distinct(call.body.holds))
    return json_answer(msgspec.structs.asdict(renewed))


@ENDPOINTS.add("DELETE", "/leases/{lease}", WORK, {204: None}, problems=("unknown-lease", "unknown-queue"))
async def _end(site: Site, call: Call) -> Response:
    """End a lease. What it holds and was not settled runs again."""
    worker = _known(site, call)
    await asyncio.shield(asyncio.ensure_future(worker.end()))
    _gateway(site).workers.pop(call.path["lease"], None)
    return Response(status_code=HTTPStatus.NO_CONTENT)


# --- Workers ------------------------------------------------------------------------------------------


def _gateway(site: Site) -> Gateway:
    """Return the gateway of this process; make it if there is none."""
    if site.gateway is None or (site.gateway.has_ended and not site.stopping.is_set()):
        site.gateway = Gateway(site.app)
        site.gateway.start(site.stopping)
    return site.gateway


def _worker(site: Site, call: Call, id: str, entered: Enter) -> RemoteWorker:
    """Return a remote worker, whether or not this process has heard of it. Raises a `Problem`."""
    for queue in entered.queues:
        if not call.user.may_work(queue):
            raise Problem("scope", f"{call.user.name} may not receive from {queue}.", needed=f"{WORK}:{queue}")
    gateway = _gateway(site)
    if id not in gateway.workers and len(gateway.workers) >= MOST_LEASES:
        raise Problem("too-many", f"{MOST_LEASES} leases are open here, which is the most. Let each worker run more "
                      "tasks at a time, or start another server.", headers={"Retry-After": "5"})  # fmt: skip
    seconds = entered.lease_seconds if entered.lease_seconds is not None else site.app.conf.worker_lease_seconds
    registration = Registration(name=entered.name, queues=tuple(entered.queues), tasks=tuple(entered.tasks),
                                lease_seconds=seconds, host=entered.host, pid=entered.pid)  # fmt: skip
    return gateway.worker(id, registration)


def _known(site: Site, call: Call) -> RemoteWorker:
    """Return the remote worker of a request. Raises a `Problem`."""
    id = call.path["lease"]
    entered = _entered(id)
    for queue in entered.queues:
        site.app.check_queue(queue)
    return _worker(site, call, id, entered)


def _lease_id(entered: Enter) -> str:
    """Return an id that nobody else has, and that says what the worker has said."""
    said = zlib.compress(msgspec.json.encode(entered), 9)
    return f"{os.urandom(9).hex()}.{urlsafe_b64encode(said).decode().rstrip('=')}"


def _entered(id: str) -> Enter:
    """Return what the worker of a lease has said. Raises a `Problem`."""
    try:
        if len(id) > LONGEST_ID:
            raise ValueError("it is too long")
        said = id.partition(".")[2]
        unpacked = zlib.decompressobj().decompress(urlsafe_b64decode(said + "=" * (-len(said) % 4)), LARGEST_ID)
        return msgspec.json.decode(unpacked, type=Enter)
    except (ValueError, zlib.error, RecursionError):
        raise Problem("unknown-lease", f"This app has granted no such lease. POST {API}/leases grants one.") from None


# --- Deliveries ---------------------------------------------------------------------------------------


def _distinct(tokens: list[str]) -> list[str]:
    return list(dict.fromkeys(tokens))


def _fitting(received: Received, most: int) -> tuple[dict[str, Delivery], dict[str, Delivery]]:
    """Return the deliveries that one answer may have, at least one, and those that would make it too large."""
    fitting: dict[str, Delivery] = {}
    rest: dict[str, Delivery] = {}
    size = 0
    for token, delivery in received.deliveries.items():
        size += len(delivery.message.body)
        (fitting if not fitting or size <= most else rest)[token] = delivery
    return fitting, rest


async def _ended_here(site: Site, worker: str, tokens: list[str]) -> dict[str, bool]:
    """Return, by token, whether the outcome that is stored is this worker's: the answer to an earlier request was lost.

    Only final outcomes tell. Nothing is known of others, nor while the result backend is away.
    """
    ids = {token: message_of(token) for token in tokens}
    wanted = sorted({id for id in ids.values() if id is not None})
    try:
        found = await site.app.backend.afetch(wanted) if wanted else {}
    except BackendError:
        return {}
    return {token: True for token, id in ids.items()
            if id in found and found[id].ready and found[id].worker == worker}  # fmt: skip
