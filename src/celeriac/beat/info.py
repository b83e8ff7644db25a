"""An entry as it is shown to people, with its policies."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_args

import msgspec

from celeriac.beat.definition import MOST_MISSED, MOST_TIMES, Definition, Overlap, definition_of
from celeriac.model.gate import Unreadable
from celeriac.model.message import Message
from celeriac.ports.schedules import Entry
from celeriac.schedules.ticks import Missed

__all__ = ["CHOICES", "DURATIONS", "NUMBERS", "POLICIES", "TEXTS", "ScheduleInfo", "info_of", "instant"]

DURATIONS = ("window", "overlap_timeout", "jitter")
CHOICES = {"missed": get_args(Missed), "overlap": get_args(Overlap)}
NUMBERS = {"max_missed": MOST_MISSED, "times": MOST_TIMES}
"""Whole numbers from 1, and the most that they can be."""
TEXTS = ("description",)
POLICIES = (*CHOICES, *DURATIONS, *NUMBERS, *TEXTS)
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Definition)}
STUCK = "it could not be sent, as the scheduler's log says: change it, or pause and resume it"


class ScheduleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An entry, as it is shown to people."""

    name: str
    task: str  # the first one that it sends
    messages: list[Message] = []  # that it sends at each tick; their ids are placeholders
    workflow: bool = False  # whether it sends a workflow, of which the messages are the beginning
    policies: dict[str, Any] = {}  # those that were given; durations in seconds
    schedule: str  # as it was written
    words: str  # what that means
    timezone: str  # in which its times are told
    next_at: datetime | None  # the next tick; None: it is paused, or over
    last_at: datetime | None  # the tick that was sent last
    last_id: str
    paused: bool
    sent: int
    missed: int
    skipped: int
    version: int
    origin: str
    problem: str = ""  # why it is not sent, and is not going to be

    @property
    def state(self) -> str:
        """One of "active", "paused", "over" and "problem"."""
        if self.problem:
            return "problem"
        return "paused" if self.paused else "over" if self.next_at is None else "active"


def info_of(entry: Entry, timezone: str) -> ScheduleInfo:
    """Return what is shown of an entry. Times are told in this zone, if its schedule has none."""
    try:
        definition = definition_of(entry)
        messages = definition.what.messages()
    except Unreadable as error:
        known: dict[str, Any] = {"task": "", "schedule": "", "words": "", "origin": "?", "problem": str(error)}
    else:
        when = definition.when
        timezone = getattr(when, "tz", None) or timezone
        known = {
            "task": definition.what.task, "schedule": repr(when), "words": when.describe(),
            "origin": definition.origin, "problem": STUCK if _is_stuck(entry, definition) else "",
            "messages": messages, "workflow": definition.what.sends_workflow, "policies": _policies_of(definition),
        }  # fmt: skip
    return ScheduleInfo(
        name=entry.name, timezone=timezone, paused=entry.paused,
        next_at=None if entry.next_at is None else instant(entry.next_at),
        last_at=None if entry.last_at is None else instant(entry.last_at), last_id=entry.last_id,
        sent=entry.sent, missed=entry.missed, skipped=entry.skipped, version=entry.version, **known,
    )  # fmt: skip


def instant(tick: int) -> datetime:
    """Return the instant of a tick."""
    return datetime.fromtimestamp(tick / 1000, UTC)


def _policies_of(definition: Definition) -> dict[str, Any]:
    """Return the policies that are not the default."""
    found = {name: getattr(definition, name) for name in POLICIES}
    given = {name: value for name, value in found.items() if value != DEFAULTS[name]}
    return {name: value / 1000 if name in DURATIONS else value for name, value in given.items()}


def _is_stuck(entry: Entry, definition: Definition) -> bool:
    """Return whether a scheduler has given up on an entry that has ticks to come."""
    if entry.paused or entry.next_at is not None or (definition.times is not None and entry.sent >= definition.times):
        return False
    return definition.when.next(entry.cursor) is not None
