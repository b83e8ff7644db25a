"""What was sent, and which tasks can be."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["BatchSent", "Sent", "TaskType"]


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


class TaskType(msgspec.Struct, kw_only=True):
    """A task that can be sent, and its parameters as a JSON Schema."""

    name: str
    doc: str | None
    kind: Literal["plain", "coroutine"]
    signature: str
    parameters: dict[str, Any]
    options: dict[str, Any]
