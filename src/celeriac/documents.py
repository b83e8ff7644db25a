"""Documents: messages, outcomes, dead letters, schedules and workflows as plain data, and as JSON.

The command (`--json`) and the HTTP API call these functions, so that both give the same documents.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from celeriac import states
from celeriac.app.app import Celeriac
from celeriac.beat.info import ScheduleInfo
from celeriac.canvas.workflow import StepView, Workflow
from celeriac.errors import DecodeError
from celeriac.inspector import Answers, Explanation, TaskView
from celeriac.model.clock import aware
from celeriac.model.history import Attempt, Event, FailureSignature, Sums
from celeriac.model.message import Message
from celeriac.model.outcome import Call, Outcome
from celeriac.model.records import fields
from celeriac.model.serialization import decode
from celeriac.ports.history import Page, Point, Timeline
from celeriac.ports.operations import Dead

__all__ = [
    "answers_document",
    "attempt_document",
    "call_of",
    "dead_document",
    "event_document",
    "explanation_document",
    "failure_document",
    "instant",
    "message_document",
    "outcome_document",
    "page_document",
    "point_document",
    "rows_of",
    "schedule_document",
    "sums_of",
    "timeline_document",
    "to_json",
    "value_of",
    "view_document",
    "workflow_document",
]

KIN = ("parent_id", "root_id", "group_id")


def to_json(document: Any) -> bytes:
    """Return a document as JSON. Values that JSON does not support are written as text."""
    try:
        return msgspec.json.encode(document, enc_hook=_plain)
    except (TypeError, ValueError):  # dict keys that are not plain values, lone surrogates, and the like
        return msgspec.json.encode(_simplified(document), enc_hook=_plain)


def _plain(value: Any) -> Any:
    record = fields(value)
    return record if record is not None else repr(value)


def _simplified(value: Any) -> Any:
    if isinstance(value, dict):
        return {_simplified(str(key)): _simplified(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_simplified(item) for item in value]
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def instant(value: float | None) -> str | None:
    """Return an instant as ISO 8601 in UTC, or None."""
    return aware(value).isoformat(timespec="milliseconds") if value else None


def value_of(outcome: Outcome, app: Celeriac) -> Any:
    """Return a task's return value as plain data; a note with its size if it cannot be decoded here."""
    if outcome.value is None:
        return None
    try:
        value = outcome.encoded_value(app.conf.result_max_bytes) or b""
        return decode(outcome.content_type, value, app.conf.accept_content)
    except DecodeError:
        return f"({len(outcome.value)} bytes of {outcome.content_type})"


def call_of(message: Message | Call, app: Celeriac) -> tuple[list[Any], dict[str, Any]] | None:
    """Return the args and kwargs of a message, or of the call in an outcome; None if they are not known here."""
    if message.body is None:
        return None
    try:
        args, kwargs = decode(message.content_type, message.body, app.conf.accept_content)
    except (DecodeError, TypeError, ValueError):
        return None
    return (list(args), kwargs) if isinstance(args, list | tuple) and isinstance(kwargs, dict) else None


def message_document(message: Message, app: Celeriac) -> dict[str, Any]:
    """Return a message as plain data."""
    call = call_of(message, app)
    return {
        "id": message.id,
        "task": message.task,
        "queue": message.queue,
        "lane": message.lane,
        "priority": message.priority,
        "attempt": message.attempt,
        "sent_at": instant(message.sent_at),
        "due_at": instant(message.due_at),
        "expires_at": instant(message.expires_at),
        "args": None if call is None else call[0],
        "kwargs": None if call is None else call[1],
        "body_bytes": len(message.body),
        "headers": message.headers,
        "parent_id": message.parent_id,
        "root_id": message.root_id,
        "group_id": message.group_id,
    }


def outcome_document(outcome: Outcome, app: Celeriac, traceback: bool = False) -> dict[str, Any]:
    """Return an outcome as plain data; the traceback, which shows paths and code of the worker, only if asked for."""
    failure = outcome.failure
    shown = {"traceback": None if failure is None else failure.traceback or None} if traceback else {}
    return {
        "id": outcome.id,
        "task": outcome.task,
        "state": outcome.state,
        "attempt": outcome.attempt,
        "cause": outcome.cause,
        "result": value_of(outcome, app),
        "error": None
        if failure is None
        else {"type": failure.type, "module": failure.module, "message": failure.message},
        **shown,
        "worker": outcome.worker,
        "started_at": instant(outcome.started_at),
        "done_at": instant(outcome.done_at),
        "runtime": outcome.runtime,
        "parent_id": outcome.parent_id,
        "root_id": outcome.root_id,
        "group_id": outcome.group_id,
    }


def dead_document(dead: Dead, app: Celeriac) -> dict[str, Any]:
    """Return a dead letter as plain data."""
    return {**message_document(dead.message, app), "reason": dead.reason, "dead_at": instant(dead.at)}


def view_document(view: TaskView, app: Celeriac, traceback: bool = False, arguments: bool = False) -> dict[str, Any]:
    """Return what is known about a task as plain data: its outcome's document, and what its message says besides.

    After its end, its outcome may say that (`result_extended`). The traceback and the arguments only if asked for.
    """
    message, outcome = view.message, view.outcome
    ready = outcome is not None and outcome.ready
    if outcome is not None:
        document = outcome_document(outcome, app, traceback)
    else:
        document = dict.fromkeys(("cause", "result", "error", "worker", "started_at", "done_at", "runtime"))
        document |= {name: message and getattr(message, name) for name in ("attempt", *KIN)}
        document |= {"id": view.id, "task": view.task or None, "state": view.state}
    reported = outcome is not None and not ready and outcome.state not in (states.STARTED, states.RETRY)
    sent = message or (outcome and outcome.call)
    call = call_of(sent, app) if sent else None
    shown = {"args": call and call[0], "kwargs": call and call[1]} if arguments else {}
    return {
        **document,
        **shown,
        "ready": ready,
        "place": view.place,
        "progress": document["result"] if reported else None,
        "queue": sent and sent.queue,
        "sent_at": sent and instant(sent.sent_at),
        "due_at": message and instant(message.due_at),
    }


def explanation_document(explanation: Explanation, app: str | None = None) -> dict[str, Any]:
    """Return an explanation as plain data. The commands are whole where the name of the app is known."""
    names = ("id", "task", "queue", "state", "place", "status", "summary", "unseen")
    reasons = [
        {"kind": one.kind, "text": one.text, "lines": one.lines, "advice": one.advice or None,
         "command": one.command and f"celeriac {f'-A {app} ' if app else ''}{one.command}",
         "since": instant(one.since), "until": instant(one.until), "data": one.data}
        for one in explanation.reasons
    ]  # fmt: skip
    return {**{name: getattr(explanation, name) for name in names}, "at": instant(explanation.at), "reasons": reasons}


def workflow_document(workflow: Workflow, views: Sequence[StepView]) -> dict[str, Any]:
    """Return a workflow as plain data, with its tasks (`workflow.steps()`) in the order in which they were written."""
    return {
        "workflow": workflow.id,
        "ended": sum(view.outcome is not None and view.outcome.ready for view in views),
        "total": len(views),
        "tasks": [
            {"id": view.id, "task": view.task, "state": view.state, "cause": view.outcome and view.outcome.cause}
            for view in views
        ],
    }


def answers_document(answers: Answers[Any]) -> dict[str, Any]:
    """Return the replies of workers as plain data: values by worker, errors, and workers that did not reply."""
    return {"workers": msgspec.to_builtins(answers.values), "errors": answers.errors,
            "silent": answers.silent, "unknown": answers.unknown}  # fmt: skip


def schedule_document(info: ScheduleInfo, app: Celeriac) -> dict[str, Any]:
    """Return an entry of the store of schedules as plain data."""
    calls = [(message, call_of(message, app)) for message in info.messages]
    return {
        "name": info.name,
        "state": info.state,
        "problem": info.problem or None,
        "task": info.task,
        "workflow": info.workflow,
        "sends": [
            {"task": message.task, "queue": message.queue, "priority": message.priority,
             "args": given and given[0], "kwargs": given and given[1]}
            for message, given in calls
        ],
        "schedule": info.schedule,
        "words": info.words,
        "timezone": info.timezone,
        "policies": info.policies,
        "next_at": info.next_at and info.next_at.isoformat(),
        "last_at": info.last_at and info.last_at.isoformat(),
        "last_id": info.last_id or None,
        "paused": info.paused,
        "sent": info.sent,
        "missed": info.missed,
        "skipped": info.skipped,
        "version": info.version,
        "origin": info.origin,
    }  # fmt: skip


def attempt_document(attempt: Attempt, traceback: bool = False) -> dict[str, Any]:
    """Return an attempt of the history as plain data; the traceback only if asked for."""
    times = {name: instant(getattr(attempt, name)) for name in ("sent_at", "due_at", "started_at", "done_at")}
    hidden = {"kept"} if traceback else {"kept", "traceback"}
    fields = {name: getattr(attempt, name) for name in attempt.__struct_fields__ if name not in hidden}
    return {**fields, **times, "can_retry": attempt.kept is not None}


# --- The history --------------------------------------------------------------------------------------


def page_document(page: Page) -> dict[str, Any]:
    """Return what a search has found as plain data, and how much it has looked at."""
    return {"tasks": [attempt_document(attempt) for attempt in page.rows], "next": page.next,
            "searched": {"newest": page.searched, "of": page.of}}  # fmt: skip


def timeline_document(id: str, timeline: Timeline, traceback: bool = False) -> dict[str, Any]:
    """Return what the history knows of a task as plain data."""
    return {"id": id, "attempts": [attempt_document(attempt, traceback) for attempt in timeline.attempts],
            "events": [event_document(event) for event in timeline.events]}  # fmt: skip


def event_document(event: Event) -> dict[str, Any]:
    """Return an event of the history as plain data."""
    return {"at": instant(event.at), "kind": event.kind, "id": event.id or None, "by": event.by or None,
            "text": event.text or None, "data": event.data}  # fmt: skip


def failure_document(one: FailureSignature) -> dict[str, Any]:
    """Return a failure signature as plain data."""
    fields = {name: getattr(one, name) for name in one.__struct_fields__}
    times = {name: instant(getattr(one, name)) for name in ("first", "last", "marked_at")}
    return {**fields, **times, "regressed": one.regressed}


def rows_of(points: Sequence[Point], by: str, by_time: bool) -> list[tuple[int, str, dict[str, Sums]]]:
    """Return the points of a series as rows: an instant (0: of all times), a name, and sums by state.

    `by` is what a row is about: "task", "queue", "error" (with its task), or empty for all together.
    """
    found: dict[tuple[int, str], dict[str, Sums]] = defaultdict(lambda: defaultdict(Sums))
    for point in points:
        name = f"{point.task}: {point.error}" if by == "error" else str(getattr(point, by)) if by else ""
        if by != "error" or point.error:
            found[point.at if by_time else 0, name][point.state].merge(point.sums)
    return [(at, name, states) for (at, name), states in sorted(found.items())]


def sums_of(states: dict[str, Sums]) -> Sums:
    """Return the sums of all states together."""
    every = Sums()
    for sums in states.values():
        every.merge(sums)
    return every


def point_document(at: int, name: str, states: dict[str, Sums], by: str) -> dict[str, Any]:
    """Return a row of `rows_of` as plain data; durations in seconds."""
    every = sums_of(states)
    return {"at": instant(at), **({by: name} if by else {}), "count": {state: sums.n for state, sums in states.items()},
            "runtime": every.runtime.summary(), "wait": every.wait.summary()}  # fmt: skip
