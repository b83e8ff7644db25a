"""What the tables of outcomes and schedules show to Django's ORM, in columns besides Celeriac's own bytes.

The backend writes them with the bytes, by the same statement; `models.py` reads them. They are what rows are found by:
everything else that a model has, it takes from the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from django.db import connections
from django.utils import timezone
from sqlalchemy import Boolean, Column, DateTime, Index, Integer, String, Text, TypeDecorator
from sqlalchemy.dialects.mysql import DATETIME, LONGTEXT
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

from celeriac.beat.definition import RECORD
from celeriac.beat.info import info_of
from celeriac.contrib.django.db.values import (
    NAME_LENGTH,
    RECORD_KIND,
    TEXT_LENGTH,
    Facts,
    created_at,
    facts_of,
    instant,
    storable,
)
from celeriac.drivers.sql.columns import MYSQL
from celeriac.drivers.sql.shown import Shown
from celeriac.model.outcome import Outcome
from celeriac.ports.schedules import Entry

__all__ = ["DjangoColumns"]

UNICODE: Final = "utf8mb4_general_ci"  # of MariaDB and MySQL, whose other columns are ASCII


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
            "task_name": storable(outcome.task, NAME_LENGTH), "worker": storable(outcome.worker, NAME_LENGTH),
            "date_created": instant(created_at(outcome) or now), "date_started": instant(outcome.started_at),
            "date_done": instant(outcome.done_at or now),
        }  # fmt: skip

    def of_entry(self, entry: Entry) -> Mapping[str, Any]:
        """Return the values for a schedule."""
        facts = facts_of(bytes(entry.definition)) if not entry.name.startswith(RECORD) else Facts(kind=RECORD_KIND)
        state = "active" if entry.next_at is not None and not entry.paused else info_of(entry, "UTC").state
        return {
            "title": storable(entry.name, NAME_LENGTH), "state": state if facts.kind != RECORD_KIND else "",
            "enabled": not entry.paused, "total_run_count": min(entry.sent, 2_147_483_647),
            "last_run_at": instant(entry.last_at and entry.last_at / 1000),
            **facts._asdict(),
        }  # fmt: skip

    def _moment(self, name: str) -> Column[datetime]:
        return Column(name, _Moment(self._alias), nullable=True)
