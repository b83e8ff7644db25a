"""Workers and their orders; schedules."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from celeriac.beat.info import ScheduleInfo
from celeriac.documents import answers_document, instant, schedule_document
from celeriac.errors import nearest
from celeriac.inspector import Inspector
from celeriac.ports.operations import WorkerInfo, labelled
from celeriac.web.answers.schedules import Schedule, SentByEntry
from celeriac.web.answers.workers import Orders, Worker
from celeriac.web.endpoints import Call, Endpoints, json_answer
from celeriac.web.problems import Problem
from celeriac.web.shapes import Order, Page, Paused
from celeriac.web.site import Site

__all__ = ["ENDPOINTS"]

ENDPOINTS = Endpoints()
LOOKS = frozenset({"ping", "stats", "active", "reserved", "registered"})
"""Orders that change nothing."""


@ENDPOINTS.add("GET", "/workers", "workers:read", {200: list[Worker]})
async def _list(site: Site, call: Call) -> Response:
    """List the workers that run."""
    workers = labelled(await site.read(site.inspector.workers()))
    return json_answer([_document(label, worker) for label, worker in workers.items()])


@ENDPOINTS.add("GET", "/workers/{worker}", "workers:read", {200: dict[str, Any]}, problems=("unknown-worker",))
async def _show(site: Site, call: Call) -> Response:
    """Show a worker, with its own statistics and what it is running."""
    found = {label: worker for label, worker in labelled(await site.read(site.inspector.workers())).items()
             if call.path["worker"] in (label, worker.name)}  # fmt: skip
    if not found:
        raise await _unknown(site, call.path["worker"])
    label, worker = next(iter(found.items()))
    asked = Inspector(site.app, [worker.name])
    stats, active = await asked.stats(), await asked.active()
    return json_answer({**_document(label, worker), "stats": msgspec.to_builtins(stats.values.get(label)),
                        "active": msgspec.to_builtins(active.values.get(label)),
                        "silent": label in stats.silent})  # fmt: skip


@ENDPOINTS.add("POST", "/workers/{worker}/orders", "workers:read", {200: Orders}, body=Order,
               problems=("unknown-worker",), audit=lambda call: call.body.order not in LOOKS)  # fmt: skip
async def _order(site: Site, call: Call) -> Response:
    """Send a control command to a worker. Those that change something need the scope workers:control."""
    body: Order = call.body
    if body.order not in LOOKS and not call.may("workers:control"):
        raise Problem("scope", f"{call.user.name} may not give the order {body.order}.", needed="workers:control")
    name = call.path["worker"]
    answers = await Inspector(site.app, [name]).order(body.order, body.arguments)
    if name in answers.unknown:
        raise await _unknown(site, name)
    if answers.errors and not answers.values:
        detail = "; ".join(answers.errors.values())
        raise Problem("bad-body", detail, errors=[{"pointer": "", "detail": detail}])
    return json_answer(answers_document(answers))


def _document(label: str, worker: WorkerInfo) -> dict[str, Any]:
    return {
        "name": label,
        "host": worker.host,
        "pid": worker.pid,
        "started_at": instant(worker.started_at),
        "queues": worker.queues,
        "concurrency": dict(worker.concurrency),
        "version": worker.version,
        "renewed_at": instant(worker.renewed_at),
        "expires_at": instant(worker.expires_at),
    }


async def _unknown(site: Site, name: str) -> Problem:
    known = [worker.name for worker in await site.read(site.inspector.workers())]
    return Problem("unknown-worker", f"No worker named {name!r} is running.{nearest(name, known)}")


# --- Schedules ----------------------------------------------------------------------------------------


@ENDPOINTS.add("GET", "/schedules", "schedules:read", {200: list[Schedule]}, query=Page)
async def _schedules(site: Site, call: Call) -> Response:
    """List schedules, sorted by name."""
    found = await site.read(site.app.schedules.alist(call.query.after, call.query.limit))
    return json_answer([schedule_document(info, site.app) for info in found])


@ENDPOINTS.add("POST", "/schedules/{name:path}/run", "schedules:write", {202: SentByEntry},
               problems=("unknown-schedule",))  # fmt: skip
async def _run(site: Site, call: Call) -> Response:
    """Send what a schedule sends, now, besides its ticks."""
    id = await site.read(site.app.schedules.arun(call.path["name"]))
    return json_answer({"name": call.path["name"], "id": id}, HTTPStatus.ACCEPTED)


@ENDPOINTS.add("GET", "/schedules/{name:path}", "schedules:read", {200: Schedule}, problems=("unknown-schedule",))
async def _schedule(site: Site, call: Call) -> Response:
    """Show a schedule."""
    return json_answer(schedule_document(await _entry(site, call), site.app))


@ENDPOINTS.add("PATCH", "/schedules/{name:path}", "schedules:write", {200: Schedule}, body=Paused,
               problems=("unknown-schedule",))  # fmt: skip
async def _pause(site: Site, call: Call) -> Response:
    """Pause a schedule, or resume it: its ticks then begin at that time."""
    schedules = site.app.schedules
    act = schedules.apause if call.body.paused else schedules.aresume
    await site.read(act(call.path["name"]))
    return json_answer(schedule_document(await _entry(site, call), site.app))


async def _entry(site: Site, call: Call) -> ScheduleInfo:
    return await site.read(site.app.schedules.aget(call.path["name"]))
