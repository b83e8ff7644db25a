"""The overview: what runs, how well, and what is wrong."""

from __future__ import annotations

from celeriac.dashboard.pages import Context, Entry, Pages
from celeriac.dashboard.view import View

__all__ = ["PAGES"]

PAGES = Pages()


@PAGES.page("overview", "/", "queues:read", "Overview", entry=Entry(10, "o"))
async def _overview(view: View) -> Context:
    return {}


@PAGES.fragment("overview", "queues", ("queues", "workers"))
async def _queues(view: View) -> Context:
    return {"queues": await view.site.counts()}
