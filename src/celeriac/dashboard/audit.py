"""The audit: what operators did, and how; newest first."""

from __future__ import annotations

from typing import Any, Final

from celeriac.dashboard.pages import Context, Entry, Pages
from celeriac.dashboard.view import View, segment
from celeriac.documents import to_json
from celeriac.inspector.audit import ACTION, AUDITED, BULK_ENDED, BULK_STARTED, BULK_STOP, RETRIED
from celeriac.model.history import Event
from celeriac.web.history import history_of

__all__ = ["PAGES"]

PAGES: Final = Pages()

PAGE: Final = 100
SEARCHED: Final = 5_000  # events
KINDS: Final = {"all": AUDITED, "actions": (ACTION,), "retries": (RETRIED,),
                "bulk": (BULK_STARTED, BULK_STOP, BULK_ENDED)}  # fmt: skip
BULK_SHOWN: Final = ("action", "filter", "state", "matched", "done", "refused")
TITLES: Final = {RETRIED: "Sent a task again", BULK_STARTED: "Began a bulk action", BULK_STOP: "Stopped a bulk action",
                 BULK_ENDED: "A bulk action ended"}  # fmt: skip


@PAGES.page("audit", "/audit", "audit:read", "Audit", entry=Entry(80, "a"))
async def _audit(view: View) -> Context:
    return {}


@PAGES.fragment("audit", "list", ("audit",), shared=True)
async def _list(view: View) -> Context:
    kind, who, about = view.choice("kind", tuple(KINDS)), view.query.get("by", ""), view.query.get("id", "")
    limit = PAGE * (1 + view.number("more", 0, SEARCHED // PAGE - 1))
    found: list[Event] = await view.site.read(
        history_of(view.site).events(KINDS[kind], 0.0, SEARCHED if who else limit + 1, about or None)
    )
    chosen = [event for event in found if not who or event.by == who]
    return {
        "rows": [_row(event, view) for event in chosen[:limit]],
        "kind": kind,
        "kinds": [(name.capitalize(), view.with_query(kind="" if name == "all" else name, more="")) for name in KINDS],
        "by": who,
        "about": about,
        "more": view.with_query(more=limit // PAGE) if len(chosen) > limit and limit < SEARCHED else None,
    }  # fmt: skip


def _row(event: Event, view: View) -> dict[str, Any]:
    data = event.data
    failed = data.get("failed") or (data.get("why") if data.get("state") == "failed" else None)
    asked = data.get("body") if event.kind == ACTION else _of_bulk(data)
    return {
        "at": event.at, "by": event.by, "id": event.id, "what": TITLES.get(event.kind) or event.text or event.kind,
        "request": data.get("request", ""), "failed": str(failed) if failed else "",
        "asked": _words(asked), "url": _url(event, view),
    }  # fmt: skip


def _of_bulk(data: dict[str, Any]) -> Any:
    shown = ("action", "filter") if data.get("state") == "counting" else BULK_SHOWN
    return {name: data[name] for name in shown if data.get(name) not in (None, "")}


def _words(asked: Any) -> list[tuple[str, str]]:
    """Return what was asked for as names and values."""
    if not isinstance(asked, dict):
        return [("body", to_json(asked).decode())] if asked not in (None, "") else []
    pairs = ((str(name), value if isinstance(value, str) else to_json(value).decode()) for name, value in asked.items())
    return [(name, value) for name, value in pairs if value]


def _url(event: Event, view: View) -> str:
    """Return the address of what an event is about, if it has a page."""
    if not event.id:
        return ""
    if event.kind == RETRIED:
        return view.url(f"/tasks/{segment(event.id)}")
    if event.kind in KINDS["bulk"]:
        return view.url(f"/bulk/{segment(event.id)}")
    path = str(event.data.get("request", "")).partition(" ")[2].removeprefix("/api/v1")
    for place in ("tasks", "queues", "workers", "failures", "schedules", "workflows", "bulk"):
        if path.startswith(f"/{place}/{{"):
            return view.url(f"/{place}/{segment(event.id)}")
    return ""
