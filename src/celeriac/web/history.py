"""What the history knows: tasks that are searched for, their timelines, failures by signature, counts by time.

The documents are those of `celeriac tasks --json` and `celeriac stats --json`.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from starlette.responses import Response

from celeriac.documents import (
    attempt_document,
    failure_document,
    instant,
    page_document,
    point_document,
    rows_of,
    timeline_document,
)
from celeriac.model.filters import Filter, duration_of, instant_of, parse_filter
from celeriac.model.history import SLOT, FailureSignature
from celeriac.ports.history import MOST_POINTS, History
from celeriac.web.answers.history import Series, Signature, Timeline
from celeriac.web.endpoints import Call, Endpoints, json_answer
from celeriac.web.problems import Problem
from celeriac.web.shapes import FailuresQuery, SeriesQuery, Status
from celeriac.web.site import Site

__all__ = ["ENDPOINTS", "filter_of", "history_of", "instant_given", "searched"]

ENDPOINTS = Endpoints()
HOUR = 3600.0
LATEST_INSTANT = 32_503_680_000.0  # the year 3000
LATEST = 10  # attempts that are shown of a failure signature


def history_of(site: Site) -> History:
    """Return the history of the app. Raises a `Problem` if it keeps none."""
    history = site.app.history
    if history is None:
        why = ("the setting `history` is 'off'" if site.app.conf.history == "off"
               else "its result backend keeps none. Set `history_url`, as in sqlite:///history.db")  # fmt: skip
        raise Problem("not-supported", f"This app keeps no history: {why}.")
    return history


def filter_of(site: Site, text: str, parameter: str = "q") -> Filter:
    """Return the filter that a text describes. Raises a `Problem` that says what is wrong."""
    try:
        return parse_filter(text, site.app.clock.now())
    except ValueError as error:
        raise Problem("bad-query", f"{parameter}: {error}", parameter=parameter) from None


def instant_given(site: Site, text: str, parameter: str) -> float:
    """Return the instant that a parameter gives. Raises a `Problem`."""
    try:
        return instant_of(text, site.app.clock.now())
    except (ValueError, OverflowError) as error:
        raise Problem("bad-query", f"{parameter}: {error}", parameter=parameter) from None


async def _read(site: Site, work: Any) -> Any:
    """Return what a question to the history gives. Raises a `Problem` for one that it cannot answer."""
    try:
        return await site.read(work)
    except ValueError as error:
        raise Problem("bad-query", str(error), parameter="q") from None


async def searched(site: Site, call: Call) -> Response:
    """Answer with a page of what a filter means."""
    if not call.may("tasks:read"):
        raise Problem("scope", f"{call.user.name} may not search tasks.", needed="tasks:read")
    chosen = filter_of(site, call.query.q)
    page = await _read(site, history_of(site).search(chosen, call.query.limit, call.query.cursor))
    return json_answer(page_document(page))


@ENDPOINTS.add("GET", "/tasks/{id}/timeline", "tasks:read", {200: Timeline}, problems=("unknown-id",))
async def _timeline(site: Site, call: Call) -> Response:
    """Show each attempt of a task that the history has kept, and what operators did about it."""
    id = call.path["id"]
    timeline = await site.read(history_of(site).timeline(id))
    if not timeline.attempts and not timeline.events:
        await site.view(id)  # raises if nothing is known of it
    return json_answer(timeline_document(id, timeline, call.may("results:traceback")))


# --- Failures by signature ----------------------------------------------------------------------------


@ENDPOINTS.add("GET", "/failures", "tasks:read", {200: list[Signature]}, query=FailuresQuery)
async def _failures(site: Site, call: Call) -> Response:
    """Group failures by what causes them, the latest first."""
    query: FailuresQuery = call.query
    known = await _read(site, history_of(site).signatures(filter_of(site, query.q), query.status, query.limit))
    return json_answer([failure_document(one) for one in known])


@ENDPOINTS.add("GET", "/failures/{signature}", "tasks:read", {200: Signature}, problems=("unknown-signature",))
async def _failure(site: Site, call: Call) -> Response:
    """Show a failure signature, with the latest attempts that failed so."""
    one = await _signature(site, call.path["signature"])
    page = await site.read(history_of(site).search(Filter(signatures=(one.signature,)), LATEST))
    traceback = call.may("results:traceback")
    return json_answer({**failure_document(one), "attempts": [attempt_document(row, traceback) for row in page.rows]})


@ENDPOINTS.add("PATCH", "/failures/{signature}", "dead:write", {200: Signature}, body=Status,
               problems=("unknown-signature",))  # fmt: skip
async def _mark(site: Site, call: Call) -> Response:
    """Note that the failures of a signature are resolved or muted, or open again."""
    signature = call.path["signature"]
    history, now = history_of(site), site.app.clock.now()
    if not await site.read(history.mark(signature, call.body.status, call.user.name, now)):
        raise _unknown(signature)
    return json_answer(failure_document(await _signature(site, signature)))


async def _signature(site: Site, signature: str) -> FailureSignature:
    known = await site.read(history_of(site).signatures(Filter(signatures=(signature,)), None, 1))
    if not known:
        raise _unknown(signature)
    return known[0]


def _unknown(signature: str) -> Problem:
    return Problem("unknown-signature", f"There is no failure signature {signature!r}. GET /api/v1/failures has all.")


# --- Counts by time -----------------------------------------------------------------------------------


@ENDPOINTS.add("GET", "/stats/series", "stats:read", {200: Series}, query=SeriesQuery)
async def _series(site: Site, call: Call) -> Response:
    """Count what ended, by steps of time: how many by state, and how long they ran and waited."""
    query: SeriesQuery = call.query
    chosen, now = filter_of(site, query.q), site.app.clock.now()
    if query.task is not None:
        chosen = replace(chosen, tasks=(query.task,))
    if query.queue is not None:
        chosen = replace(chosen, queues=(query.queue,))
    until = instant_given(site, query.until, "until") if query.until else chosen.until or now
    since = instant_given(site, query.since, "since") if query.since else chosen.since or until - HOUR
    since, until = max(0.0, since), min(until, LATEST_INSTANT)
    try:
        step = max(SLOT, int(duration_of(query.step)))
    except ValueError as error:
        raise Problem("bad-query", f"step: {error}", parameter="step") from None
    if (until - since) / step > MOST_POINTS:
        raise Problem("bad-query", f"step: these are more than {MOST_POINTS:,} steps. Choose a longer one.",
                      parameter="step")  # fmt: skip
    by = query.by or ""
    divided = ("task", "state", "error") if by == "error" else (by, "state") if by else ("state",)
    points = await _read(site, history_of(site).series(since, until, step, chosen, divided))
    return json_answer({"since": instant(since), "until": instant(until), "step": step,
                        "points": [point_document(*row, by) for row in rows_of(points, by, True)]})  # fmt: skip
