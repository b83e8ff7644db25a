"""Schedules."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["Schedule", "SentByEntry"]


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
