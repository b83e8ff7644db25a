"""Queues, the messages that wait in them, and dead letters."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

__all__ = ["Dead", "Done", "Message", "Queue"]


class Queue(msgspec.Struct, kw_only=True):
    """How many messages a queue holds."""

    queue: str
    ready: int
    scheduled: int
    active: int
    dead: int
    paused: bool
    uncounted: Annotated[
        str, Meta(description="why there are only at least so many ready and dead; empty: there are exactly so many")
    ]


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
