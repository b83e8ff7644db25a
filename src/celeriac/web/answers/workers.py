"""Workers, and their replies to control commands."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Orders", "Worker"]


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
