"""What Django's columns show of outcomes and schedules: their lengths, kinds of schedules, texts and instants.

`columns.py` writes them; models and forms read them, without SQLAlchemy, which takes long to import.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple
from uuid import UUID

from celeriac.beat.definition import Definition, definition_of
from celeriac.model.gate import Unreadable
from celeriac.model.outcome import Outcome
from celeriac.ports.schedules import Entry
from celeriac.schedules.cron import Cron
from celeriac.schedules.crontab import Crontab
from celeriac.schedules.intervals import Every
from celeriac.schedules.once import At
from celeriac.schedules.schedule import Schedule
from celeriac.schedules.solar import Solar

__all__ = ["KINDS", "NAME_LENGTH", "PREFIX", "RECORD_KIND", "TEXT_LENGTH", "Facts", "call_texts", "created_at",
           "facts_of", "instant", "kind_of", "storable"]

PREFIX: Final = "celeriac_django_"
NAME_LENGTH: Final = 255
TEXT_LENGTH: Final = 500

KINDS: Final = {"interval": Every, "crontab": Crontab, "cron": Cron, "solar": Solar, "clocked": At}
"""Schedules by django-celery-beat's words, and cron expressions, which that has not."""

JSON_TYPE: Final = "application/json"
RECORD_KIND: Final = "record"
"""The kind of rows that are not of schedules: see `beat/release.py`."""


class Facts(NamedTuple):
    """What the columns show of a definition."""

    task: str = ""
    kind: str = ""
    queue: str = ""
    schedule: str = ""
    description: str = ""
    args: str = ""
    kwargs: str = ""
    one_off: bool = False
    start_time: datetime | None = None
    expires: datetime | None = None


@lru_cache(maxsize=10_000)
def facts_of(definition: bytes) -> Facts:
    """Return what the columns show of a definition; nothing, if it is unreadable."""
    try:
        read = definition_of(Entry(name="", definition=definition, cursor=0))  # type: ignore[arg-type]
        message = read.what.messages()[0]
    except Unreadable:
        return Facts()
    args, kwargs = call_texts(read)
    when = read.when
    return Facts(
        storable(read.what.task, NAME_LENGTH), kind_of(when), storable(message.queue, NAME_LENGTH),
        storable(when.describe(), TEXT_LENGTH), storable(read.description, TEXT_LENGTH), args, kwargs,
        read.times == 1, instant(when.starts and when.starts / 1000), instant(when.ends and when.ends / 1000),
    )  # fmt: skip


def kind_of(when: Schedule) -> str:
    """Return which kind of schedule one is."""
    return next(kind for kind, known in KINDS.items() if isinstance(when, known))


def call_texts(definition: Definition) -> tuple[str, str]:
    """Return the arguments of what a schedule sends as JSON, as messages have them; empty for what is not JSON.

    A workflow has arguments of its own in each task: it has none here.
    """
    if definition.what.sends_workflow:
        return "", ""
    message = definition.what.messages()[0]
    if message.content_type != JSON_TYPE:
        return "", ""
    try:
        args, kwargs = json.loads(message.body)
    except ValueError:
        return "", ""
    return json.dumps(args, ensure_ascii=False), json.dumps(kwargs, ensure_ascii=False)


def instant(at: float | None) -> datetime | None:
    """Return seconds since the epoch as Django's fields take them; None for 0, too."""
    return datetime.fromtimestamp(at, UTC) if at else None


def created_at(outcome: Outcome) -> float | None:
    """Return when the message was made: its id tells it, unless the caller has chosen another."""
    if outcome.call is not None:
        return outcome.call.sent_at
    try:
        id = UUID(outcome.id)
    except ValueError:
        return None
    return (id.int >> 80) / 1000 if id.version == 7 else None


def storable(text: str, length: int) -> str:
    """Return text that all databases take, of so many characters at most."""
    return text[:length].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
