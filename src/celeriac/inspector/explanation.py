"""An explanation: why a task is not running, as reasons. `explaining.py` makes it; front ends show it."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Explanation", "Reason"]


class Reason(msgspec.Struct, frozen=True):
    """One reason: what is so, and what to do next. Instants are in seconds since the epoch."""

    kind: str
    text: str
    advice: str = ""
    command: str | None = None  # what to type after `celeriac -A APP`
    since: float | None = None
    until: float | None = None  # when it will not hold any more, as far as is known
    data: dict[str, Any] = {}
    lines: tuple[str, ...] = ()  # what the text speaks of, one by one


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a task is not running, or what has happened to it."""

    id: str
    task: str | None  # None: unknown
    queue: str | None
    state: str
    place: str | None  # of its message, as in `TaskView`
    status: str  # "waiting", "running", "ended", "dead" or "unknown"
    summary: str
    reasons: list[Reason]  # the most important first
    unseen: list[str] = []  # what could not be known, and why
    at: float = 0.0  # when it was so
