"""What the HTTP API answers: Structs that describe it in the OpenAPI document.

The answers themselves are made by `documents.py`. Tests hold each answer against its Struct.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = [
    "Attempt",
    "BatchSent",
    "BulkCount",
    "BulkState",
    "CallbackData",
    "CallbackEvent",
    "CanaryState",
    "Dead",
    "Done",
    "Event",
    "Explanation",
    "Failure",
    "Message",
    "Orders",
    "Problem",
    "Queue",
    "Reason",
    "Revoke",
    "Schedule",
    "Searched",
    "Sent",
    "SentAgain",
    "SentByEntry",
    "Series",
    "SeriesPoint",
    "Signature",
    "TaskType",
    "Tasks",
    "Timeline",
    "View",
    "Worker",
    "Workflow",
    "WorkflowSent",
    "WorkflowStep",
]


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
    release: Annotated[str, Meta(description="of the worker's code, if it has failed; empty: it had no name")]
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


class Event(msgspec.Struct, kw_only=True):
    """Something that happened once: an operator did something."""

    at: str | None
    kind: str
    id: str | None
    by: str | None
    text: str | None
    data: dict[str, Any]


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


class Timeline(msgspec.Struct, kw_only=True):
    """What the history knows of a task, the oldest first."""

    id: str
    attempts: list[Attempt]
    events: list[Event]


class Signature(msgspec.Struct, kw_only=True):
    """Failures that have the same cause."""

    signature: str
    task: str
    error: str
    title: str
    frames: list[str]
    first: str | None
    last: str | None
    workers: list[str]
    ids: Annotated[list[str], Meta(description="the latest tasks")]
    first_release: Annotated[str, Meta(description="of the code that failed first; empty: it had no name")]
    releases: Annotated[list[str], Meta(description="that failed, the latest last")]
    count: int
    retries: int
    status: Literal["open", "resolved", "muted"]
    marked_at: str | None
    marked_by: str
    regressed: Annotated[bool, Meta(description="it has come back since it was resolved")]
    attempts: Annotated[list[Attempt] | UnsetType, Meta(description="the latest; of one signature")] = UNSET


class SeriesPoint(msgspec.Struct, kw_only=True):
    """What ended in one step: how many by state, and how long they ran and had waited."""

    at: str | None
    count: dict[str, int]
    runtime: dict[str, float]
    wait: dict[str, float]
    task: str | UnsetType = UNSET
    queue: str | UnsetType = UNSET
    error: str | UnsetType = UNSET


class Series(msgspec.Struct, kw_only=True):
    """What ended, by steps (seconds) in which something did."""

    since: str | None
    until: str | None
    step: int
    points: list[SeriesPoint]


class BulkCount(msgspec.Struct, kw_only=True):
    """What a bulk action would act on."""

    matched: int
    of: Literal["exact", "at least"]
    before: Annotated[str, Meta(description="with this, the action leaves alone what has come since")]


class CanaryState(msgspec.Struct, kw_only=True):
    """How those do that went first."""

    count: int
    ended: int
    failed: int


class BulkState(msgspec.Struct, kw_only=True):
    """How far a bulk action is."""

    bulk: str
    action: str
    filter: str | None
    before: str
    by: str
    state: Literal["counting", "canary", "running", "done", "stopped", "failed", "interrupted"]
    matched: Annotated[int | None, Meta(description="null until they are counted")]
    more: Annotated[bool, Meta(description="there are more than one action takes: repeat it")]
    done: int
    refused: int
    reasons: Annotated[dict[str, int], Meta(description="why some were refused")]
    why: Annotated[str | None, Meta(description="it was stopped, has failed or was interrupted")]
    canary: Annotated[CanaryState | None, Meta(description="null if none go first")]
    started_at: str | None
    updated_at: str | None


class SentAgain(msgspec.Struct, kw_only=True):
    """How many tasks were sent again, and why others were not."""

    sent: int
    refused: dict[str, str]


class Sent(msgspec.Struct, kw_only=True):
    """A task that was sent."""

    id: str
    task: str
    state: str
    queue: str
    due_at: str | None
    links: dict[str, str]


class BatchSent(msgspec.Struct, kw_only=True):
    """Tasks that were sent."""

    ids: list[str]


class CallbackData(msgspec.Struct, kw_only=True):
    """What a callback tells of a task: the result or the error only if the call asked for it."""

    id: str
    task: str
    state: Literal["SUCCESS", "FAILURE", "REVOKED"]
    result: Any = UNSET
    error: Failure | UnsetType | None = UNSET


class CallbackEvent(msgspec.Struct, kw_only=True):
    """The CloudEvents document that a callback sends."""

    specversion: Literal["1.0"]
    id: Annotated[str, Meta(description="the same in each attempt")]
    source: str
    type: Literal["celeriac.task.ended"]
    subject: Annotated[str, Meta(description="the id of the task")]
    time: str
    datacontenttype: Literal["application/json"]
    data: CallbackData


class WorkflowSent(msgspec.Struct, kw_only=True):
    """A workflow that was sent."""

    id: str
    workflow_id: str | None
    ids: Annotated[list[str], Meta(description="of the tasks whose results are the result")]
    links: dict[str, str]


class Revoke(msgspec.Struct, kw_only=True):
    """Tasks that were revoked."""

    revoked: list[str]


class WorkflowStep(msgspec.Struct, kw_only=True):
    """A task of a workflow."""

    id: str
    task: str
    state: str
    cause: str | None


class Workflow(msgspec.Struct, kw_only=True):
    """A workflow: how many of its tasks have ended."""

    workflow: str
    ended: int
    total: int
    tasks: list[WorkflowStep]


class TaskType(msgspec.Struct, kw_only=True):
    """A task that can be sent, and its parameters as a JSON Schema."""

    name: str
    doc: str | None
    kind: Literal["plain", "coroutine"]
    signature: str
    parameters: dict[str, Any]
    options: dict[str, Any]


class Queue(msgspec.Struct, kw_only=True):
    """How many messages a queue holds."""

    queue: str
    ready: int
    scheduled: int
    active: int
    dead: int
    paused: bool


class Message(msgspec.Struct, kw_only=True):
    """A message that waits."""

    id: str
    task: str
    queue: str
    lane: str
    priority: int
    attempt: int
    sent_at: str | None
    due_at: str | None
    expires_at: str | None
    args: list[Any] | None
    kwargs: dict[str, Any] | None
    body_bytes: int
    headers: dict[str, Any]
    parent_id: str | None
    root_id: str | None
    group_id: str | None


class Dead(Message, kw_only=True):
    """A dead letter."""

    reason: str
    dead_at: str | None


class Done(msgspec.Struct, kw_only=True):
    """How many there were."""

    count: int


class Worker(msgspec.Struct, kw_only=True):
    """A worker that holds a lease."""

    name: str
    host: str
    pid: int
    started_at: str | None
    queues: list[str]
    concurrency: dict[str, int]
    version: str
    renewed_at: str | None
    expires_at: str | None


class Orders(msgspec.Struct, kw_only=True):
    """Replies to a control command."""

    workers: dict[str, Any]
    errors: dict[str, str]
    silent: list[str]
    unknown: list[str]


class Schedule(msgspec.Struct, kw_only=True):
    """A schedule."""

    name: str
    state: Literal["active", "paused", "over", "problem"]
    problem: str | None
    task: str
    workflow: bool
    sends: list[dict[str, Any]]
    schedule: str
    words: str
    timezone: str
    policies: dict[str, Any]
    next_at: str | None
    last_at: str | None
    last_id: str | None
    paused: bool
    sent: int
    missed: int
    skipped: int
    version: int
    origin: str


class SentByEntry(msgspec.Struct, kw_only=True):
    """What a schedule has sent."""

    name: str
    id: str


class Problem(msgspec.Struct, kw_only=True):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
