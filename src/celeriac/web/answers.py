"""What the HTTP API answers: Structs that describe it in the OpenAPI document.

The answers themselves are made by `documents.py`. Tests hold each answer against its Struct.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = [
    "BatchSent",
    "CallbackData",
    "CallbackEvent",
    "Dead",
    "Done",
    "Failure",
    "Message",
    "Orders",
    "Problem",
    "Queue",
    "Revoke",
    "Schedule",
    "Sent",
    "SentByEntry",
    "TaskType",
    "Tasks",
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


class Tasks(msgspec.Struct, kw_only=True):
    """Views of tasks, by id."""

    tasks: dict[str, View]


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
