"""Failures by signature: a list of what fails, and for each signature where, since when, and how to put it right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

from celeriac.dashboard.charts import RANGES, columns_of, rate_chart, sparkline
from celeriac.dashboard.pages import SELDOM, Context, Done, Entry, Pages
from celeriac.dashboard.view import View, segment
from celeriac.model.filters import Filter
from celeriac.model.history import FailureSignature
from celeriac.states import FAILURE, RETRY
from celeriac.web.history import filter_of, history_of
from celeriac.web.problems import Problem

__all__ = ["PAGES"]

PAGES: Final = Pages()

TABS: Final = ("open", "resolved", "muted", "all")
DAY: Final = 86_400
HOUR: Final = 3600
MOST: Final = 1000  # signatures that are looked at
PAGE: Final = 100
LATEST: Final = 20  # attempts of a signature
MARKED: Final = {"resolved": "Resolved", "muted": "Muted", "open": "Opened again"}


# --- The list -----------------------------------------------------------------------------------------


@PAGES.page("failures", "/failures", "tasks:read", "Failures", entry=Entry(30, "f"))
async def _failures(view: View) -> Context:
    return {"q": view.query.get("q", "")}


@PAGES.fragment("failures", "list", ("failures",))
async def _list(view: View) -> Context:
    tab = view.choice("status", TABS)
    known, fault = await _known(view)
    counts = Counter(_tab_of(one) for one in known)
    shown = [one for one in known if tab in ("all", _tab_of(one))]
    hourly = await _hourly(view, [one.signature for one in shown[:PAGE]])
    return {
        "tab": tab,
        "tabs": [(f"{name.capitalize()} {counts[name] if name != 'all' else len(known):,}",
                  view.with_query(status=None if name == TABS[0] else name), name) for name in TABS],
        "rows": [(one, hourly[one.signature], view.now - one.first < HOUR) for one in shown[:PAGE]],
        "left_out": max(0, len(shown) - PAGE),
        "is_filtered": bool(view.query.get("q")),
        "fault": fault,
    }  # fmt: skip


async def _known(view: View) -> tuple[list[FailureSignature], str]:
    """Return the signatures that the filter of the page means, or what is wrong with it."""
    history = history_of(view.site)
    try:
        chosen = filter_of(view.site, view.query.get("q", ""))
        return await view.site.read(history.signatures(chosen, None, MOST)), ""
    except Problem as problem:
        return [], problem.detail.removeprefix("q: ")


def _tab_of(one: FailureSignature) -> str:
    """Return under which tab a signature is: one that was resolved and has come back is open."""
    return "open" if one.regressed else one.status


async def _hourly(view: View, signatures: Sequence[str]) -> dict[str, Any]:
    """Return the sparkline of the last 24 hours of each signature."""
    if not signatures:
        return {}
    since = int(view.now) // HOUR * HOUR - DAY + HOUR
    chosen = Filter(states=(FAILURE, RETRY), signatures=tuple(signatures))
    points = await view.site.read(history_of(view.site).series(since, view.now, HOUR, chosen, ("signature",)))
    found: dict[str, list[int]] = defaultdict(lambda: [0] * 24)
    for point in points:
        if 0 <= (point.at - since) // HOUR < 24:
            found[point.signature][(point.at - since) // HOUR] += point.sums.n
    return {one: sparkline(found[one], "Failed attempts in the last 24 hours", "failure") for one in signatures}


@PAGES.action("/failures/mark", "dead:write")
async def _mark_some(view: View) -> Done:
    """Note that failures are resolved or muted, or open again."""
    chosen = view.form.getlist("signature")[:MOST]
    if not chosen:
        return Done("Nothing was marked: select some failures first.", kind="fault")
    marked = 0
    for signature in chosen:
        marked += await _mark(view, signature)
    return Done(f"{MARKED[_status(view)]}: {marked:,} {'failure' if marked == 1 else 'failures'}.")


def _status(view: View) -> Any:
    status = view.form.get("status", "")
    if status not in MARKED:
        raise Problem("bad-body", f"A failure cannot be {status!r}: it is open, resolved or muted.")
    return status


async def _mark(view: View, signature: str) -> bool:
    return await view.site.read(history_of(view.site).mark(signature, _status(view), view.user.name, view.now))


# --- One signature ------------------------------------------------------------------------------------


@PAGES.page("failure", "/failures/{signature}", "tasks:read", "Failure", under="failures")
async def _failure(view: View) -> Context:
    one = await _signature(view)
    return {"title": one.title or one.error or one.signature, "one": one}


@PAGES.fragment("failure", "facts", ("failures",), shared=True)
async def _facts(view: View) -> Context:
    one = await _signature(view)
    return {"one": one, "tab": _tab_of(one), "culprit": one.frames[-1] if one.frames else ""}


@PAGES.fragment("failure", "chart", ("failures",), shared=True, every=SELDOM)
async def _chart(view: View) -> Context:
    name = view.choice("range", ("24h", "1h", "6h", "7d"))
    shown = RANGES[name]
    since = view.now - shown.seconds
    chosen = Filter(signatures=(view.path["signature"],))
    points = await view.site.read(history_of(view.site).series(since, view.now, shown.step, chosen))
    columns = columns_of(points, since, view.now, shown.step)
    chart = rate_chart(columns, shown.step, title="Failed attempts", zone=view.zone,
                       always=(FAILURE,))  # fmt: skip
    return {"chart": chart, "range": name,
            "ranges": [(one, view.with_query(range=None if one == "24h" else one)) for one in RANGES]}  # fmt: skip


@PAGES.fragment("failure", "latest", ("failures",), shared=True)
async def _latest(view: View) -> Context:
    chosen = Filter(signatures=(view.path["signature"],))
    page = await view.site.read(history_of(view.site).search(chosen, LATEST))
    shown = next((row for row in page.rows if row.traceback), None)
    return {"rows": page.rows, "traceback": shown if view.may("results:traceback") else None, "more": page.next,
            "has_traceback": shown is not None}  # fmt: skip


@PAGES.action("/failures/{signature}/mark", "dead:write")
async def _mark_one(view: View) -> Done:
    """Note that the failures of a signature are resolved or muted, or open again."""
    if not await _mark(view, view.path["signature"]):
        raise _unknown(view.path["signature"])
    return Done(f"{MARKED[_status(view)]}.", view.url(f"/failures/{segment(view.path['signature'])}"))


async def _signature(view: View) -> FailureSignature:
    signature = view.path["signature"]
    known = await view.site.read(history_of(view.site).signatures(Filter(signatures=(signature,)), None, 1))
    if not known:
        raise _unknown(signature)
    return known[0]


def _unknown(signature: str) -> Problem:
    return Problem("unknown-signature", f"There is no failure signature {signature!r}: the link is wrong, or it was "
                   "longer ago than the history is kept.")  # fmt: skip
