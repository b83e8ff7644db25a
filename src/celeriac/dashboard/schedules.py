"""Schedules: what is sent when, in words and as the next times; whether it was sent in time, and how that ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from markupsafe import Markup

from celeriac.beat.info import ScheduleInfo
from celeriac.beat.schedules import PreviousTick
from celeriac.dashboard.calls import call_text
from celeriac.dashboard.marks import Run, run_dots
from celeriac.dashboard.pages import Context, Done, Entry, Pages
from celeriac.dashboard.view import View, segment
from celeriac.dashboard.wording import duration
from celeriac.errors import ImproperlyConfigured
from celeriac.model.outcome import Outcome
from celeriac.states import FAILURE, IGNORED, PENDING, REVOKED, SUCCESS

__all__ = ["PAGES"]

PAGES: Final = Pages()

PAGE: Final = 50
LATE_SECONDS: Final = 10.0  # only a missing scheduler makes an entry so late
RUNS: Final = 12  # dots
LISTED_RUNS: Final = 20
NEXT: Final = 5
LONGEST_CALL: Final = 2_000  # characters
TONES: Final = {"active": "success", "paused": "pending", "over": "ignored", "problem": "failure"}
WORDS: Final = {SUCCESS: "succeeded", FAILURE: "failed", REVOKED: "was revoked", IGNORED: "was ignored"}


class _Told(NamedTuple):
    """A tick that came, as it is told."""

    at: float
    state: str
    text: str
    ids: Sequence[str]
    runtime: float | None


# --- The list -----------------------------------------------------------------------------------------


@PAGES.page("schedules", "/schedules", "schedules:read", "Schedules", entry=Entry(70, "p"))
async def _schedules(view: View) -> Context:
    return {}


@PAGES.fragment("schedules", "list", ("schedules",), shared=True)
async def _list(view: View) -> Context:
    schedules, after = view.app.schedules, view.query.get("after", "")
    found = await view.site.read(schedules.alist(after, PAGE + 1))
    infos = list(found[:PAGE])
    told = {info.name: await _told(view, info, RUNS) for info in infos}
    return {
        "rows": [(info, _state(view, info), _dots(view, told[info.name])) for info in infos],
        "late": [info for info in infos if _lateness(view, info)],
        "first": view.with_query(after=None) if after else None,
        "next": view.with_query(after=infos[-1].name) if len(found) > PAGE else None,
    }


def _lateness(view: View, info: ScheduleInfo) -> float:
    """Return by how many seconds an entry is overdue; 0 if it is in time."""
    late = view.now - info.next_at.timestamp() if info.next_at is not None else 0.0
    return late if late > LATE_SECONDS else 0.0


def _state(view: View, info: ScheduleInfo) -> Markup:
    late = _lateness(view, info)
    tone, text = ("failure", f"late by {duration(late)}") if late else (TONES[info.state], info.state)
    return Markup('<span class="state {}">{}</span>').format(tone, text.capitalize())


async def _told(view: View, info: ScheduleInfo, count: int) -> list[_Told]:
    """Return the ticks that came, the latest first, and how they ended."""
    if info.problem and not info.words:
        return []  # it cannot be read
    ticks: Sequence[PreviousTick] = await view.site.read(view.app.schedules.aprevious(info.name, count))
    ids = [id for tick in ticks for id in tick.ids]
    outcomes: dict[str, Outcome] = {}
    if ids and not view.app.sends_outcomes:
        outcomes = await view.site.read(view.app.backend.afetch(ids))
    return [_tick(view, tick, info, outcomes) for tick in ticks]


def _tick(view: View, tick: PreviousTick, info: ScheduleInfo, outcomes: dict[str, Outcome]) -> _Told:
    ended = [outcomes[id] for id in tick.ids if id in outcomes and outcomes[id].ready]
    at = tick.at.timestamp()
    time = _local(tick.at, info.timezone)
    if len(ended) < len(tick.ids):
        is_latest = info.last_at is not None and tick.at == info.last_at
        known = [outcomes[id].state for id in tick.ids if id in outcomes]
        if known or (is_latest and view.now - at < (view.app.conf.result_expires or math.inf)):
            return _Told(at, known[0] if known else PENDING, f"{time}: has not ended", tick.ids, None)
        return _Told(at, "", f"{time}: left out, or its result has expired", tick.ids, None)
    worst = next((one for one in ended if one.state != SUCCESS), ended[-1])
    took = max(one.runtime for one in ended)
    return _Told(at, worst.state, f"{time}: {WORDS[worst.state]} after {duration(took)}", tick.ids, took)


def _dots(view: View, told: Sequence[_Told]) -> Markup:
    runs = [Run(one.state, one.text, view.url(f"/tasks/{segment(one.ids[-1])}") if one.state and one.ids else None)
            for one in reversed(told)]  # fmt: skip
    return run_dots(runs, "Last runs, the latest at the end")


def _local(at: datetime, timezone: str) -> str:
    return f"{at.astimezone(ZoneInfo(timezone)):%a %-d %b %H:%M:%S}"


# --- One schedule -------------------------------------------------------------------------------------


@PAGES.page("schedule", "/schedules/{name:path}", "schedules:read", "Schedule", under="schedules")
async def _schedule(view: View) -> Context:
    info = await view.site.read(view.app.schedules.aget(view.path["name"]))
    return {"title": info.name, "info": info}


@PAGES.fragment("schedule", "facts", ("schedules",), shared=True)
async def _facts(view: View) -> Context:
    name = view.path["name"]
    info = await view.site.read(view.app.schedules.aget(name))
    coming: Sequence[datetime] = ()
    if info.words:
        coming = await view.site.read(view.app.schedules.anext(name, NEXT))
    zone = ZoneInfo(info.timezone)
    told = await _told(view, info, LISTED_RUNS)
    return {
        "info": info,
        "state": _state(view, info),
        "late": _lateness(view, info),
        "coming": [_coming(at, zone) for at in coming],
        "told": told,
        "dots": _dots(view, told[:RUNS]),
        "calls": [(message, call_text(message, view.app, LONGEST_CALL)) for message in info.messages],
        "urls": {one.ids[-1]: view.url(f"/tasks/{segment(one.ids[-1])}") for one in told if one.ids},
    }  # fmt: skip


def _coming(at: datetime, zone: ZoneInfo) -> tuple[float, str, str]:
    """Return a time to come, in the zone; its offset from UTC tells when the clocks change."""
    local = at.astimezone(zone)
    offset = f"{local:%z}"
    return at.timestamp(), f"{local:%A, %-d %B %Y, %H:%M:%S}", f"{offset[:3]}:{offset[3:5]}"


# --- What can be done ---------------------------------------------------------------------------------


@PAGES.action("/schedules/{name:path}/run", "schedules:write")
async def _run(view: View) -> Done:
    """Run a schedule now."""
    id = await view.site.read(view.app.schedules.arun(view.path["name"]))
    view.site.changed()
    return Done(f"Sent, besides its ticks. The id is {id}.")


@PAGES.action("/schedules/{name:path}/pause", "schedules:write")
async def _pause(view: View) -> str:
    """Pause a schedule."""
    await view.site.read(view.app.schedules.apause(view.path["name"]))
    return "Paused. What comes meanwhile is left out."


@PAGES.action("/schedules/{name:path}/resume", "schedules:write")
async def _resume(view: View) -> str:
    """Resume a schedule."""
    await view.site.read(view.app.schedules.aresume(view.path["name"]))
    return "Resumed: it is sent from now on."


@PAGES.action("/schedules/{name:path}/remove", "schedules:write")
async def _remove(view: View) -> Done:
    """Remove a schedule."""
    name = view.path["name"]
    try:
        declared = (await view.site.read(view.app.schedules.aget(name))).origin == "code"
    except ImproperlyConfigured:
        declared = False
    await view.site.read(view.app.schedules.aremove(name))
    if declared:
        return Done(f"{name} is removed. The app's code declares it: the next scheduler that starts adds it again.",
                    view.url("/schedules"), "warning")  # fmt: skip
    return Done(f"{name} is removed.", view.url("/schedules"))
