"""What the tables of outcomes and schedules show to Django's ORM, in columns besides Celeriac's own bytes.

The backend writes them with the bytes, by the same statement; `models.py` reads them. They are what rows are found by:
everything else that a model has, it takes from the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.db import connections
from django.utils import timezone
from sqlalchemy import Boolean, Column, DateTime, Index, Integer, String, Text, TypeDecorator
from sqlalchemy.dialects.mysql import DATETIME, LONGTEXT
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

from celeriac.beat.definition import RECORD, Definition, definition_of
from celeriac.beat.info import info_of
from celeriac.drivers.sql.columns import MYSQL
from celeriac.drivers.sql.shown import Shown
from celeriac.model.gate import Unreadable
from celeriac.model.outcome import Outcome
from celeriac.ports.schedules import Entry
from celeriac.schedules.cron import Cron
from celeriac.schedules.crontab import Crontab
from celeriac.schedules.intervals import Every
from celeriac.schedules.once import At
from celeriac.schedules.schedule import Schedule
from celeriac.schedules.solar import Solar

__all__ = ["KINDS", "NAME_LENGTH", "PREFIX", "RECORD_KIND", "TEXT_LENGTH", "DjangoColumns", "call_texts", "kind_of"]

PREFIX: Final = "celeriac_django_"
NAME_LENGTH: Final = 255
TEXT_LENGTH: Final = 500
UNICODE: Final = "utf8mb4_general_ci"  # of MariaDB and MySQL, whose other columns are ASCII

KINDS: Final = {"interval": Every, "crontab": Crontab, "cron": Cron, "solar": Solar, "clocked": At}
"""Schedules by django-celery-beat's words, and cron expressions, which that has not."""

JSON_TYPE: Final = "application/json"
RECORD_KIND: Final = "record"
"""The kind of rows that are not of schedules: see `beat/release.py`."""


def _text(name: str, length: int = NAME_LENGTH) -> Column[str]:
    kind = String(length)
    return Column(name, kind.with_variant(String(length, collation=UNICODE), *MYSQL), nullable=False)


def _long(name: str) -> Column[str]:
    return Column(name, Text().with_variant(LONGTEXT(collation=UNICODE), *MYSQL), nullable=False)


class _Moment(TypeDecorator[datetime]):
    """An instant as Django writes it. All but PostgreSQL have it in the zone of Django's connections, unnamed."""

    impl = DateTime
    cache_ok = True

    def __init__(self, alias: str) -> None:
        super().__init__(timezone=True)
        self.alias = alias

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type of the column."""
        return dialect.type_descriptor(DATETIME(fsp=6) if dialect.name in MYSQL else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what is sent to the server."""
        if value is None or dialect.name == "postgresql":
            return value
        zone = connections[self.alias].timezone or timezone.get_default_timezone()
        return value.astimezone(zone).replace(tzinfo=None)


class DjangoColumns(Shown):
    """The columns in a database of Django's, in which instants are as Django writes them."""

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def outcome_columns(self, prefix: str) -> list[SchemaItem]:
        """Return those of `TaskResult`."""
        return [
            _text("task_name"), _text("worker"), self._moment("date_created"), self._moment("date_started"),
            self._moment("date_done"),
            Index(f"{prefix}outcomes_task", "task_name", "stored_at"),
            Index(f"{prefix}outcomes_state", "state", "stored_at"),
            Index(f"{prefix}outcomes_done", "date_done"),
        ]  # fmt: skip

    def schedule_columns(self, prefix: str) -> list[SchemaItem]:
        """Return those of `PeriodicTask`."""
        return [
            _text("title"), _text("task"), _text("kind", 16), _text("state", 16), _text("queue"),
            _text("schedule", TEXT_LENGTH), _text("description", TEXT_LENGTH), _long("args"), _long("kwargs"),
            Column("enabled", Boolean, nullable=False), Column("one_off", Boolean, nullable=False),
            Column("total_run_count", Integer, nullable=False), self._moment("start_time"),
            self._moment("expires"), self._moment("last_run_at"), Index(f"{prefix}schedules_title", "title"),
        ]  # fmt: skip

    def of_outcome(self, outcome: Outcome, now: float) -> Mapping[str, Any]:
        """Return the values for an outcome."""
        return {
            "task_name": _storable(outcome.task, NAME_LENGTH), "worker": _storable(outcome.worker, NAME_LENGTH),
            "date_created": _instant(_created_at(outcome) or now), "date_started": _instant(outcome.started_at),
            "date_done": _instant(outcome.done_at or now),
        }  # fmt: skip

    def of_entry(self, entry: Entry) -> Mapping[str, Any]:
        """Return the values for a schedule."""
        facts = _facts(bytes(entry.definition)) if not entry.name.startswith(RECORD) else _Facts(kind=RECORD_KIND)
        state = "active" if entry.next_at is not None and not entry.paused else info_of(entry, "UTC").state
        return {
            "title": _storable(entry.name, NAME_LENGTH), "state": state if facts.kind != RECORD_KIND else "",
            "enabled": not entry.paused, "total_run_count": min(entry.sent, 2_147_483_647),
            "last_run_at": _instant(entry.last_at and entry.last_at / 1000),
            **facts._asdict(),
        }  # fmt: skip

    def _moment(self, name: str) -> Column[datetime]:
        return Column(name, _Moment(self._alias), nullable=True)


class _Facts(NamedTuple):
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
def _facts(definition: bytes) -> _Facts:
    try:
        read = definition_of(Entry(name="", definition=definition, cursor=0))  # type: ignore[arg-type]
        message = read.what.messages()[0]
    except Unreadable:
        return _Facts()
    args, kwargs = call_texts(read)
    when = read.when
    return _Facts(
        _storable(read.what.task, NAME_LENGTH), kind_of(when), _storable(message.queue, NAME_LENGTH),
        _storable(when.describe(), TEXT_LENGTH), _storable(read.description, TEXT_LENGTH), args, kwargs,
        read.times == 1, _instant(when.starts and when.starts / 1000), _instant(when.ends and when.ends / 1000),
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


def _instant(at: float | None) -> datetime | None:
    return datetime.fromtimestamp(at, UTC) if at else None


def _created_at(outcome: Outcome) -> float | None:
    """Return when the message was made: its id tells it, unless the caller has chosen another."""
    if outcome.call is not None:
        return outcome.call.sent_at
    try:
        id = UUID(outcome.id)
    except ValueError:
        return None
    return (id.int >> 80) / 1000 if id.version == 7 else None


def _storable(text: str, length: int) -> str:
    """Return text that all databases take, of so many characters at most."""
    return text[:length].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
