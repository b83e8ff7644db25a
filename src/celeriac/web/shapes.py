"""What a client sends to the HTTP API: the Structs of bodies and queries, which `bodies.py` reads into them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = [
    "AnyQuery",
    "Batch",
    "BatchCall",
    "BatchQuery",
    "ByIds",
    "DeadIds",
    "DeadQuery",
    "EventsQuery",
    "Flow",
    "FlowerCall",
    "FlowerRevoke",
    "FlowerTimeout",
    "GraphQuery",
    "Leaf",
    "MessagesQuery",
    "MetricsQuery",
    "Nothing",
    "Options",
    "Order",
    "Page",
    "Paused",
    "Purge",
    "Task",
    "Terminate",
    "ViewQuery",
    "WaitQuery",
]

Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Seconds = Annotated[float, Meta(ge=0.0, le=3e10)]
Limit = Annotated[int, Meta(ge=1, le=200)]
Offset = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Wait = Annotated[float, Meta(ge=0.0, le=60.0)]
Workflow = Annotated[Name | None, Meta(description="which they are in, to find those that are not sent yet")]
Instant = Annotated[datetime, Meta(tz=True)]


class _Given(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a client sends: a field that there is not is an error."""


# --- Bodies -------------------------------------------------------------------------------------------


class Options(_Given):
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


class Task(_Given):
    """A call."""

    task: Name
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    options: Options = msgspec.field(default_factory=Options)


class BatchCall(_Given):
    """One of many calls of a task."""

    args: list[Any] = []
    kwargs: dict[str, Any] = {}


class Batch(_Given):
    """Many calls of a task, with the same options."""

    task: Name
    calls: Annotated[list[BatchCall], Meta(min_length=1, max_length=1000)]
    options: Options = msgspec.field(default_factory=Options)


class Leaf(_Given):
    """A call in a workflow."""

    task: Name
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    options: Options = msgspec.field(default_factory=Options)
    immutable: Annotated[bool, Meta(description="the result before it is not put before its arguments")] = False


class Flow(_Given):
    """A workflow: one of these. Parts are calls (`Leaf`) or workflows; `workflows.py` reads them."""

    chain: list[Any] = []
    group: list[Any] = []
    chord: dict[str, Any] = {}


class Terminate(_Given):
    """How a task is revoked."""

    terminate: Annotated[bool, Meta(description="also end it if it is running")] = False


class Paused(_Given):
    """Whether something is paused."""

    paused: bool


class Purge(_Given):
    """How many messages are to be deleted; 409 if there are more."""

    expected: Annotated[int, Meta(ge=0)]


class DeadIds(_Given):
    """Which dead letters."""

    ids: Annotated[list[Name], Meta(min_length=1, max_length=1000)]


class Order(_Given):
    """A control command."""

    order: Name
    arguments: dict[str, Any] = {}


# --- Queries ------------------------------------------------------------------------------------------


class Nothing(_Given):
    """No parameter."""


class WaitQuery(_Given):
    """How long to wait for the end of a task."""

    wait: Wait = 0.0


class ViewQuery(WaitQuery):
    """How long to wait, and which workflow a task is in."""

    workflow: Workflow = None


class BatchQuery(_Given):
    """For lines of JSON: the task that they call."""

    task: Name | None = None


class ByIds(_Given):
    """Which tasks."""

    ids: Annotated[str, Meta(min_length=1, description="between commas")]
    wait: Annotated[Wait, Meta(description="for the first to end")] = 0.0
    workflow: Workflow = None


class EventsQuery(_Given):
    """Which tasks to follow."""

    ids: Annotated[str, Meta(min_length=1, description="between commas")]


class Page(_Given):
    """A part of a list."""

    limit: Limit = 50
    after: Annotated[str, Meta(max_length=1000)] = ""


class MessagesQuery(_Given):
    """A part of the messages of a queue."""

    state: Literal["ready", "scheduled"] = "ready"
    limit: Limit = 50
    offset: Offset = 0


class MetricsQuery(_Given):
    """By which names metrics are shown."""

    names: Annotated[Literal["celeriac", "celery"], Meta(description="celery: those of celery-exporter")] = "celeriac"


class DeadQuery(_Given):
    """A part of the dead letters."""

    queue: Name | None = None
    limit: Limit = 50
    offset: Offset = 0


class GraphQuery(_Given):
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


class FlowerRevoke(_Given):
    """Whether a task is also ended."""

    terminate: str = "false"
    signal: str = ""


class FlowerTimeout(_Given):
    """How long to wait for the end of a task."""

    timeout: Wait = 0.0
