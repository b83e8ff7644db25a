"""Workflows: those that were at work lately, and for each its graph, its tasks, and ways to end or repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from celeriac.canvas.tree import Step
from celeriac.dashboard.charts import kind_of
from celeriac.dashboard.marks import state_bar
from celeriac.dashboard.pages import SELDOM, Context, Done, Entry, Pages
from celeriac.dashboard.roster import roster_of
from celeriac.dashboard.view import View, segment
from celeriac.dashboard.workflow_graph import graph
from celeriac.dashboard.workflow_layout import outline
from celeriac.dashboard.workflow_states import NOT_RUN, Looked, counted, look, named
from celeriac.errors import NotSupported, WorkflowError
from celeriac.ports.abilities import Ability
from celeriac.ports.complete import in_thread
from celeriac.ports.workflows import WorkflowStore
from celeriac.states import FAILURE, IGNORED, REVOKED
from celeriac.web.problems import Problem

__all__ = ["PAGES"]

PAGES: Final = Pages()

SEARCHED: Final = 1000  # outcomes in which workflows are looked for
PEEKED: Final = 100  # messages of each queue
ASKED: Final = 200  # tasks that run
LISTED: Final = 30
MOST_LISTED: Final = 240
UNFINISHED: Final = 500  # workflows that have not ended, of which the store has a list
COUNTED: Final = 5_000  # steps of a workflow that the list counts
PAGE: Final = 50  # steps


# --- The list -----------------------------------------------------------------------------------------


@PAGES.page("workflows", "/workflows", "tasks:read", "Workflows", entry=Entry(40, "w"))
async def _workflows(view: View) -> Context:
    given = view.query.get("id", "").strip()
    return {"given": given, "found": view.url(f"/workflows/{segment(given)}") if given else ""}


@PAGES.fragment("workflows", "list", ("tasks", "queues"), shared=True, every=SELDOM)
async def _list(view: View) -> Context:
    latest = await _latest(view)
    only = view.choice("only", ("", "unfinished")) if latest.unfinished is not None else ""
    ids = latest.unfinished if only and latest.unfinished is not None else latest.ids
    shown = view.number("shown", LISTED, MOST_LISTED)
    rows = []
    for id in ids[:shown]:
        try:
            workflow = await view.site.workflow(id)
        except Problem:
            continue  # it has expired
        total = sum(isinstance(node, Step) for node in workflow.tree.nodes)
        looked = await look(view.site, id) if total <= COUNTED else None
        rows.append(_row(id, outline(workflow.tree), total, looked))
    more = max(0, len(ids) - shown)
    tabs = [("Latest", view.with_query(only=None, shown=None), ""),
            ("Not ended", view.with_query(only="unfinished", shown=None), "unfinished")]  # fmt: skip
    return {"rows": rows, "latest": latest, "where": _where(latest), "more": more, "only": only,
            "most_unfinished": UNFINISHED,
            "tabs": tabs if latest.unfinished is not None else [],
            "show_more": view.with_query(shown=2 * shown) if more and 0 < shown < MOST_LISTED else ""}  # fmt: skip


class _Found(NamedTuple):
    """Workflows, and where they were looked for."""

    ids: list[str]  # the latest first
    results: int  # that were looked through
    has_heads: bool  # whether the heads of the queues were looked at
    unfinished: list[str] | None  # those that the result backend lists; None: it has no list


async def _latest(view: View) -> _Found:
    """Return the latest workflows, and those that have not ended, however long ago they were at work."""
    site, operations = view.site, view.app.broker.operations()
    try:
        outcomes = await site.read(site.inspector.recent(SEARCHED))
    except NotSupported:
        outcomes = []
    places = [outcome.place for outcome in outcomes]
    has_heads = view.app.broker.can(Ability.KNOW_IDS)  # elsewhere, looking takes messages out of their queues
    for counts in await view.counts() if has_heads else ():
        if counts.ready:
            places += [message.place for message in await site.read(operations.peek(counts.queue, PEEKED))]
    running = [task.id for seen in await roster_of(site).look(view.within) for task in seen.active][:ASKED]
    if running:
        found = await site.read(site.inspector.find(running))
        places += [one.message.place for one in found.values() if one.message is not None]
    store = view.app.backend
    unfinished = await site.read(store.unfinished(UNFINISHED)) if isinstance(store, WorkflowStore) else None
    ids = {place.workflow for place in places if place is not None} | {*(unfinished or ())}
    # Ids of Celeriac sort by the time at which they were made.
    return _Found(sorted(ids, reverse=True), len(outcomes), has_heads, unfinished)


def _where(latest: _Found) -> str:
    """Return in words where workflows were looked for."""
    places = [f"in the latest {latest.results:,} results", "among what runs"]
    if latest.has_heads:
        places.append("at the heads of the queues")
    if latest.unfinished is not None:
        some = f"the latest {UNFINISHED:,}" if len(latest.unfinished) == UNFINISHED else "all"
        places.append(f"among {some} that have not ended")
    text = f"{', '.join(places[:-1])}{',' if len(places) > 2 else ''} and {places[-1]}"
    return text if latest.unfinished is not None else f"{text}: this result backend has no list of workflows"


def _row(id: str, parts: Sequence[str], total: int, looked: Looked | None) -> dict[str, Any]:
    counts = looked.counts if looked is not None else {}
    ended = [one.outcome for one in looked.steps.values() if one.outcome is not None] if looked is not None else []
    return {
        "id": id, "parts": parts, "total": total, "counts": counts, "bar": _bar(counts) if counts else "",
        "ended": sum(outcome.ready for outcome in ended), "state": _state(looked) if looked is not None else None,
        "begun": min((outcome.started_at for outcome in ended if outcome.started_at), default=None),
        "last": max((outcome.done_at for outcome in ended), default=None),
    }  # fmt: skip


def _bar(counts: dict[str, int]) -> Any:
    return state_bar(counts, ", ".join(f"{count:,} {named(state)}" for state, count in counts.items()))


def _state(looked: Looked) -> tuple[str, str]:
    """Return the class and the words of the state of a whole workflow."""
    counts = looked.counts
    if not looked.is_over:
        return ("retry", "Running, with failures") if counts.get(FAILURE) else ("active", "Running")
    if counts.get(FAILURE):
        return "failure", "Failed"
    return ("revoked", "Revoked") if counts.get(REVOKED) else ("success", "Succeeded")


# --- One workflow -------------------------------------------------------------------------------------


@PAGES.page("workflow", "/workflows/{id}", "tasks:read", "Workflow", under="workflows")
async def _workflow(view: View) -> Context:
    looked = await look(view.site, view.path["id"])
    return {"title": " → ".join(outline(looked.workflow.tree)) or "Workflow", "id": view.path["id"]}


@PAGES.fragment("workflow", "facts", ("workflow:{id}",))
async def _facts(view: View) -> Context:
    looked = await look(view.site, view.path["id"])
    row = _row(view.path["id"], (), len(looked.steps), looked)
    counts = looked.counts
    unsuccessful = sum(counts.get(state, 0) for state in (FAILURE, REVOKED, IGNORED, NOT_RUN))
    took = (row["last"] if looked.is_over else view.now) - row["begun"] if row["begun"] else None
    return {
        "id": view.path["id"],
        **row,
        "took": took,
        "is_over": looked.is_over,
        "unsuccessful": unsuccessful,
        "left": row["total"] - row["ended"],
        "named": named,
    }


@PAGES.fragment("workflow", "graph", ("workflow:{id}",), shared=True)
async def _graph(view: View) -> Context:
    looked = await look(view.site, view.path["id"])
    has_folded = any(one.kind == "folded" for one in looked.layout.boxes)
    return {"graph": graph(looked, view), "has_folded": has_folded}


@PAGES.fragment("workflow", "tasks", ("workflow:{id}",))
async def _tasks(view: View) -> Context:
    looked = await look(view.site, view.path["id"])
    inside, state, offset = _inside(view, looked), view.query.get("state", ""), view.number("offset", 0, 10_000_000)
    numbers = _numbers(looked, inside)
    counts = counted(looked.states[number] for number in numbers)
    chosen = [number for number in numbers if state in ("", looked.states[number])]
    shown = chosen[offset : offset + PAGE]
    open_ones = [number for number in numbers if not _ended(looked, number)]
    return {
        "id": view.path["id"],
        "rows": [(looked.steps[number], looked.states[number], kind_of(looked.states[number])) for number in shown],
        "named": named,
        "can_revoke": bool(open_ones) and view.may("tasks:revoke"),
        "inside": inside,
        "inside_of": len(numbers),
        "open": len(open_ones),
        "tabs": [("All", view.with_query(state=None, offset=None), ""),
                 *((f"{named(one).capitalize()} {count:,}", view.with_query(state=one, offset=None), one)
                   for one, count in counts.items())],
        "state": state,
        "offset": offset,
        "of": len(chosen),
        "newer": view.with_query(offset=max(0, offset - PAGE) or None) if offset else None,
        "older": view.with_query(offset=offset + PAGE) if offset + PAGE < len(chosen) else None,
    }  # fmt: skip


def _inside(view: View, looked: Looked) -> int | None:
    """Return the number of the box that is looked into."""
    number = view.number("inside", -1, len(looked.layout.boxes))
    return number if 0 <= number < len(looked.layout.boxes) else None


def _numbers(looked: Looked, inside: int | None) -> list[int]:
    if inside is None:
        return list(looked.steps)
    return sorted(number for number in looked.layout.boxes[inside].nodes if number in looked.steps)


def _ended(looked: Looked, number: int) -> bool:
    outcome = looked.steps[number].outcome
    return outcome is not None and outcome.ready


# --- What can be done ---------------------------------------------------------------------------------


@PAGES.action("/workflows/{id}/revoke", "tasks:revoke")
async def _revoke(view: View) -> Done:
    """Revoke tasks of a workflow that have not ended."""
    looked = await look(view.site, view.path["id"], again=True)
    box = view.form.get("inside", "")[:9]
    inside = int(box) if box.isascii() and box.isdecimal() and int(box) < len(looked.layout.boxes) else None
    chosen = view.form.getlist("id")
    ids = [looked.steps[number].id for number in _numbers(looked, inside) if not _ended(looked, number)]
    if "only" in view.form:
        ids = [id for id in ids if id in set(chosen)]
        if not ids:
            return Done("Nothing was revoked: select some tasks that have not ended.", kind="fault")
    if not ids:
        return Done("Nothing was revoked: all of them have ended.", kind="fault")
    if view.form.get("terminate"):
        await view.site.read(view.site.inspector.terminate(ids))
    else:
        await view.site.read(view.site.inspector.revoke(ids))
    await look(view.site, view.path["id"], again=True)
    return Done(f"{len(ids):,} {'task is' if len(ids) == 1 else 'tasks are'} revoked, and what waits for "
                f"{'it' if len(ids) == 1 else 'them'} ends, too.")  # fmt: skip


@PAGES.action("/workflows/{id}/retry", "tasks:retry")
async def _retry(view: View) -> Done:
    """Run the tasks of a workflow again that did not succeed."""
    workflow = await view.site.workflow(view.path["id"])
    try:
        count = await in_thread(workflow.retry)
    except WorkflowError as error:
        return Done(str(error), kind="fault")
    await look(view.site, view.path["id"], again=True)
    if not count:
        return Done("Nothing was sent: all its tasks have succeeded.", kind="fault")
    return Done(f"{count:,} {'task was' if count == 1 else 'tasks were'} sent again. The others wait for "
                f"{'it' if count == 1 else 'them'}.")  # fmt: skip
