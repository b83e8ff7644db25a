"""Tasks: what is known of them, why one is not running, and what was done about some."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = ["Attempt", "Explanation", "Failure", "Reason", "Revoke", "Searched", "SentAgain", "Tasks", "View"]


class Failure(msgspec.Struct, kw_only=True):
    """The exception that ended a task."""

    type: str
    module: str
    message: str


class View(msgspec.Struct, kw_only=True):
    """What is known of a task."""

    id: str
    task: str | None
    state: str
    ready: bool
    place: Literal["ready", "scheduled", "active", "dead"] | None
    queue: str | None
    attempt: int | None
    result: Any
    error: Failure | None
    progress: Any
    cause: str | None
    worker: str | None
    sent_at: str | None
    due_at: str | None
    started_at: str | None
    done_at: str | None
    runtime: float | None
    parent_id: str | None
    root_id: str | None
    group_id: str | None
    traceback: str | UnsetType | None = UNSET


class Attempt(msgspec.Struct, kw_only=True):
    """An attempt that the history has kept; times are null if they are unknown, durations are seconds."""

    id: str
    task: str
    queue: str
    state: str
    attempt: int | None
    worker: str
    sent_at: str | None
    due_at: str | None
    started_at: str | None
    done_at: str | None
    runtime: float
    wait: float
    error: str
    message: str
    signature: str
    share: Annotated[float, Meta(description="it stands for 1 / share attempts")]
    root_id: str | None
    parent_id: str | None
    group_id: str | None
    headers: dict[str, Any]
    can_retry: bool
    traceback: str | UnsetType = UNSET


class Searched(msgspec.Struct, kw_only=True):
    """How many attempts were looked at, of how many there are."""

    newest: int
    of: int


class Tasks(msgspec.Struct, kw_only=True):
    """Views of tasks, by id; or with `q`, attempts of the history, the newest first."""

    tasks: dict[str, View] | list[Attempt]
    next: Annotated[str | UnsetType | None, Meta(description="the cursor of the next page")] = UNSET
    searched: Searched | UnsetType = UNSET


class Reason(msgspec.Struct, kw_only=True):
    """One reason why a task is not running, and what to do next."""

    kind: str
    text: str
    lines: list[str]
    advice: str | None
    command: str | None
    since: str | None
    until: str | None
    data: dict[str, Any]


class Explanation(msgspec.Struct, kw_only=True):
    """Why a task is not running, or what has happened to it: the most important reason first."""

    id: str
    task: str | None
    queue: str | None
    state: str
    place: str | None
    status: Literal["waiting", "running", "ended", "dead", "unknown"]
    summary: str
    unseen: list[str]
    at: str
    reasons: list[Reason]


class Revoke(msgspec.Struct, kw_only=True):
    """Tasks that were revoked."""

    revoked: list[str]


class SentAgain(msgspec.Struct, kw_only=True):
    """How many tasks were sent again, and why others were not."""

    sent: int
    refused: dict[str, str]
