"""JSON output (`--json`): turns messages, outcomes and dead letters into plain data and prints one document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from celeriac.app.app import Celeriac
from celeriac.errors import DecodeError
from celeriac.model.clock import aware
from celeriac.model.history import Attempt
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.model.records import fields
from celeriac.model.serialization import decode
from celeriac.ports.operations import Dead

__all__ = ["as_json", "attempt_document", "call_of", "dead_document", "emit", "instant", "message_document",
           "outcome_document", "value_of"]  # fmt: skip

Command = TypeVar("Command", bound=Callable[..., Any])

as_json: Callable[[Command], Command] = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


ESCAPED = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
"""Control characters that JSON allows in strings, and that terminals obey."""


def emit(document: Any) -> None:
    """Print a JSON document. Values that JSON does not support are printed as text."""
    try:
        data = msgspec.json.encode(document, enc_hook=_plain)
    except (TypeError, ValueError):  # dict keys that are not plain values, lone surrogates, and the like
        data = msgspec.json.encode(_simplified(document), enc_hook=_plain)
    click.echo(msgspec.json.format(data, indent=2).decode().translate(ESCAPED))


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
        return decode(outcome.content_type, outcome.value, app.conf.accept_content)
    except DecodeError:
        return f"({len(outcome.value)} bytes of {outcome.content_type})"


def call_of(message: Message, app: Celeriac) -> tuple[list[Any], dict[str, Any]] | None:
    """Return a message's args and kwargs; None if they cannot be decoded here."""
    try:
        args, kwargs = decode(message.content_type, message.body, app.conf.accept_content)
    except (DecodeError, TypeError, ValueError):
        return None
    return args, kwargs


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


def attempt_document(attempt: Attempt, traceback: bool = False) -> dict[str, Any]:
    """Return an attempt of the history as plain data; the traceback only if asked for."""
    times = {name: instant(getattr(attempt, name)) for name in ("sent_at", "due_at", "started_at", "done_at")}
    hidden = {"kept"} if traceback else {"kept", "traceback"}
    fields = {name: getattr(attempt, name) for name in attempt.__struct_fields__ if name not in hidden}
    return {**fields, **times, "can_retry": attempt.kept is not None}


def dead_document(dead: Dead, app: Celeriac) -> dict[str, Any]:
    """Return a dead letter as plain data."""
    return {**message_document(dead.message, app), "reason": dead.reason, "dead_at": instant(dead.at)}
