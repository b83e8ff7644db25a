"""Queues: how much waits, for how long, whether it becomes less; and what waits next. Pause, purge, move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from celeriac.dashboard.calls import call_text
from celeriac.dashboard.charts import RANGES, columns_of, rate_chart
from celeriac.dashboard.figures import Flow, figures_of, flow_of, flows_by
from celeriac.dashboard.overview import QueueRow, queue_rows
from celeriac.dashboard.pages import READABLY, SELDOM, Context, Done, Entry, Pages
from celeriac.dashboard.troubles import queue_troubles
from celeriac.dashboard.view import View
from celeriac.errors import UnknownQueue
from celeriac.inspector.bulk import STEP
from celeriac.ports.abilities import Ability
from celeriac.ports.operations import QueueCounts
from celeriac.web.collecting import receivers
from celeriac.web.problems import Problem
from celeriac.web.queues import counts_of, purge

__all__ = ["PAGES"]

PAGES = Pages()
MOST: Final = 200  # queues on a page
PAGE: Final = 25  # messages
DEEPEST: Final = 10_000  # messages that are looked past
TABS: Final = ("next", "scheduled")

KEYS: Final[dict[str, Callable[[QueueRow], Any]]] = {
    "queue": lambda row: row.counts.queue,
    "ready": lambda row: row.counts.ready,
    "scheduled": lambda row: row.counts.scheduled,
    "running": lambda row: row.counts.active,
    "dead": lambda row: row.counts.dead,
    "oldest": lambda row: (row.oldest or 0.0) if row.counts.ready else -1.0,
    "rate": lambda row: row.out.rate if row.out else -1.0,
}
SORTS: Final = ("-ready", *KEYS, *(f"-{key}" for key in KEYS))


@PAGES.page("queues", "/queues", "queues:read", "Queues", entry=Entry(50, "q"))
async def _list(view: View) -> Context:
    return {"name": view.query.get("name", "")}


@PAGES.fragment("queues", "list", ("queues", "workers", "tasks"))
async def _rows(view: View) -> Context:
    name, sort = view.query.get("name", "").strip().lower(), view.choice("sort", SORTS)
    rows = await queue_rows(view)
    found = [row for row in rows if name in row.counts.queue.lower()]
    key = KEYS[sort.removeprefix("-")]
    found.sort(key=lambda row: row.counts.queue)
    found.sort(key=key, reverse=sort.startswith("-"))
    return {"rows": found[:MOST], "sort": sort, "found": len(found), "of": len(rows), "name": name}


# --- One queue ----------------------------------------------------------------------------------------


@PAGES.page("queue", "/queues/{queue:path}", "queues:read", "Queue", under="queues")
async def _queue(view: View) -> Context:
    queue = view.path["queue"]
    try:
        await counts_of(view.site, queue)
    except UnknownQueue:
        collected = await view.collected()  # one that a worker receives from has no messages, maybe
        if not receivers(collected, queue):
            raise
    ranges = [(name, view.with_query(range=name)) for name in RANGES]
    return {"title": queue, "queue": queue, "ranges": ranges, "range": view.choice("range", tuple(RANGES))}


async def _row(view: View) -> QueueRow:
    queue, counts = view.path["queue"], await view.counts()
    found = next((one for one in counts if one.queue == queue), None)
    if found is None and receivers(await view.collected(), queue):
        found = QueueCounts(queue=queue)  # a worker receives from it, and it has no messages
    if found is None:
        raise UnknownQueue(queue, [one.queue for one in counts])
    [row] = await queue_rows(view, [found])
    return row


@PAGES.fragment("queue", "numbers", ("queues", "workers", "tasks"))
async def _numbers(view: View) -> Context:
    collected = await view.collected()
    row, trends = await _row(view), view.site.pulse.trends
    slope = trends.slope(row.counts.queue)
    into = max(0.0, row.out.rate + slope) if row.out is not None and slope is not None else None
    found = list(queue_troubles(row.counts, collected, trends, view.app.main or "APP"))
    return {"row": row, "into": into, "troubles": [one._replace(path=None) for one in found],
            "waiting": row.counts.ready + row.counts.scheduled, "others": await _others(view),
            "moves": view.app.broker.can(Ability.SEE_SCHEDULED) and view.app.broker.can(Ability.KNOW_IDS)}  # fmt: skip


async def _others(view: View) -> list[str]:
    return [one.queue for one in await view.counts() if one.queue != view.path["queue"]]


@PAGES.fragment("queue", "chart", ("tasks",), scope="stats:read", shared=True, every=SELDOM)
async def _chart(view: View) -> Context:
    queue, figures = view.path["queue"], figures_of(view.site)
    if figures is None:
        return {"chart": None}
    period = await figures.period(view.choice("range", tuple(RANGES)))
    points = [point for point in period.points if point.queue == queue]
    step = period.range.step
    types = sorted(flows_by(period._replace(points=points), lambda point: point.task).items(),
                   key=lambda item: -item[1].total)  # fmt: skip
    total: Flow = flow_of(points, period.until - period.since)
    return {"chart": rate_chart(columns_of(points, period.since, period.until, step), step,
                                title=f"Tasks that ended in {period.range.words}",
                                zone=view.zone),
            "total": total, "types": types[:20], "since": f"{period.range.seconds // 3600}h"}  # fmt: skip


@PAGES.fragment("queue", "messages", ("queues",), every=READABLY)
async def _messages(view: View) -> Context:
    """Show what workers receive next, or what is due soonest."""
    tab, offset, queue = view.choice("show", TABS), view.number("offset", 0, DEEPEST), view.path["queue"]
    broker = view.app.broker
    sees = broker.can(Ability.KNOW_IDS) if tab == "next" else broker.can(Ability.SEE_SCHEDULED)
    context = {"tab": tab, "tabs": [("next", view.with_query(show=None, offset=None)),
                                    ("scheduled", view.with_query(show="scheduled", offset=None))],
               "sees": sees or (tab == "next" and "look" in view.query), "offset": offset, "next": None, "before": None,
               "others": await _others(view), "moves": sees and broker.can(Ability.SEE_SCHEDULED)}  # fmt: skip
    if not context["sees"]:
        return {**context, "rows": []}
    look = view.site.inspector.peek if tab == "next" else view.site.inspector.scheduled
    messages = await view.site.read(look(queue, PAGE + 1, offset))
    if len(messages) > PAGE and offset + PAGE <= DEEPEST:
        context["next"] = view.with_query(offset=offset + PAGE)
    if offset:
        context["before"] = view.with_query(offset=max(0, offset - PAGE) or None)
    return {**context, "rows": [(one, call_text(one, view.app)) for one in messages[:PAGE]]}


@PAGES.fragment("queue", "workers", ("workers",), scope="workers:read", shared=True)
async def _workers(view: View) -> Context:
    collected = await view.collected()
    mine = receivers(collected, view.path["queue"])
    workers = [(label, (collected.workers or {})[label], collected.load.get(label)) for label in mine]
    return {"workers": workers, "known": collected.workers is not None}


# --- Actions ------------------------------------------------------------------------------------------


@PAGES.action("/queues/{queue:path}/pause", "queues:write")
async def _pause(view: View) -> str:
    """Pause a queue."""
    queue = view.path["queue"]
    await view.site.read(view.site.inspector.pause([queue]))
    return f"The queue {queue} is paused: no worker receives from it until it is resumed. What runs goes on."


@PAGES.action("/queues/{queue:path}/resume", "queues:write")
async def _resume(view: View) -> str:
    """Resume a queue."""
    queue = view.path["queue"]
    await view.site.read(view.site.inspector.resume([queue]))
    return f"The queue {queue} is resumed."


@PAGES.action("/queues/{queue:path}/purge", "queues:purge")
async def _purge(view: View) -> Done | str:
    """Delete the waiting messages of a queue."""
    queue, shown, typed = view.path["queue"], view.form.get("shown", ""), view.form.get("count", "")
    typed = typed.replace(",", "").strip()
    if not (typed.isdecimal() and len(typed) < 16) or typed != shown:
        raise Problem("changed", f"Nothing was deleted: type {shown or 'the number of messages'} to confirm.")
    count = await purge(view.site, queue, int(typed))
    what = "1 waiting message was" if count == 1 else f"{count:,} waiting messages were"
    return f"{what} deleted from {queue}. Their tasks have ended as revoked."


@PAGES.action("/queues/{queue:path}/move", "queues:write")
async def _move(view: View) -> Done:
    """Move messages to another queue."""
    ids, to = view.form.getlist("id")[:STEP], view.form.get("to", "").strip()
    if not ids:
        return Done("Nothing was moved: select messages first.", kind="warning")
    count = await view.site.read(view.site.inspector.move(ids, to))
    word = "1 message was" if count == 1 else f"{count:,} messages were"
    left = "" if count == len(ids) else f" {len(ids) - count:,} did not wait any more."
    return Done(f"{word} moved to {to}.{left}", kind="done" if count else "warning")
