"""Bulk actions: counted before they begin, a few first, with progress, and a button that stops them.

Other pages lead to `/bulk/new?action=…&q=…`, which counts what the filter means. `web/bulk.py` does the work.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

from celeriac.dashboard.pages import Context, Done, Pages
from celeriac.dashboard.view import View, segment
from celeriac.inspector.audit import BULK_STARTED
from celeriac.inspector.bulk import ACTIONS
from celeriac.inspector.selecting import MOST, Bound
from celeriac.model.history import Event
from celeriac.ports.abilities import Ability
from celeriac.web import shapes
from celeriac.web.bulk import AGAIN, RUNNING, Asked, asked_for, begun, bulk_action, stopped
from celeriac.web.problems import Problem

__all__ = ["PAGES", "WORDS", "ActionWords"]

PAGES: Final = Pages()

CONFIRMED: Final = 1000  # more than these have to be typed
ALL: Final = "all"  # what is typed instead, if there are more than were counted
QUICKLY: Final = Bound(found=5_000, searched=10_000)  # what a page counts, unless it is asked to count all
SHOWN: Final = 100  # bulk actions in the list
LOOK_BACK: Final = 30 * 86_400.0
CANARY: Final = {"count": (10, 1, 1000), "failed": (10, 0, 100), "seconds": (300, 1, 3600)}
"""How many go first, which share of them may fail (in percent), and within which time: default, least and most."""


class ActionWords(NamedTuple):
    """What an action is called."""

    title: str
    does: str  # the button, before the number of tasks
    done: str  # after the number
    what: str  # one of them


WORDS: Final = {
    "retry": ActionWords("Send failed tasks again", "Send", "sent again", "failed task"),
    "resend": ActionWords("Send dead letters again", "Send", "sent again", "dead letter"),
    "drop": ActionWords("Delete dead letters", "Delete", "deleted", "dead letter"),
    "revoke": ActionWords("Revoke waiting tasks", "Revoke", "revoked", "waiting task"),
    "run-now": ActionWords("Run scheduled tasks now", "Run", "made ready", "scheduled task"),
    "move": ActionWords("Move waiting tasks", "Move", "moved", "waiting task"),
}
"""By the name of the action."""


# --- A new one ----------------------------------------------------------------------------------------


@PAGES.page("bulk_new", "/bulk/new", "tasks:read", "Bulk action", under="audit")
async def _new(view: View) -> Context:
    name = view.choice("action", tuple(ACTIONS))
    words, which, queue = WORDS[name], view.query.get("q", ""), view.query.get("queue", "")
    context: dict[str, Any] = {
        "title": words.title, "words": words, "action": name, "q": which, "queue": queue,
        "needs_queue": name == "move", "takes_queue": name in ("move", "retry"), "fault": "",
        "matched": None, "more": False, "before": "", "count_all": "", "most": MOST,
        "canary": {field: value for field, (value, _, _) in CANARY.items()},
        "can_canary": ACTIONS[name].runs and view.app.backend.can(Ability.KEEP_OUTCOMES),
        "confirmed": CONFIRMED, "queues": [one.queue for one in await view.counts()],
    }  # fmt: skip
    if name == "move" and not queue:
        return context
    try:
        asked = await _asked(view, shapes.Bulk(action=name, filter=which, queue=queue or None,  # type: ignore[arg-type]
                                               before=view.query.get("before") or None))  # fmt: skip
        bound = Bound() if view.query.get("count") == "all" else QUICKLY
        matched = await asked.matched(view.site, bound)
    except Problem as problem:
        if problem.kind.name not in ("bad-body", "unknown-queue", "not-supported"):
            raise
        return {**context, "fault": problem.detail.removeprefix("/filter: ")}
    before = asked.bulk.cut.id
    return {**context, "matched": len(matched.ids), "more": not matched.is_all, "searched": matched.searched,
            "is_most": len(matched.ids) == bound.found, "before": before,
            "count_all": view.with_query(count="all", before=before) if bound is QUICKLY else ""}  # fmt: skip


async def _asked(view: View, body: shapes.Bulk) -> Asked:
    try:
        return await asked_for(view.site, view.user, body)
    except Problem as problem:
        if problem.kind.name == "scope":
            raise Problem("scope", f"{view.user.name} may look at this, but not do it: it needs the scope "
                          f"{problem.more['needed']}.", **problem.more) from None  # fmt: skip
        raise


@PAGES.action("/bulk", "tasks:read", audit=False)  # the action writes down who began it
async def _start(view: View) -> Done:
    """Begin a bulk action."""
    form = view.form
    matched = form.get("matched", "")[:18]
    wanted = ALL if form.get("more") else matched
    is_many = matched.isdecimal() and int(matched) > CONFIRMED
    if (is_many or form.get("more")) and form.get("confirm", "").replace(",", "").strip() != wanted:
        return Done(f"Nothing was done: type {wanted if wanted == ALL else f'{int(matched):,}'} to confirm.",
                    kind="fault")  # fmt: skip
    try:
        body = shapes.Bulk(
            action=form.get("action", ""),  # type: ignore[arg-type]
            filter=form.get("q", ""),
            before=form.get("before") or None,
            queue=form.get("queue") or None,
            canary=_canary(form) if form.get("canary") else None,
        )
        if body.action not in ACTIONS:
            raise Problem("bad-body", f"There is no bulk action {body.action!r}.")
        document = await begun(view.site, await _asked(view, body))
    except Problem as problem:
        if problem.kind.name not in ("bad-body", "too-many", "unknown-queue"):
            raise
        return Done(f"Nothing was done. {problem.detail}", kind="fault")
    return Done("It has begun.", view.url(f"/bulk/{segment(document['bulk'])}"))


def _canary(form: Any) -> shapes.Canary:
    values = {}
    for field, (_, least, most) in CANARY.items():
        given = form.get(field, "").strip()
        if not (given.isascii() and given.isdecimal() and len(given) < 6 and least <= int(given) <= most):
            raise Problem("bad-body", f"{given!r} is no number from {least} to {most:,}.")
        values[field] = int(given)
    return shapes.Canary(count=values["count"], max_failed=values["failed"] / 100, seconds=float(values["seconds"]))


# --- One that has begun -------------------------------------------------------------------------------


@PAGES.page("bulk_action", "/bulk/{id}", "tasks:read", "Bulk action", under="audit")
async def _show(view: View) -> Context:
    document = await bulk_action(view.site, view.path["id"])
    return {"title": WORDS[document["action"]].title}


@PAGES.fragment("bulk_action", "progress", ("bulk:{id}",))
async def _progress(view: View) -> Context:
    document = await bulk_action(view.site, view.path["id"])
    total = document["matched"] or 0
    return {
        "job": document,
        "why": (document["why"] or "").replace(AGAIN, "").strip(),
        "started_at": _seconds(document["started_at"]),
        "updated_at": _seconds(document["updated_at"]),
        "words": WORDS[document["action"]],
        "is_running": document["state"] in RUNNING,
        "may_stop": view.may(ACTIONS[document["action"]].scope),
        "left": max(0, total - document["done"] - document["refused"]),
        "canary": document.get("canary"),
        "rest": view.url("/bulk/new", action=document["action"], q=document["filter"], before=document["before"]),
    }


@PAGES.action("/bulk/{id}/stop", "tasks:read", audit=False)
async def _stop(view: View) -> str:
    """Stop a bulk action."""
    document = await stopped(view.site, view.user, view.path["id"])
    return "It stops after the step that it is at." if document["state"] in RUNNING else "It is over."


# --- All of them --------------------------------------------------------------------------------------


@PAGES.page("bulk", "/bulk", "tasks:read", "Bulk actions", under="audit")
async def _bulk(view: View) -> Context:
    return {}


@PAGES.fragment("bulk", "list", ("bulk", "audit"), shared=True)
async def _list(view: View) -> Context:
    found: dict[str, dict[str, Any]] = {}
    history = view.app.history
    if history is not None:
        events: list[Event] = await view.site.read(history.events((BULK_STARTED,), view.now - LOOK_BACK, SHOWN))
        for event in events:
            found[event.id] = await bulk_action(view.site, event.id)
    found |= {id: job.document() for id, job in view.site.jobs.items()}
    jobs = sorted((job for job in found.values() if job), key=lambda job: str(job["started_at"]), reverse=True)
    return {"jobs": [(job, _seconds(job["started_at"])) for job in jobs[:SHOWN]], "words": WORDS}


def _seconds(instant: str | None) -> float | None:
    """Return an instant of a document as seconds since the epoch."""
    return datetime.fromisoformat(instant).timestamp() if instant else None
