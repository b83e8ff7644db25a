"""A task: why it does not run, its life on one time axis, its attempts, call and result, and what belongs to it."""

from __future__ import annotations

from typing import Any, Final

from celeriac import states
from celeriac.dashboard.calls import Shown, arguments_of, shown
from celeriac.dashboard.pages import Context, Pages
from celeriac.dashboard.tasks import REPLY_SECONDS
from celeriac.dashboard.templating import condition
from celeriac.dashboard.timeline import axis, bars_of
from celeriac.dashboard.view import View, segment
from celeriac.documents import value_of
from celeriac.errors import BackendError
from celeriac.inspector import Explanation, Inspector
from celeriac.inspector.explaining import explain
from celeriac.inspector.facts import Facts
from celeriac.model.gate import Unreadable
from celeriac.model.history import Attempt
from celeriac.model.masks import masked_arguments
from celeriac.model.message import Message, decode
from celeriac.model.outcome import Outcome
from celeriac.ports.history import Timeline

__all__ = ["PAGES"]

PAGES: Final = Pages()

TRACEBACK: Final = 20_000  # characters of one that are shown
MOST: Final = 1e15  # of anything that is counted: more, infinity and NaN are shown as they were reported


@PAGES.page("task", "/tasks/{id:path}", "tasks:read", "Task", under="tasks")
async def _task(view: View) -> Context:
    return {}


@PAGES.fragment("task", "task", ("task:{id}",))
async def _everything(view: View) -> Context:
    id = view.path["id"]
    inspector = Inspector(view.app, timeout=view.within or REPLY_SECONDS)
    counts = await view.counts()
    facts = await view.site.read(inspector.facts(id, workflow=view.query.get("workflow") or None, counts=counts))
    timeline = await _timeline(view, id)
    told = explain(facts)
    message, outcome = facts.view.message, facts.view.outcome
    last = timeline.attempts[-1] if timeline.attempts else None
    kept = message or _kept(outcome, last)
    is_over = told.status in ("ended", "dead") or (told.status == "unknown" and last is not None)
    started_at = _started_at(facts)
    return {
        "id": id,
        "name": facts.task or (last.task if last else "") or (kept.task if kept else ""),
        "told": told,
        "explains": told.status != "ended",
        "can": _actions(view, told, facts, last),
        "state": _state(told, facts, last),
        "chart": _chart(view, timeline.attempts, facts, kept, last, started_at),
        "figures": _figures(view, facts, timeline.attempts, kept, started_at),
        "attempts": [_attempt(view, one) for one in reversed(_attempts(timeline.attempts, outcome, kept))],
        "progress": _progress(view, outcome),
        "arguments": _arguments(view, kept, outcome),
        "result": _result(view, outcome),
        "is_over": is_over,
        "facts": _facts(view, facts, kept, last),
        "events": timeline.events,
    }


async def _timeline(view: View, id: str) -> Timeline:
    if view.app.history is None:
        return Timeline([], [])
    try:
        return await view.site.read(view.app.history.timeline(id))
    except BackendError:
        return Timeline([], [])


def _kept(outcome: Outcome | None, last: Attempt | None) -> Message | None:
    """Return the message of a task that has failed, if it was kept."""
    for kept in (outcome.kept if outcome is not None else None, last.kept if last is not None else None):
        if kept is not None:
            try:
                return decode(kept)
            except Unreadable:
                continue
    return None


def _state(told: Explanation, facts: Facts, last: Attempt | None) -> str:
    """Return the word for how it is: where its message is, or how it has ended."""
    if told.status == "running":
        return "active"
    if facts.view.place is not None:
        return facts.view.place
    if facts.view.outcome is not None:
        return facts.view.outcome.state
    return last.state if last is not None else "unknown"


def _started_at(facts: Facts) -> float | None:
    """Return when the attempt began that runs now."""
    owns = [reply.own for reply in facts.replies.values.values() if reply.own is not None]
    begun = next((own.started_at for own in owns if own.started_at is not None), None)
    outcome = facts.view.outcome
    if begun is None and facts.view.place == "active" and outcome is not None and not outcome.ready:
        return outcome.started_at or None
    return begun


# --- Its life -----------------------------------------------------------------------------------------


def _attempts(kept: list[Attempt], outcome: Outcome | None, message: Message | None) -> list[Attempt]:
    """Return the attempts that are known, the oldest first: those of the history, and the one of the outcome."""
    found = list(kept)
    if outcome is None or outcome.state not in (*states.READY_STATES, states.RETRY) or outcome.cause is not None:
        return found
    if any(one.attempt == outcome.attempt and abs(one.done_at - outcome.done_at) < 1.0 for one in found):
        return found
    failure = outcome.failure
    sent_at = message.sent_at if message is not None else outcome.call.sent_at if outcome.call is not None else 0.0
    started_at = outcome.started_at or max(0.0, outcome.done_at - outcome.runtime)
    found.append(Attempt(
        id=outcome.id, task=outcome.task, state=outcome.state, attempt=outcome.attempt, worker=outcome.worker,
        sent_at=sent_at, started_at=started_at, done_at=outcome.done_at, runtime=outcome.runtime,
        wait=max(0.0, started_at - sent_at) if sent_at and outcome.attempt == 1 else 0.0,
        error=failure.type if failure is not None else "",
        message=failure.message[:TRACEBACK] if failure is not None else "",
        traceback=failure.traceback[-TRACEBACK:] if failure is not None else "",
        signature=failure.signature if failure is not None else "",
    ))  # fmt: skip
    return sorted(found, key=lambda one: one.done_at)


def _chart(view: View, kept: list[Attempt], facts: Facts, message: Message | None, last: Attempt | None,
           started_at: float | None) -> Any:  # fmt: skip
    attempts = [one for one in _attempts(kept, facts.view.outcome, message) if one.started_at]
    sent_at = _sent_at(facts, attempts, message)
    if not sent_at:
        return None
    is_here = facts.view.place in ("ready", "scheduled", "active") or started_at is not None
    bars = bars_of(sent_at, attempts, due_at=message.due_at if message is not None and is_here else None,
                   ready=facts.view.place == "ready", started_at=started_at,
                   now=view.now if is_here else None)  # fmt: skip
    return axis(bars, sent_at, view.now if is_here else None) if bars else None


def _sent_at(facts: Facts, attempts: list[Attempt], message: Message | None) -> float:
    outcome = facts.view.outcome
    if message is not None and message.sent_at:
        return message.sent_at
    if outcome is not None and outcome.call is not None and outcome.call.sent_at:
        return outcome.call.sent_at
    return next((one.sent_at or one.started_at for one in attempts), 0.0)


def _figures(view: View, facts: Facts, kept: list[Attempt], message: Message | None,
             started_at: float | None) -> dict[str, Any]:  # fmt: skip
    attempts = _attempts(kept, facts.view.outcome, message)
    ended = [one for one in attempts if one.started_at]
    number = max([one.attempt for one in attempts] + [message.attempt if message is not None else 1])
    sent_at, outcome = _sent_at(facts, ended, message), facts.view.outcome
    place = facts.view.place
    waited = sum(one.wait for one in ended)
    if place == "ready" and message is not None:
        waited += max(0.0, view.now - max(message.due_at or 0.0, message.sent_at, ended[-1].done_at if ended else 0.0))
    ran = sum(one.runtime for one in ended)
    if started_at is not None:
        due = max(message.due_at or 0.0, ended[-1].done_at if ended else 0.0) if message is not None else 0.0
        waited += max(0.0, started_at - max(sent_at, due)) if sent_at else 0.0
        ran += max(0.0, view.now - started_at)
    has_run = bool(ended) or started_at is not None
    worker = facts.holder.worker.name if facts.holder is not None and place == "active" else ""
    worker = worker or next((name for name, reply in facts.replies.values.items() if reply.own), "")
    return {
        "attempt": number, "of": facts.max_attempts, "sent_at": sent_at or None,
        "waited": waited if has_run or place == "ready" else None, "ran": ran if has_run else None,
        "started_at": started_at,
        "ended_at": outcome.done_at if outcome is not None and outcome.ready and place is None else None,
        "due_at": message.due_at if message is not None and place == "scheduled" else None,
        "worker": worker or (ended[-1].worker if ended else ""), "queue": facts.queue,
    }  # fmt: skip


def _attempt(view: View, one: Attempt) -> dict[str, Any]:
    may_see = view.may("results:traceback")
    traceback = one.traceback[-TRACEBACK:].rstrip() if may_see else ""
    return {"attempt": one, "traceback": traceback, "hides": bool(one.traceback) and not may_see}


# --- What it was called with, and what came back ------------------------------------------------------


def _arguments(view: View, message: Message | None, outcome: Outcome | None) -> dict[str, Any]:
    call = message or (outcome.call if outcome is not None else None)
    if not view.may("results:read"):
        return {"why": "You may not see arguments: it needs the scope results:read.", "rows": None}
    if call is None:
        return {"why": "They are not kept after its end: the setting result_extended keeps them.", "rows": None}
    name = message.task if message is not None else outcome.task if outcome is not None else ""
    found = arguments_of(call, name, view.app)
    if found is None:
        size = len(call.body or b"")
        return {"why": f"{size:,} bytes of {call.content_type}, which cannot be read here.", "rows": None}
    return {"why": "", "rows": [(name, shown(value)) for name, value in found]}


def _result(view: View, outcome: Outcome | None) -> Shown | None:
    if outcome is None or outcome.state != states.SUCCESS or not view.may("results:read"):
        return None
    return shown(masked_arguments(value_of(outcome, view.app)))


def _progress(view: View, outcome: Outcome | None) -> dict[str, Any] | None:
    """Return what a task that runs has reported."""
    if outcome is None or outcome.ready or outcome.state in (states.STARTED, states.RETRY, states.PENDING):
        return None
    value = masked_arguments(value_of(outcome, view.app)) if view.may("results:read") else None
    done, total = (value.get("done"), value.get("total")) if isinstance(value, dict) else (None, None)
    is_share = (isinstance(done, int | float) and isinstance(total, int | float)
                and abs(done) < MOST and 0 < total < MOST)  # fmt: skip
    rest: Any = value
    if is_share and isinstance(value, dict):
        rest = {key: item for key, item in value.items() if key not in ("done", "total")}
    return {"state": outcome.state, "done": done if is_share else None, "total": total if is_share else None,
            "at": outcome.done_at or None, "rest": shown(rest).text if rest not in (None, {}) else ""}  # fmt: skip


# --- What belongs to it -------------------------------------------------------------------------------


def _facts(view: View, facts: Facts, message: Message | None, last: Attempt | None) -> list[tuple[str, str, str]]:
    """Return names, values, and addresses that values lead to."""
    outcome = facts.view.outcome
    known: Any = message or outcome or last
    if known is None:
        return []
    place = message.place if message is not None and message.place else outcome.place if outcome is not None else None
    place = place or (facts.view.message.place if facts.view.message is not None else None)
    root, parent, group = known.root_id, known.parent_id, known.group_id
    signature = next((one for one in (last.signature if last is not None else "", outcome.failure.signature
        if outcome is not None and outcome.failure is not None else "") if one), "")  # fmt: skip
    headers = message.headers if message is not None else last.headers if last is not None else {}
    trace = (outcome.trace if outcome is not None else "") or str(headers.get("traceparent", ""))
    found: list[tuple[str, str, str]] = []

    def add(name: str, value: Any, url: str = "") -> None:
        if value not in (None, "", 0):
            found.append((name, str(value), url))

    add("Workflow", place and place.workflow, view.url(f"/workflows/{segment(place.workflow)}") if place else "")
    add("Began with", root if root != facts.view.id else "", view.url(f"/tasks/{segment(root)}") if root else "")
    add("Sent by", parent, view.url(f"/tasks/{segment(parent)}") if parent else "")
    add("Group", group, view.url("/tasks", q=condition(group, "group")) if group else "")
    add("Led to", "its tasks", view.url("/tasks", q=condition(root or facts.view.id, "root")))
    add("Not run because of", outcome and outcome.cause,
        view.url(f"/tasks/{segment(outcome.cause)}") if outcome is not None and outcome.cause else "")  # fmt: skip
    add("Failure", signature, view.url(f"/failures/{segment(signature)}") if signature else "")
    add("Trace", trace.split("-")[1] if trace.count("-") == 3 else trace)
    if message is not None:
        add("Priority", message.priority)
        add("Lane", {"plain": "plain function", "coroutine": "coroutine"}[message.lane])
        add("Runs", "at least once" if message.acks_late else "at most once")
        add("Soft time limit", message.soft_time_limit and f"{message.soft_time_limit:g} s")
        add("Time limit", message.time_limit and f"{message.time_limit:g} s")
        add("Size", f"{len(message.body):,} bytes")
    if view.may("results:read"):
        for name, value in masked_arguments(headers).items():
            add(f"Header {name}", value if isinstance(value, str) else shown(value).text)
    return found


# --- Actions ------------------------------------------------------------------------------------------


def _actions(view: View, told: Explanation, facts: Facts, last: Attempt | None) -> list[tuple[str, str, str, bool]]:
    """Return what can be done: label, action, class of its button, and whether it is asked first."""
    place, outcome = facts.view.place, facts.view.outcome
    found: list[tuple[str, str, str, str, bool]] = []
    if told.status == "running":
        found.append(("Terminate", "terminate", "tasks:revoke", "danger", True))
    elif place == "scheduled":
        found.append(("Run now", "run-now", "tasks:retry", "primary", False))
    elif place == "dead":
        found.append(("Send again", "resend", "dead:write", "primary", False))
        found.append(("Delete", "drop", "dead:write", "danger", True))
    if place in ("ready", "scheduled") and told.status == "waiting":
        found.append(("Revoke", "revoke", "tasks:revoke", "", True))
    if outcome is None:
        may_retry = place is None and last is not None and last.kept is not None
    else:
        may_retry = place is None and outcome.state == states.FAILURE and outcome.place is None
    if may_retry:
        found.append(("Retry", "retry", "tasks:retry", "primary", False))
    return [(label, name, kind, asks) for label, name, scope, kind, asks in found if view.may(scope)]
