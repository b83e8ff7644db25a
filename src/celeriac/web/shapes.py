"""What a client sends to the HTTP API: the Structs of bodies and queries, which `bodies.py` reads into them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = [
    "AnyQuery",
    "AuditQuery",
    "Batch",
    "BatchCall",
    "BatchQuery",
    "Bulk",
    "Callback",
    "Canary",
    "DeadIds",
    "DeadQuery",
    "EventsQuery",
    "ExplainQuery",
    "FailuresQuery",
    "Flow",
    "FlowerCall",
    "FlowerRevoke",
    "FlowerTimeout",
    "Given",
    "GraphQuery",
    "Leaf",
    "MessagesQuery",
    "MetricsQuery",
    "Name",
    "Nothing",
    "Options",
    "Order",
    "Page",
    "Paused",
    "Purge",
    "Seconds",
    "SeriesQuery",
    "Status",
    "Task",
    "TaskRetry",
    "TasksQuery",
    "Terminate",
    "ViewQuery",
    "WaitQuery",
]

Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Seconds = Annotated[float, Meta(ge=0.0, le=3e10)]
Text = Annotated[str, Meta(max_length=4000)]
Limit = Annotated[int, Meta(ge=1, le=200)]
Offset = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Wait = Annotated[float, Meta(ge=0.0, le=60.0)]
Workflow = Annotated[Name | None, Meta(description="which they are in, to find those that are not sent yet")]
Instant = Annotated[datetime, Meta(tz=True)]


class Given(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a client sends: a field that there is not is an error."""


# --- Bodies -------------------------------------------------------------------------------------------


class Options(Given):
    """The options of a call."""

    queue: Name | None = None
    priority: Annotated[int, Meta(ge=0, le=9, description="9 is the highest")] | None = None
    countdown: Annotated[Seconds, Meta(description="do not start before so many seconds have passed")] | None = None
    eta: Annotated[Instant, Meta(description="do not start before")] | None = None
    expires: Annotated[Seconds | Instant, Meta(description="do not start after: seconds, or a time")] | None = None
    headers: dict[str, Any] | None = None
    id: Annotated[Name, Meta(description="the id of the task; an Idempotency-Key is better against sending twice")] | (
        None
    ) = None
    max_retries: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None
    time_limit: Seconds | UnsetType | None = UNSET
    soft_time_limit: Seconds | UnsetType | None = UNSET
    ignore_result: bool | None = None
    acks_late: bool | None = None


class Callback(Given):
    """Where the end of a task is told."""

    url: Annotated[str, Meta(min_length=1, max_length=2048, description="of a host in `web_callback_hosts`")]
    include_result: Annotated[bool, Meta(description="tell the result, or the error, too")] = False


class Task(Given):
    """A call."""

    task: Name
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    options: Options = msgspec.field(default_factory=Options)
    callback: Callback | None = None


class BatchCall(Given):
    """One of many calls of a task."""

    args: list[Any] = []
    kwargs: dict[str, Any] = {}


class Batch(Given):
    """Many calls of a task, with the same options."""

    task: Name
    calls: Annotated[list[BatchCall], Meta(min_length=1, max_length=1000)]
    options: Options = msgspec.field(default_factory=Options)


class Leaf(Given):
    """A call in a workflow."""

    task: Name
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    options: Options = msgspec.field(default_factory=Options)
    immutable: Annotated[bool, Meta(description="the result before it is not put before its arguments")] = False


class Flow(Given):
    """A workflow: one of these. Parts are calls (`Leaf`) or workflows; `workflows.py` reads them."""

    chain: list[Any] = []
    group: list[Any] = []
    chord: dict[str, Any] = {}


class Terminate(Given):
    """How a task is revoked."""

    terminate: Annotated[bool, Meta(description="also end it if it is running")] = False


class TaskRetry(Given):
    """Where a failed task is sent again."""

    queue: Annotated[Name | None, Meta(description="instead of its own")] = None


class Canary(Given):
    """Some that are done first: if too many of them fail, the others are left alone."""

    count: Annotated[int, Meta(ge=1, le=1000)] = 10
    max_failed: Annotated[float, Meta(ge=0.0, le=1.0, description="the share that may fail")] = 0.1
    seconds: Annotated[float, Meta(ge=1.0, le=3600.0, description="within which they must have ended")] = 300.0


class Bulk(Given):
    """An action on all tasks that a filter means, or on these."""

    action: Literal["resend", "drop", "revoke", "retry", "run-now", "move"]
    filter: Annotated[Text | None, Meta(description="as in task:shop.* queue:mail since:2h; empty: all")] = None
    ids: Annotated[list[Name], Meta(min_length=1, max_length=1000)] | None = None
    before: Annotated[Name | None, Meta(description="an id, as a dry run gives it: nothing that came later")] = None
    dry_run: Annotated[bool, Meta(description="only count")] = False
    canary: Canary | None = None
    queue: Annotated[Name | None, Meta(description="where they go: with move (needed), and retry")] = None


class Status(Given):
    """What becomes of a failure signature."""

    status: Literal["open", "resolved", "muted"]


class Paused(Given):
    """Whether something is paused."""

    paused: bool


class Purge(Given):
    """How many messages are to be deleted; 409 if there are more."""

    expected: Annotated[int, Meta(ge=0)]


class DeadIds(Given):
    """Which dead letters."""

    ids: Annotated[list[Name], Meta(min_length=1, max_length=1000)]


class Order(Given):
    """A control command."""

    order: Name
    arguments: dict[str, Any] = {}


# --- Queries ------------------------------------------------------------------------------------------


class Nothing(Given):
    """No parameter."""


class WaitQuery(Given):
    """How long to wait for the end of a task."""

    wait: Wait = 0.0


class ViewQuery(WaitQuery):
    """How long to wait, and which workflow a task is in."""

    workflow: Workflow = None


class ExplainQuery(Given):
    """What helps to explain a task that the broker alone does not know."""

    workflow: Workflow = None
    task: Name | None = None
    queue: Name | None = None


class BatchQuery(Given):
    """For lines of JSON: the task that they call."""

    task: Name | None = None


class TasksQuery(Given):
    """Which tasks: by their ids, or by a filter of the history."""

    ids: Annotated[str, Meta(min_length=1, description="between commas")] | None = None
    q: Annotated[Text, Meta(description="a filter, as in task:shop.* state:failure since:2h; empty: all")] | None = None
    limit: Annotated[Limit, Meta(description="with q")] = 50
    cursor: Annotated[Text, Meta(min_length=1, description="with q: `next` of the page before")] | None = None
    order: Literal["newest"] = "newest"
    wait: Annotated[Wait, Meta(description="for the first to end")] = 0.0
    workflow: Workflow = None


class EventsQuery(Given):
    """Which tasks to follow: some by their ids, or all that end and are so."""

    ids: Annotated[str, Meta(min_length=1, description="between commas")] | None = None
    task: Annotated[Text, Meta(min_length=1, description="names between commas; * stands for any text")] | None = None
    queue: Annotated[Text, Meta(min_length=1, description="names between commas")] | None = None
    state: Annotated[Text, Meta(min_length=1, description="of ended attempts, as failure,retry")] | None = None
    root: Annotated[Text, Meta(min_length=1, description="ids of first tasks of workflows, between commas")] | None = (
        None
    )


class Page(Given):
    """A part of a list."""

    limit: Limit = 50
    after: Annotated[str, Meta(max_length=1000)] = ""


class MessagesQuery(Given):
    """A part of the messages of a queue."""

    state: Literal["ready", "scheduled"] = "ready"
    limit: Limit = 50
    offset: Offset = 0


class MetricsQuery(Given):
    """By which names metrics are shown."""

    names: Annotated[Literal["celeriac", "celery"], Meta(description="celery: those of celery-exporter")] = "celeriac"


class DeadQuery(Given):
    """A part of the dead letters."""

    queue: Name | None = None
    limit: Limit = 50
    offset: Offset = 0


class FailuresQuery(Given):
    """Which failure signatures."""

    status: Literal["open", "resolved", "muted"] | None = None
    q: Annotated[Text, Meta(description="a filter, as in task:shop.* error:ValueError since:1d")] = ""
    limit: Limit = 50


class SeriesQuery(Given):
    """What is counted: what a filter means, in a time, by steps."""

    task: Name | None = None
    queue: Name | None = None
    q: Annotated[Text, Meta(description="a filter, as in state:failure error:ValueError")] = ""
    since: Annotated[Name | None, Meta(description="2h (ago), 2026-11-29T12:00; an hour before `until`")] = None
    until: Annotated[Name | None, Meta(description="now, if it is left out")] = None
    step: Annotated[Name, Meta(description="10s, 1min, 10min, 1h, 1d")] = "1min"
    by: Annotated[Literal["task", "queue", "error"] | None, Meta(description="what a point is about; all together")] = (
        None
    )


class AuditQuery(Given):
    """Which actions of operators."""

    id: Annotated[Name | None, Meta(description="of the task, queue, worker, schedule or bulk action")] = None
    since: Annotated[Name | None, Meta(description="2h (ago), 2026-11-29, 2026-11-29T12:00")] = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class GraphQuery(Given):
    """How a workflow is drawn."""

    format: Literal["json", "mermaid", "dot", "text"] = "json"


# --- Flower's -----------------------------------------------------------------------------------------


class AnyQuery(msgspec.Struct):
    """Any parameters."""


class FlowerCall(msgspec.Struct, kw_only=True):
    """A call, as clients of Flower send it. Options that there are not are ignored, as Flower does."""

    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    queue: Name | None = None
    countdown: Any = None
    eta: Any = None
    expires: Any = None
    priority: Any = None
    task_id: Name | None = None


class FlowerRevoke(Given):
    """Whether a task is also ended."""

    terminate: str = "false"
    signal: str = ""


class FlowerTimeout(Given):
    """How long to wait for the end of a task."""

    timeout: Wait = 0.0
