"""`manage.py migrate_beat`, on tables as django-celery-beat makes them."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from bazaar import app
from django.core.management import CommandError, call_command
from django.db import connections

from celeriac.model.serialization import loads

TABLES = {
    "intervalschedule": "id integer PRIMARY KEY, every integer, period varchar(24)",
    "crontabschedule": "id integer PRIMARY KEY, minute varchar(240), hour varchar(96), day_of_month varchar(124), "
    "month_of_year varchar(64), day_of_week varchar(64), timezone varchar(63)",
    "solarschedule": "id integer PRIMARY KEY, event varchar(24), latitude decimal, longitude decimal",
    "clockedschedule": "id integer PRIMARY KEY, clocked_time datetime",
    "periodictask": "id integer PRIMARY KEY, name varchar(200) UNIQUE, task varchar(200), args text, kwargs text, "
    "queue varchar(200), exchange varchar(200), routing_key varchar(200), headers text, priority integer, "
    "expires datetime, expire_seconds integer, one_off bool, start_time datetime, enabled bool, "
    "last_run_at datetime, total_run_count integer, date_changed datetime, description text, crontab_id integer, "
    "interval_id integer, solar_id integer, clocked_id integer",
}


def add(table: str, **values: Any) -> None:
    names = ", ".join(values)
    marks = ", ".join(["%s"] * len(values))
    with connections["archive"].cursor() as cursor:
        cursor.execute(f"INSERT INTO django_celery_beat_{table} ({names}) VALUES ({marks})", list(values.values()))


def periodic(id: int, name: str, task: str = "shop.tasks.add", **values: Any) -> None:
    defaults = {"args": "[1, 2]", "kwargs": "{}", "headers": "{}", "one_off": 0, "enabled": 1}
    add("periodictask", **{"id": id, "name": name, "task": task, **defaults, **values})


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    with connections["archive"].cursor() as cursor:
        for name, columns in TABLES.items():
            cursor.execute(f"CREATE TABLE django_celery_beat_{name} ({columns})")
    yield
    with connections["archive"].cursor() as cursor:
        for name in TABLES:
            cursor.execute(f"DROP TABLE django_celery_beat_{name}")
    for info in app.schedules.list():
        app.schedules.remove(info.name)


def migrate(*arguments: str) -> str:
    out = StringIO()
    call_command("migrate_beat", "--database", "archive", *arguments, stdout=out)
    return out.getvalue()


def test_each_kind_of_schedule_is_copied_with_its_options() -> None:
    add("intervalschedule", id=1, every=5, period="minutes")
    add("crontabschedule", id=1, minute="30", hour="7", day_of_month="*", month_of_year="*", day_of_week="1",
        timezone="Europe/Berlin")  # fmt: skip
    add("clockedschedule", id=1, clocked_time="2099-01-01 12:00:00")
    periodic(1, "five", interval_id=1, queue="reports", priority=7, expire_seconds=60, headers='{"from": "beat"}')
    periodic(2, "monday", crontab_id=1, args="[]", kwargs='{"x": 1, "y": 2}')
    periodic(3, "later", clocked_id=1, one_off=1)
    periodic(4, "off", interval_id=1, enabled=0)
    periodic(5, "bounded", interval_id=1, start_time="2098-01-01 00:00:00", expires="2099-01-01 00:00:00")
    told = migrate()
    assert told.splitlines() == ["copied: bounded", "copied: five", "copied: later", "copied: monday",
                                 "copied: off (paused)"]  # fmt: skip
    five, monday, later = (app.schedules.get(name) for name in ("five", "monday", "later"))
    assert five.schedule == "every(minutes=5)"
    (message,) = five.messages
    assert (message.queue, message.priority, message.headers) == ("reports", 7, {"from": "beat"})
    assert loads(message.body) == [[1, 2], {}]
    assert monday.schedule == "crontab(minute=30, hour=7, day_of_week=1, tz='Europe/Berlin')"
    assert loads(monday.messages[0].body) == [[], {"x": 1, "y": 2}]
    assert "2099-01-01" in later.schedule
    assert later.policies == {"times": 1}
    assert (app.schedules.get("off").state, app.schedules.get("five").state) == ("paused", "active")
    assert "2098-01-01" in app.schedules.get("bounded").schedule


def test_it_may_be_called_again() -> None:
    add("intervalschedule", id=1, every=5, period="minutes")
    periodic(1, "five", interval_id=1)
    assert migrate() == "copied: five\n"
    assert migrate() == "there already: five\n"


def test_a_dry_run_changes_nothing() -> None:
    add("intervalschedule", id=1, every=5, period="minutes")
    periodic(1, "five", interval_id=1)
    assert migrate("--dry-run") == "to be copied: five\n"
    assert list(app.schedules.list()) == []


def test_what_cannot_be_copied_is_told_and_the_rest_is_copied(capsys: pytest.CaptureFixture[str]) -> None:
    add("intervalschedule", id=1, every=5, period="minutes")
    add("clockedschedule", id=1, clocked_time="2001-01-01 12:00:00")
    periodic(1, "cleanup", "celery.backend_cleanup", interval_id=1)
    periodic(2, "fine", interval_id=1)
    periodic(3, "keyed", interval_id=1, routing_key="mail.#")
    periodic(4, "nothing")
    periodic(5, "past", clocked_id=1)
    periodic(6, "nowhere", interval_id=1, queue="unknown")
    periodic(7, "wrong", interval_id=1, args="[1]")
    out, errors = StringIO(), StringIO()
    with pytest.raises(CommandError, match="5 could not be copied"):
        call_command("migrate_beat", "--database", "archive", stdout=out, stderr=errors)
    assert out.getvalue().splitlines() == ["left out: cleanup (outcomes expire by themselves)", "copied: fine"]
    told = errors.getvalue()
    for name, why in (("keyed", "routing key"), ("nothing", "no schedule"), ("past", "has passed"),
                      ("nowhere", "'unknown'"), ("wrong", "'y' is missing")):  # fmt: skip
        assert f"not copied: {name}: " in told
        assert why in told


def test_without_the_tables_it_says_so() -> None:
    with pytest.raises(CommandError, match="no table django_celery_beat_periodictask"):
        call_command("migrate_beat", stdout=StringIO())
