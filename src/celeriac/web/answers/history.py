"""The history: timelines, failure signatures, sums by time, and what operators did."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from celeriac.web.answers.tasks import Attempt

__all__ = ["Event", "Series", "SeriesPoint", "Signature", "Timeline"]


class Event(msgspec.Struct, kw_only=True):
    """Something that happened once: an operator did something."""

    at: str | None
    kind: str
    id: str | None
    by: str | None
    text: str | None
    data: dict[str, Any]


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
