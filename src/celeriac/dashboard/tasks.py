"""Tasks: what has ended, runs, waits and is scheduled, in lists that one grammar searches (`model/filters.py`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from celeriac import states
from celeriac.dashboard.calls import call_text
from celeriac.dashboard.pages import READABLY, Context, Done, Entry, Pages
from celeriac.dashboard.view import View
from celeriac.errors import BackendError, NotSupported
from celeriac.inspector import Inspector
from celeriac.inspector.listing import list_ready, list_running, list_scheduled
from celeriac.model.filters import Filter
from celeriac.model.gate import Unreadable
from celeriac.model.history import Attempt
from celeriac.model.message import Message, decode, made_at
from celeriac.ports.history import MOST_COUNTED
from celeriac.web.history import filter_of, history_of
from celeriac.web.problems import Problem
from celeriac.web.site import Site

__all__ = ["PAGES", "REPLY_SECONDS"]

PAGES: Final = Pages()

T = TypeVar("T")

PAGE: Final = 50
CHOSEN: Final = 1000  # at once
SUGGESTED: Final = 300  # words of the search box
REPLY_SECONDS: Final = 0.5  # for workers that a fragment asks
SEARCH_SECONDS: Final = 0.15  # after which a search ends, and says how far it came
SIGNATURES: Final = 50
SHARE: Final = 20  # looking for a list that is open takes at most one part in so many of the time
REMEMBERED: Final = 100  # lists
OLD: Final = 3.0  # seconds, after which a list says of when it is

QUICK: Final = 0.1  # seconds: what takes less is looked for each time


@dataclass
class _Found:
    """What was found lately."""

    until: float  # monotonic: it is shown again until then
    at: float
    value: Any
    is_asked_again: bool = False


_FOUND: WeakKeyDictionary[Site, dict[tuple[str, ...], _Found]] = WeakKeyDictionary()

EXAMPLES: Final = (
    ("task:shop.*", "a task; * stands for any text"),
    ("state:failure,retry", "one of these states: success, failure, retry, revoked, ignored"),
    ("queue:mail", "a queue"),
    ("error:ValueError", "the class of the exception"),
    ('"card declined"', "words in the message of the exception"),
    ("since:2h until:1h", "when it ended; also since:2026-11-29"),
    ("runtime:>5s wait:1s..10s", "how long it ran, and had waited"),
    ("header.tenant:acme", "a header of its message"),
    ("args.user_id:42", "an argument, of tasks that wait"),
    ("worker:web-1* attempt:>1", "where it ran; retried ones"),
    ("root:ID group:ID id:ID", "what belongs together"),
)


class _Tab(NamedTuple):
    """A list of tasks in one state of their lives."""

    name: str
    label: str
    words: str  # what its rows are, in the plural
    number: Callable[[Any], int] | None = None  # of a queue's counts: how many rows there are


TABS: Final = (
    _Tab("ended", "Ended", "attempts that have ended"),
    _Tab("failed", "Failed", "failed tasks"),
    _Tab("running", "Running", "running tasks", lambda counts: int(counts.active)),
    _Tab("waiting", "Waiting", "waiting tasks", lambda counts: int(counts.ready)),
    _Tab("scheduled", "Scheduled", "scheduled tasks", lambda counts: int(counts.scheduled)),
)
NAMES: Final = tuple(tab.name for tab in TABS)


@PAGES.page("tasks", "/tasks", "tasks:read", "Tasks", entry=Entry(20, "t"))
async def _tasks(view: View) -> Context:
    return await _frame(view, view.choice("in", NAMES))


@PAGES.page("scheduled", "/scheduled", "tasks:read", "Scheduled", entry=Entry(25, "s"))
async def _scheduled(view: View) -> Context:
    return await _frame(view, "scheduled")


async def _frame(view: View, tab: str) -> dict[str, Any]:
    q = view.query.get("q", "").strip()
    return {
        "tab": tab,
        "q": q,
        "suggestions": await _suggestions(view),
        "examples": [(text, words, view.url("/tasks", **{"in": tab, "q": text})) for text, words in EXAMPLES],
        "exact": q if made_at(q) is not None else "",
    }


async def _suggestions(view: View) -> list[str]:
    """Return what can be searched for, as the search box completes it."""
    found = [f"task:{name}" for name in sorted(view.app.tasks)]
    found += [f"queue:{one.queue}" for one in await view.counts()]
    found += [f"state:{state.lower()}" for state in (states.FAILURE, states.SUCCESS, states.RETRY, states.REVOKED)]
    found += ["since:1h", "since:24h", "runtime:>5s", "wait:>5s", "attempt:>1"]
    if view.app.history is not None:
        try:
            known = await view.site.read(view.app.history.signatures(Filter(), None, SIGNATURES))
        except BackendError:
            known = []
        found += [f"error:{one.error.rpartition('.')[2]}" for one in known if one.error]
    return [one for one in dict.fromkeys(found) if " " not in one][:SUGGESTED]


# --- The lists ----------------------------------------------------------------------------------------


@PAGES.fragment("tasks", "list", ("tasks", "failures", "queues", "workers"), every=READABLY)
async def _list(view: View) -> Context:
    return await _listed(view, view.choice("in", NAMES))


@PAGES.fragment("scheduled", "list", ("queues",), every=READABLY)
async def _list_scheduled(view: View) -> Context:
    return await _listed(view, "scheduled")


async def _listed(view: View, tab: str) -> dict[str, Any]:
    q, cursor = view.query.get("q", "").strip(), view.query.get("cursor") or None
    counts = await view.counts()
    chosen = _chosen(view, q)
    context: dict[str, Any] = {
        "tab": tab, "q": q, "cursor": cursor, "rows": [], "next": None, "said": "", "fault": "",
        "silent": (), "at": None,
        "newest": view.with_query(cursor=None) if cursor else None, "bulk": _bulk(view, tab, q),
        "tabs": [(_label(one, counts, chosen), _url(view, one.name, q), one.name) for one in TABS],
        "words": next(one.words for one in TABS if one.name == tab),
    }  # fmt: skip
    if isinstance(chosen, str):
        return {**context, "fault": chosen}
    try:
        found = await _rows(view, tab, chosen, cursor, counts)
    except (ValueError, NotSupported) as error:
        return {**context, "fault": str(error)}
    if found.get("cursor"):
        context["next"] = view.with_query(cursor=found["cursor"])
    return {**context, **found, "cursor": cursor}


def _url(view: View, tab: str, q: str) -> str:
    return view.url("/tasks", **{"in": None if tab == NAMES[0] else tab, "q": q})


def _label(tab: _Tab, counts: list[Any], chosen: Filter | str) -> str:
    """Return the name of a tab, with how many rows it has, where that is known without looking at them."""
    only_queues = isinstance(chosen, Filter) and chosen == Filter(queues=chosen.queues)
    if tab.number is None or not isinstance(chosen, Filter) or not only_queues:
        return tab.label
    meant = [one for one in counts if Filter(queues=chosen.queues).counts("", one.queue, "", "", "")]
    return f"{tab.label} {sum(tab.number(one) for one in meant):,}"


def _chosen(view: View, q: str) -> Filter | str:
    """Return the filter that a text describes, or what is wrong with it."""
    try:
        return filter_of(view.site, f"id:{q}" if made_at(q) is not None else q)
    except Problem as problem:
        return problem.detail.removeprefix("q: ")


async def _rows(view: View, tab: str, chosen: Filter, cursor: str | None, counts: list[Any]) -> dict[str, Any]:
    key = (tab, view.query.get("q", ""), cursor or "")
    if tab == "running":
        inspector = Inspector(view.app, timeout=view.within or REPLY_SECONDS)
        running, at = await _looked(view, key, lambda: list_running(inspector, chosen, PAGE, view.now))
        said = f"{len(running.rows):,} of {running.of:,}, the longest first"
        return {"rows": running.rows, "said": said, "silent": running.silent, "at": at}
    if tab in ("waiting", "scheduled"):
        if tab == "waiting":
            queues = [one.queue for one in counts if one.ready]
            messages, at = await _looked(view, key, lambda: list_ready(view.app, chosen, queues, PAGE, cursor,
                                                                           SEARCH_SECONDS))  # fmt: skip
        else:
            messages, at = await _looked(view, key, lambda: list_scheduled(view.app, chosen, PAGE, cursor,
                                                                               SEARCH_SECONDS))  # fmt: skip
        total = sum(one.ready if tab == "waiting" else one.scheduled for one in counts)
        is_all = chosen == Filter()
        total = max(total, messages.searched)
        said = f"{total:,} in all" if is_all else f"Looked at {messages.searched:,} of {total:,}"
        return {"rows": [(one, _call(view, one)) for one in messages.rows], "said": said, "cursor": messages.next,
                "at": at}  # fmt: skip
    if tab == "failed":
        if set(chosen.states) - {states.FAILURE}:
            raise ValueError("These have failed: leave the state out, or look at those that have ended.")
        chosen = replace(chosen, states=(states.FAILURE,))
    history = history_of(view.site)
    page, at = await _looked(view, key, lambda: history.search(chosen, PAGE, cursor, SEARCH_SECONDS))
    least = "at least " if page.of == MOST_COUNTED else ""
    which = "the next" if cursor else "the newest"
    said = f"Looked at {which} {page.searched:,} of {least}{max(page.of, page.searched):,} attempts that are kept"
    if any(one.share < 1 for one in page.rows):
        said += "; of successes, a sample is"
    return {"rows": [(one, _kept_call(view, one)) for one in page.rows], "said": said, "cursor": page.next, "at": at}


async def _looked(view: View, key: tuple[str, ...], look: Callable[[], Coroutine[Any, Any, T]],
                  ) -> tuple[T, float | None]:  # fmt: skip
    """Return what is found now, and None; or what was found lately, and when.

    An open page asks again whenever something changes. What took long is shown to it again for `SHARE` times as long,
    so that open pages load the system with a small part of the time; then they are told to ask once more.
    """
    memory, now = _FOUND.setdefault(view.site, {}), time.monotonic()
    known = memory.get(key)
    if known is not None and view.is_fragment and now < known.until:
        if not known.is_asked_again:
            known.is_asked_again = True
            asyncio.get_running_loop().call_later(known.until - now, view.site.pulse.nudge, "tasks", "queues")
        return cast("T", known.value), known.at if view.now - known.at > OLD else None
    found = await view.site.read(look())
    took = time.monotonic() - now
    if len(memory) >= REMEMBERED:
        memory.clear()
    if took > QUICK:
        memory[key] = _Found(now + took * (1 + SHARE), view.now, found)
    return found, None


def _call(view: View, message: Message) -> str:
    return call_text(message, view.app) if view.may("results:read") else ""


def _kept_call(view: View, attempt: Attempt) -> str:
    """Return the arguments of an attempt whose message the history has kept."""
    if attempt.kept is None:
        return ""
    try:
        return _call(view, decode(attempt.kept))
    except Unreadable:
        return ""


class _Button(NamedTuple):
    """An action on all that a filter means."""

    label: str
    url: str
    is_dangerous: bool = False


def _bulk(view: View, tab: str, q: str) -> list[_Button]:
    """Return what can be done with all that the filter means: pages that count first."""
    which = f"id:{q}" if made_at(q) is not None else q

    def button(label: str, action: str, scope: str, is_dangerous: bool = False) -> list[_Button]:
        url = view.url("/bulk/new", action=action, q=which)
        return [_Button(label, url, is_dangerous)] if view.may(scope) else []

    if tab == "failed":
        return button("Retry all…", "retry", "tasks:retry")
    if tab == "waiting":
        return button("Move all…", "move", "queues:write") + button("Revoke all…", "revoke", "tasks:revoke", True)
    if tab == "scheduled":
        return button("Run all now…", "run-now", "tasks:retry")
    return []


# --- Some of them -------------------------------------------------------------------------------------


@PAGES.action("/tasks/selected/retry", "tasks:retry", audit=False)  # the inspector writes down who did it
async def _retry(view: View) -> Done:
    """Send selected tasks again."""
    ids = _ids(view)
    done = await view.site.read(view.site.inspector.retry(ids, view.user.name))
    view.site.pulse.nudge("tasks", "failures", "queues")
    message = f"{_tasks_of(len(done.sent))} sent again."
    if not done.refused:
        return Done(message)
    why = next(iter(done.refused.values()))
    return Done(f"{message} {_tasks_of(len(done.refused))} refused: {why}.", kind="warning")


@PAGES.action("/tasks/selected/revoke", "tasks:revoke")
async def _revoke(view: View) -> Done:
    """Revoke selected tasks."""
    ids = _ids(view)
    await view.site.read(view.site.inspector.revoke(ids))
    view.site.pulse.nudge("tasks", "queues")
    return Done(f"{_tasks_of(len(ids))} revoked: no worker starts them any more.")


@PAGES.action("/tasks/selected/terminate", "tasks:revoke")
async def _terminate(view: View) -> Done:
    """Terminate selected tasks."""
    ids = _ids(view)
    await view.app.control.arevoke(ids, terminate=True)
    view.site.pulse.nudge("tasks", "workers")
    return Done(f"{_tasks_of(len(ids))} revoked, and workers are told to end those that run.")


@PAGES.action("/tasks/selected/run-now", "tasks:retry")
async def _run_now(view: View) -> Done:
    """Run selected scheduled tasks now."""
    ids = _ids(view)
    count = await view.site.read(view.site.inspector.run_now(ids))
    view.site.pulse.nudge("queues")
    return Done(f"{_tasks_of(count)} made ready.", kind="done" if count == len(ids) else "warning")


def _ids(view: View) -> list[str]:
    ids = list(dict.fromkeys(view.form.getlist("id")))[:CHOSEN]
    if not ids:
        raise Problem("bad-body", "Nothing was done: select some tasks first.")
    return ids


def _tasks_of(count: int) -> str:
    return "1 task was" if count == 1 else f"{count:,} tasks were"
