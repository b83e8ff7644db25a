"""Bulk actions: on all tasks that a filter means, counted before, with a few that go first, and a stop.

A job runs in this process, beside requests: it needs no worker, since workers that do not work are a reason for bulk
actions. It acts in steps of at most 1,000 tasks. Its start, how far it is (every few seconds) and its end are events of
the history, from which any server tells how far it is, and stops it. A job whose server was killed is `interrupted`:
nothing that it had not done is done, and the same request with the same `before` does the rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from starlette.responses import Response

from celeriac.documents import instant
from celeriac.errors import CeleriacError
from celeriac.inspector.audit import BULK_ENDED, BULK_PROGRESS, BULK_STARTED, BULK_STOP
from celeriac.inspector.bulk import ACTIONS, STEP, Action, Bulk
from celeriac.inspector.selecting import Bound, Cut, Matched
from celeriac.model.filters import Filter
from celeriac.model.history import Event
from celeriac.model.message import made_at, new_id
from celeriac.ports.abilities import Ability
from celeriac.states import FAILURE, REVOKED
from celeriac.web import shapes
from celeriac.web.answers.bulk import BulkCount, BulkState
from celeriac.web.endpoints import Call, Endpoints, json_answer, link
from celeriac.web.history import filter_of
from celeriac.web.problems import Problem, problem_of
from celeriac.web.scopes import User
from celeriac.web.site import API, Site

__all__ = ["AGAIN", "ENDPOINTS", "RUNNING", "Asked", "asked_for", "begun", "bulk_action", "stopped"]

log = logging.getLogger("celeriac.web")

ENDPOINTS = Endpoints()
MOST_JOBS: Final = 5  # that run at once
KEPT: Final = 100  # jobs that this process remembers
PROGRESS_SECONDS: Final = 5.0  # between two events that say how far a job is, and looks for a stop
SILENT_SECONDS: Final = 60.0  # after which a job of another server counts as interrupted
LOOK_BACK: Final = 3600.0  # before the id of a job was made: clocks of servers differ
WATCH_SECONDS: Final = 1.0  # for one wait for the ends of those that go first
AGAIN: Final = "What it has not done was not done: send the same request again, with the same `before`, to do the rest."
KINDS: Final = (BULK_STARTED, BULK_PROGRESS, BULK_ENDED)
MOST: Final = Bound()  # one action does no more
RUNNING: Final = ("counting", "canary", "running")


@ENDPOINTS.add("POST", "/bulk", "tasks:read", {200: BulkCount, 202: BulkState}, body=shapes.Bulk,
               problems=("unknown-queue",), audit=lambda call: False)  # fmt: skip
async def _start(site: Site, call: Call) -> Response:
    """Act on all tasks that a filter means, or on some by their ids; with `dry_run`, count them."""
    asked = await asked_for(site, call.user, call.body)  # the job writes down who did it
    if call.body.dry_run:
        matched = await asked.matched(site)
        return json_answer({"matched": len(matched.ids), "of": "exact" if matched.is_all else "at least",
                            "before": asked.bulk.cut.id})  # fmt: skip
    document = await begun(site, asked)
    address = link(call.request, f"{API}/bulk/{document['bulk']}")
    return json_answer(document, HTTPStatus.ACCEPTED, {"Location": address})


@ENDPOINTS.add("GET", "/bulk/{id}", "tasks:read", {200: BulkState}, problems=("unknown-bulk",))
async def _show(site: Site, call: Call) -> Response:
    """Show how far a bulk action is."""
    return json_answer(await bulk_action(site, call.path["id"]))


@ENDPOINTS.add("DELETE", "/bulk/{id}", "tasks:read", {202: BulkState}, problems=("unknown-bulk",),
               audit=lambda call: False)  # fmt: skip
async def _stop(site: Site, call: Call) -> Response:
    """Stop a bulk action after the step that it is at. What it has done is not undone."""
    return json_answer(await stopped(site, call.user, call.path["id"]), HTTPStatus.ACCEPTED)


# --- What front ends ask for --------------------------------------------------------------------------


class Asked(NamedTuple):
    """A bulk action that is asked for, and may be done."""

    bulk: Bulk
    body: shapes.Bulk
    chosen: Filter | None  # None: those with the ids of the body

    async def matched(self, site: Site, bound: Bound | None = None) -> Matched:
        """Return what it means, as far as the bound, or else as one action does. Raises a `Problem`."""
        if self.chosen is None:
            return Matched(list(dict.fromkeys(self.body.ids or ())), True)
        try:
            return await site.read(self.bulk.select(self.chosen, bound or MOST))
        except ValueError as error:
            raise _bad("/filter", str(error)) from None


async def asked_for(site: Site, user: User, body: shapes.Bulk) -> Asked:
    """Return the action that a user asks for. Raises a `Problem` if they may not, or the request contradicts itself."""
    action = ACTIONS[body.action]
    _check_scope(user, action)
    if (body.filter is None) == (body.ids is None):
        raise _bad("", "Give either `filter` or `ids`. An empty filter means all.")
    if action.needs is not None and not site.app.broker.can(action.needs):
        raise Problem("not-supported", f"{action.name} needs a broker that {action.needs.value}: this one does not.")
    if body.canary is not None and not action.runs:
        raise _bad("/canary", f"{action.name} runs no task, so none can go first.")
    if body.canary is not None and not site.app.backend.can(Ability.KEEP_OUTCOMES):
        raise Problem("not-supported", "The result backend does not keep how tasks end, so none can go first.")
    if (body.queue is None) is (body.action == "move") or (body.queue and body.action not in ("move", "retry")):
        raise _bad("/queue", "move needs a queue, retry takes one, and the others take none.")
    if body.queue is not None:
        await site.read(site.inspector.check_queues([body.queue]))
    before = body.before or new_id()
    at = made_at(before)
    if at is None:
        raise _bad("/before", f"{before!r} is not an id that tells a time: take `before` of a dry run, or an id that "
                   "Celeriac has made.")  # fmt: skip
    return Asked(Bulk(site.app, action, Cut(before, at + 0.001), user.name, body.queue), body, _chosen(site, body))


async def begun(site: Site, asked: Asked) -> dict[str, Any]:
    """Let an action begin, and return its document. Raises a `Problem` if too many are running."""
    if sum(job.state in RUNNING for job in site.jobs.values()) >= MOST_JOBS:
        raise Problem("too-many", f"{MOST_JOBS} bulk actions are running, which is the most. Wait for one, or stop it.",
                      headers={"Retry-After": "5"})  # fmt: skip
    job = _Job(site, asked)
    await job.begin()
    return job.document()


async def stopped(site: Site, user: User, id: str) -> dict[str, Any]:
    """Let an action stop after the step that it is at, and return its document. Raises a `Problem`."""
    found = await bulk_action(site, id)
    _check_scope(user, ACTIONS[found["action"]])
    if found["state"] in RUNNING:
        why = f"{user.name} stopped it."
        if id in site.jobs:
            site.jobs[id].stop(why)
        await _write(site, Event(at=site.app.clock.now(), kind=BULK_STOP, id=id, by=user.name, text=why))
    return await bulk_action(site, id)


def _check_scope(user: User, action: Action) -> None:
    if not user.may(action.scope):
        raise Problem("scope", f"{user.name} may not {action.name} tasks.", needed=action.scope)


def _chosen(site: Site, body: shapes.Bulk) -> Filter | None:
    if body.filter is None:
        return None
    try:
        return filter_of(site, body.filter)
    except Problem as problem:
        raise _bad("/filter", problem.detail.removeprefix("q: ")) from None


def _bad(pointer: str, detail: str) -> Problem:
    return Problem("bad-body", f"{pointer or 'The body'}: {detail}", errors=[{"pointer": pointer, "detail": detail}])


# --- Jobs ---------------------------------------------------------------------------------------------


class _Job:
    """A bulk action that runs."""

    def __init__(self, site: Site, asked: Asked) -> None:
        self.id = new_id()
        self.state = "counting"
        self._site = site
        self._asked = asked
        self._bulk = asked.bulk
        self._matched: int | None = None
        self._more = False
        self._done = 0
        self._reasons: Counter[str] = Counter()
        self._canary: dict[str, int] | None = None
        self._why: str | None = None
        self._started_at = self._updated_at = site.app.clock.now()
        self._written = time.monotonic()
        self._stopped = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def document(self) -> dict[str, Any]:
        """Return how far it is as plain data."""
        return {
            "bulk": self.id,
            "action": self._bulk.action.name,
            "filter": self._asked.body.filter,
            "before": self._bulk.cut.id,
            "by": self._bulk.by,
            "state": self.state,
            "matched": self._matched,
            "more": self._more,
            "done": self._done,
            "refused": self._reasons.total(),
            "reasons": dict(self._reasons.most_common(10)),
            "why": self._why,
            "canary": self._canary,
            "started_at": instant(self._started_at),
            "updated_at": instant(self._updated_at),
        }

    async def begin(self) -> None:
        """Write down that it begins, and let it run."""
        jobs = self._site.jobs
        for old in [id for id, job in jobs.items() if job.state not in RUNNING][: max(0, len(jobs) - KEPT)]:
            del jobs[old]
        jobs[self.id] = self
        await self._note(BULK_STARTED)
        self._task = asyncio.ensure_future(self._run())

    def stop(self, why: str) -> None:
        """Stop after the step that it is at."""
        self._why = why
        self._stopped.set()

    async def _run(self) -> None:
        try:
            await self._act()
            self.state = "stopped" if self._stopped.is_set() else "done"
        except asyncio.CancelledError:
            self.state, self._why = "interrupted", f"The server was stopped. {AGAIN}"
            raise
        except Exception as error:
            problem = problem_of(error)
            self.state, self._why = "failed", f"{problem.detail} {AGAIN}"
            if not isinstance(error, CeleriacError | Problem):
                log.exception("The bulk action %s has failed", self.id)
        finally:
            if self._site.stopping.is_set() and self.state == "stopped":
                self.state = "interrupted"
            await self._note(BULK_ENDED)

    async def _act(self) -> None:
        matched = await self._asked.matched(self._site)
        ids: list[str] = matched.ids
        self._matched, self._more = len(ids), not matched.is_all
        canary = self._asked.body.canary
        if canary is not None:
            self.state = "canary"
            ids = await self._first(ids, canary)
        if not self._is_over():
            self.state = "running"
        for start in range(0, len(ids), STEP):
            if self._is_over():
                return
            await self._step(ids[start : start + STEP])
            await self._tell()

    async def _first(self, ids: Sequence[str], canary: shapes.Canary) -> list[str]:
        """Act on the first, one by one to know which were not refused, and watch them; return the others."""
        left, first = list(reversed(ids)), list[str]()
        while left and len(first) < canary.count and not self._is_over():
            id = left.pop()
            if await self._step([id]):
                first.append(id)
            self._canary = {"count": len(first), "ended": 0, "failed": 0}
            await self._tell()
        if left and not self._is_over():
            await self._watch(first, canary)
        return left[::-1]

    async def _step(self, ids: Sequence[str]) -> int:
        done = await self._site.read(self._bulk.step(ids))
        self._done += done.number
        self._reasons += done.refused
        self._updated_at = self._site.app.clock.now()
        self._site.changed()
        return done.number

    async def _watch(self, ids: Sequence[str], canary: shapes.Canary) -> None:
        """Wait for the ends of those that went first, and stop if too many of them have failed."""
        ended: dict[str, str] = {}
        deadline = time.monotonic() + canary.seconds
        most = canary.max_failed * len(ids)
        while len(ended) < len(ids) and not self._is_over():
            pending = [id for id in ids if id not in ended]
            found = await self._site.app.backend.afetch(pending, WATCH_SECONDS)
            ended |= {id: outcome.state for id, outcome in found.items() if outcome.ready}
            failed = sum(state in (FAILURE, REVOKED) for state in ended.values())
            self._canary = {"count": len(ids), "ended": len(ended), "failed": failed}
            if failed > most:
                self.stop(f"{failed} of the first {len(ids)} have failed, and {canary.max_failed:.0%} may. {AGAIN}")
            elif time.monotonic() > deadline and len(ended) < len(ids):
                late = len(ids) - len(ended)
                self.stop(f"{late} of the first {len(ids)} have not ended within {canary.seconds:g} s. {AGAIN}")
            await self._tell()

    def _is_over(self) -> bool:
        if self._site.stopping.is_set() and not self._stopped.is_set():
            self.stop(f"The server was stopped. {AGAIN}")
        return self._stopped.is_set()

    async def _tell(self) -> None:
        """Write down how far it is, every few seconds, and see whether another server was asked to stop it."""
        if time.monotonic() - self._written < PROGRESS_SECONDS:
            return
        await self._note(BULK_PROGRESS)
        for event in await _events(self._site, self.id, (BULK_STOP,)):
            self.stop(event.text)

    async def _note(self, kind: str) -> None:
        self._written = time.monotonic()
        now = self._site.app.clock.now()
        await _write(self._site, Event(at=now, kind=kind, id=self.id, by=self._bulk.by, data=self.document()))


# --- What the history knows of them -------------------------------------------------------------------


async def bulk_action(site: Site, id: str) -> dict[str, Any]:
    """Return how far a bulk action is: one of this server, or what another has written down. Raises a `Problem`."""
    job = site.jobs.get(id)
    if job is not None:
        document: dict[str, Any] = job.document()
        return document
    events = await _events(site, id, KINDS)
    if not events:
        raise Problem("unknown-bulk", f"Nothing is known of a bulk action {id}. Without a history, only the server "
                      "that runs one knows it.")  # fmt: skip
    last = max(events, key=lambda event: (event.kind == BULK_ENDED, event.at))
    document = last.data
    if document["state"] in RUNNING and site.app.clock.now() - last.at > SILENT_SECONDS:
        document |= {"state": "interrupted", "why": f"Its server was killed, or cannot be reached. {AGAIN}"}
    return document


async def _events(site: Site, id: str, kinds: Sequence[str]) -> list[Event]:
    history, at = site.app.history, made_at(id)
    if history is None or at is None:
        return []
    return await site.read(history.events(kinds, at - LOOK_BACK, 10_000, id))


async def _write(site: Site, event: Event) -> None:
    """Write an event into the history. It is best effort: what was done is not undone because of it."""
    log.info("%s: %s %s", event.by, event.kind, event.id)
    if site.app.history is None:
        return
    try:
        await site.read(site.app.history.audit(event))
    except CeleriacError as error:
        log.warning("The bulk action %s is missing in the audit: %s", event.id, error)
