"""The rows of django-celery-beat, as schedules of Celeriac; `manage.py migrate_beat` copies them.

The tables are read by SQL, so that the package need not be installed any more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

from django.db import connections
from django.utils.timezone import get_default_timezone, is_naive, make_aware
from msgspec.structs import replace

from celeriac import at, crontab, every, solar
from celeriac.app.app import Celeriac
from celeriac.errors import CeleriacError, ImproperlyConfigured
from celeriac.ports.schedules import Entry
from celeriac.schedules.schedule import Schedule

__all__ = ["COPY_ERRORS", "NOT_NEEDED", "Rows", "entry_of", "rows_of"]

PREFIX: Final = "django_celery_beat_"
TASKS: Final = f"{PREFIX}periodictask"
KINDS: Final = {"interval_id": "intervalschedule", "crontab_id": "crontabschedule", "solar_id": "solarschedule",
                "clocked_id": "clockedschedule"}  # fmt: skip
INSTANTS: Final = {"start_time", "expires", "clocked_time"}
NOT_NEEDED: Final = {"celery.backend_cleanup": "outcomes expire by themselves"}
"""Tasks of Celery itself, and why nothing has to send them."""

Row = Mapping[str, Any]
Rows = dict[str, dict[Any, Row]]


def rows_of(database: str) -> Rows:
    """Return the rows of all tables, by table and id. Raises `ImproperlyConfigured` if there are none."""
    connection = connections[database]
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        if TASKS not in tables:
            raise ImproperlyConfigured(f"The database {database!r} has no table {TASKS}: name another with --database.")
        found: Rows = {}
        for name in ("periodictask", *KINDS.values()):
            table = f"{PREFIX}{name}"
            rows = []
            if table in tables:
                cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608 - a name of ours
                columns = [column[0] for column in cursor.description]
                zone = connection.timezone or get_default_timezone()
                rows = [_with_instants(dict(zip(columns, row, strict=True)), zone) for row in cursor.fetchall()]
            found[name] = {row["id"]: row for row in rows}
    return found


def entry_of(app: Celeriac, row: Row, rows: Rows) -> Entry:
    """Return the entry of a row of PeriodicTask. Raises `CeleriacError` or `ValueError` for what cannot be copied."""
    if row.get("exchange") or row.get("routing_key"):
        raise ValueError("it has an exchange or a routing key: set its queue instead")
    options: dict[str, Any] = {"queue": row.get("queue") or None, "priority": row.get("priority"),
                               "headers": json.loads(row.get("headers") or "{}") or None,
                               "expires": row.get("expire_seconds")}  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    what = app.signature(row["task"], json.loads(row["args"] or "[]"), json.loads(row["kwargs"] or "{}"), **given)
    policies = {"times": 1} if row["one_off"] else {}
    definition = app.schedules.definition(_schedule(row, rows), what, **policies)
    entry: Entry = app.schedules.entry(row["name"], definition)
    return entry if row["enabled"] else replace(entry, paused=True, next_at=None)


def _schedule(row: Row, rows: Rows) -> Schedule:
    column = next((column for column in KINDS if row.get(column) is not None), None)
    if column is None:
        raise ValueError("it has no schedule")
    told = rows[KINDS[column]].get(row[column])
    if told is None:
        raise ValueError(f"its schedule, {KINDS[column]} {row[column]}, is missing")
    bounds = {"starts": row.get("start_time"), "ends": row.get("expires")}
    limits: dict[str, Any] = {name: value for name, value in bounds.items() if value is not None}
    if column == "interval_id":
        if told["period"] == "microseconds":
            return every(seconds=told["every"] / 1_000_000, **limits)
        return every(**{told["period"]: told["every"]}, **limits)
    if column == "crontab_id":
        return crontab(minute=told["minute"], hour=told["hour"], day_of_week=told["day_of_week"],
                       day_of_month=told["day_of_month"], month_of_year=told["month_of_year"],
                       tz=str(told["timezone"]), **limits)  # fmt: skip
    if column == "solar_id":
        return solar(told["event"], float(told["latitude"]), float(told["longitude"]), **limits)
    moment = told["clocked_time"]
    if moment is None or moment <= datetime.now(UTC):
        raise ValueError("its only time has passed")
    return at(moment)


def _with_instants(row: dict[str, Any], zone: tzinfo) -> Row:
    """Return a row with aware instants. Naive ones are in the zone of Django's connection; SQLite has text."""
    for name in INSTANTS & row.keys():
        if row[name] is not None:
            moment = row[name] if isinstance(row[name], datetime) else datetime.fromisoformat(row[name])
            row[name] = make_aware(moment, zone) if is_naive(moment) else moment
    return row


COPY_ERRORS = (CeleriacError, ValueError, TypeError)
"""What `entry_of` raises for a row that cannot be copied."""
