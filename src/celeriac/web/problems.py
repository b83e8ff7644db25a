"""Errors as answers: problem details (RFC 9457), and the one table from Celeriac's errors to them.

Endpoints raise a `Problem`, or let an error of Celeriac's through; `application.py` answers with `answer(...)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from celeriac import errors
from celeriac.beat.schedules import UnknownSchedule
from celeriac.errors import CeleriacError, NotRegistered, UnknownQueue, nearest
from celeriac.model.masks import masked

__all__ = ["KINDS", "PREFIX", "TABLE", "Kind", "Problem", "answer", "kind_of", "problem_of"]

PREFIX: Final = "urn:celeriac:problem:"
CONTENT_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = 5  # seconds; when a server is away


class Kind(NamedTuple):
    """A kind of problem: what follows `PREFIX` in its type, its status, and its title."""

    name: str
    status: int
    title: str


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("bad-json", 400, "The body is not JSON"),
        Kind("bad-request", 400, "The request cannot be understood"),
        Kind("unauthenticated", 401, "A token is needed"),
        Kind("scope", 403, "The token does not allow this"),
        Kind("forbidden", 403, "This request is refused"),
        Kind("not-found", 404, "There is nothing at this address"),
        Kind("unknown-task", 404, "There is no task of this name"),
        Kind("unknown-id", 404, "Nothing is known of this id"),
        Kind("unknown-lease", 404, "There is no such lease"),
        Kind("unknown-queue", 404, "There is no queue of this name"),
        Kind("unknown-schedule", 404, "There is no schedule of this name"),
        Kind("unknown-signature", 404, "There is no failure of this signature"),
        Kind("unknown-bulk", 404, "There is no such bulk action"),
        Kind("unknown-worker", 404, "There is no worker of this name"),
        Kind("unknown-workflow", 404, "There is no such workflow"),
        Kind("method-not-allowed", 405, "This address has no such method"),
        Kind("too-slow", 408, "The body did not arrive in time"),
        Kind("changed", 409, "There is more than was expected"),
        Kind("wrong-state", 409, "The task is not in a state for this"),
        Kind("outstanding", 409, "The same request is being handled"),
        Kind("expired", 410, "This is no longer kept"),
        Kind("too-large", 413, "The request is too large"),
        Kind("wrong-content-type", 415, "The body has another content type"),
        Kind("bad-arguments", 422, "The arguments do not fit"),
        Kind("bad-body", 422, "The body does not fit"),
        Kind("bad-query", 422, "A parameter of the query does not fit"),
        Kind("key-reused", 422, "The key was used for another request"),
        Kind("task-failed", 424, "The task has failed"),
        Kind("too-many", 429, "There are too many requests"),
        Kind("internal", 500, "The server has failed"),
        Kind("misconfigured", 500, "The server is wrongly configured"),
        Kind("not-configured", 501, "The server is not configured for this"),
        Kind("not-supported", 501, "The broker or the result backend cannot do this"),
        Kind("broker-failed", 502, "The broker or the result backend has failed"),
        Kind("broker-unavailable", 503, "The broker or the result backend cannot be reached"),
    )
}
"""All kinds, by name."""

TABLE: Final[Mapping[type[CeleriacError], str]] = {
    CeleriacError: "internal",
    # Raised before anything is sent
    errors.ImproperlyConfigured: "misconfigured",
    UnknownSchedule: "unknown-schedule",
    errors.NotRegistered: "unknown-task",
    errors.UnknownOption: "bad-body",
    errors.UnknownQueue: "unknown-queue",
    errors.ArgumentsError: "bad-arguments",
    errors.EncodeError: "bad-arguments",
    errors.DecodeError: "bad-arguments",
    errors.MessageTooLarge: "too-large",
    errors.WorkflowError: "bad-body",
    errors.AddressRefused: "bad-body",
    errors.BadSignature: "unauthenticated",
    # Servers
    errors.BrokerError: "broker-failed",
    errors.BrokerUnavailable: "broker-unavailable",
    errors.BrokerMisconfigured: "misconfigured",
    errors.AccessRefused: "broker-failed",
    errors.NotSupported: "not-supported",
    errors.Unstorable: "bad-arguments",
    errors.ForeignDatabase: "misconfigured",
    errors.BackendError: "broker-failed",
    errors.BackendUnavailable: "broker-unavailable",
    errors.LeaseLost: "broker-failed",
    errors.MailError: "internal",  # a worker sends mails
    # Results
    errors.ResultTimeout: "broker-unavailable",
    errors.ResultIgnored: "expired",
    errors.ResultLost: "expired",
    errors.WaitInTask: "internal",
    errors.RemoteError: "task-failed",
    errors.TaskRevoked: "task-failed",
    errors.TaskExpired: "task-failed",
    errors.WorkerLost: "task-failed",
    errors.MaxRetriesExceeded: "task-failed",
    # Inside a task; they get here only from tasks that run in this process (`task_always_eager`)
    errors.SoftTimeLimitExceeded: "task-failed",
    errors.TimeLimitExceeded: "task-failed",
    errors.Ignore: "task-failed",
    errors.Reject: "task-failed",
    errors.Replaced: "task-failed",
    errors.Retry: "task-failed",
}
"""The kind of problem of each error. A test walks the tree of errors, and finds each one here."""


class Problem(Exception):
    """A request that is refused, with what its answer says."""

    def __init__(self, kind: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.kind = KINDS[kind]
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = {name: value for name, value in more.items() if value is not None}


def kind_of(error: type[CeleriacError]) -> str:
    """Return the kind of problem that an error is: that of its class, or of the nearest class above it."""
    return next(TABLE[kind] for kind in error.__mro__ if kind in TABLE)


def problem_of(error: Exception) -> Problem:
    """Return the problem that any exception is. The text of an exception that is not ours is left out."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return _of_status(error.status_code, dict(error.headers or {}))
    if not isinstance(error, CeleriacError):
        return Problem("internal", "The server has failed. Its log has the reason.")
    kind = kind_of(type(error))
    more: dict[str, Any] = {}
    if isinstance(error, NotRegistered):
        more["nearest"] = _nearest(error.task, error.known)
    elif isinstance(error, UnknownQueue):
        more["nearest"] = _nearest(error.queue, error.known)
    if kind == "broker-unavailable":
        more["headers"] = {"Retry-After": str(RETRY_AFTER)}
    return Problem(kind, masked(str(error)), **more)


def answer(request: Request, problem: Problem) -> Response:
    """Return the answer that tells of a problem."""
    kind = problem.kind
    document = {"type": PREFIX + kind.name, "title": kind.title, "status": kind.status, "detail": problem.detail,
                "instance": request.url.path, **problem.more}  # fmt: skip
    body = msgspec.json.encode(_encodable(document))
    return Response(body, kind.status, {"Cache-Control": "no-store", **problem.headers}, CONTENT_TYPE)


def _of_status(status: int, headers: Mapping[str, str]) -> Problem:
    kind = {404: "not-found", 405: "method-not-allowed"}.get(status, "bad-request" if status < 500 else "internal")
    detail = {"not-found": "There is nothing at this address. /api/v1/openapi.json lists all addresses.",
              "method-not-allowed": f"This address takes {headers.get('Allow', 'other methods')}.",
              }.get(kind, HTTPStatus(status).phrase)  # fmt: skip
    return Problem(kind, detail, headers=headers)


def _nearest(name: str, known: Sequence[str]) -> str | None:
    return nearest(name, known).partition("'")[2].rpartition("'")[0] or None


def _encodable(document: Any) -> Any:
    """Return plain data without lone surrogates, which a client can send and UTF-8 cannot hold."""
    if isinstance(document, str):
        return document.encode(errors="replace").decode()
    if isinstance(document, dict):
        return {_encodable(name): _encodable(value) for name, value in document.items()}
    return [_encodable(item) for item in document] if isinstance(document, list) else document
