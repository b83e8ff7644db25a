"""Dead letters: messages that workers gave up on, with the reason; sent again or deleted, some or all."""

from __future__ import annotations

from typing import Any, Final

from celeriac.dashboard.calls import call_text
from celeriac.dashboard.pages import READABLY, Context, Done, Entry, Pages
from celeriac.dashboard.templating import condition
from celeriac.dashboard.view import View
from celeriac.errors import UnknownQueue
from celeriac.model.history import FAILED
from celeriac.ports.operations import Dead as Letter

__all__ = ["PAGES"]

PAGES: Final = Pages()

PAGE: Final = 50
MOST_OFFSET: Final = 1_000_000
SHORT: Final = 300  # characters of arguments
CHOSEN: Final = 1000  # at once


@PAGES.page("dead", "/dead", "tasks:read", "Dead letters", entry=Entry(35, "d"))
async def _dead(view: View) -> Context:
    counts = await view.counts()
    return {"queues": [one.queue for one in counts if one.dead], "queue": view.query.get("queue", "")}


@PAGES.fragment("dead", "list", ("queues",), every=READABLY)
async def _list(view: View) -> Context:
    queue, offset = view.query.get("queue") or None, view.number("offset", 0, MOST_OFFSET)
    try:
        letters = await view.site.read(view.site.inspector.dead(queue, PAGE + 1, offset))
    except UnknownQueue:
        letters = []
    counts = await view.counts()
    total = sum(one.dead for one in counts if queue in (None, one.queue))
    return {
        "rows": [_row(letter, view) for letter in letters[:PAGE]],
        "queue": queue,
        "offset": offset,
        "newer": view.with_query(offset=max(0, offset - PAGE) or None) if offset else None,
        "older": view.with_query(offset=offset + PAGE) if len(letters) > PAGE else None,
        "total": max(total, offset + min(len(letters), PAGE)),
        "filter": condition(queue, "queue") if queue else "",
    }


def _row(letter: Letter, view: View) -> dict[str, Any]:
    """Return what is shown of a dead letter."""
    message = letter.message
    return {
        "id": message.id, "task": message.task, "queue": message.queue, "attempt": message.attempt, "at": letter.at,
        "sent_at": message.sent_at, "reason": letter.reason.removeprefix(FAILED),
        "call": call_text(message, view.app, SHORT),
    }  # fmt: skip


def _chosen(view: View) -> list[str]:
    return list(dict.fromkeys(view.form.getlist("id")))[:CHOSEN]


@PAGES.action("/dead/resend", "dead:write")
async def _resend(view: View) -> Done:
    """Send dead letters again."""
    ids = _chosen(view)
    if not ids:
        return Done("Nothing was sent: select some dead letters first.", kind="fault")
    count = await view.site.read(view.site.inspector.resend(ids))
    view.site.changed()
    return _done(count, len(ids), "sent again")


@PAGES.action("/dead/drop", "dead:write")
async def _drop(view: View) -> Done:
    """Delete dead letters."""
    ids = _chosen(view)
    if not ids:
        return Done("Nothing was deleted: select some dead letters first.", kind="fault")
    count = await view.site.read(view.site.inspector.drop(ids))
    view.site.changed()
    return _done(count, len(ids), "deleted")


def _done(count: int, asked: int, what: str) -> Done:
    gone = asked - count
    text = f"{count:,} dead letter{'' if count == 1 else 's'} {what}."
    return Done(f"{text} {gone:,} had gone before." if gone else text, kind="warning" if gone else "done")
