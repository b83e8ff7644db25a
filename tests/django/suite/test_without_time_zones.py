"""A project with `USE_TZ = False`: instants are naive, in the time zone of the settings, wherever Django has them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import mail.tasks
import pytest
from bazaar import app
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.utils import timezone

from celeriac.contrib.django.db.models import ClockedSchedule, IntervalSchedule, PeriodicTask, TaskResult
from celeriac.model.message import new_id
from celeriac.model.outcome import Outcome
from conftest import Worker
from tests.patience import PATIENCE

pytestmark = pytest.mark.skipif(settings.USE_TZ, reason="the project has time zones")

NOON = datetime(2099, 1, 1, 12)  # 18:00 in UTC
NOON_UTC = datetime(2099, 1, 1, 18, tzinfo=UTC)
SCHEDULES = "/admin/celeriac_db/periodictask/"
RESULTS = "/admin/celeriac_db/taskresult/"


@pytest.fixture(autouse=True)
def forget() -> None:
    app.import_tasks()
    TaskResult.objects.all().delete()
    PeriodicTask.objects.all().delete()


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create_user(new_id(), is_staff=True, is_superuser=True))
    return client


def made(**fields: Any) -> PeriodicTask:
    PeriodicTask.objects.create(**{"name": "five", "task": "shop.tasks.add", "args": "[1, 2]", **fields})
    return PeriodicTask.objects.get(name="five")


def test_results_of_a_worker_have_naive_times_that_queries_compare(worker: Worker) -> None:
    before = timezone.now()
    sent = mail.tasks.add.enqueue(1, y=2)
    assert app.AsyncResult(sent.id).get(timeout=PATIENCE) == 3
    result, row, after = mail.tasks.add.get_result(sent.id), TaskResult.objects.get(task_id=sent.id), timezone.now()
    assert before <= result.enqueued_at <= result.started_at <= result.finished_at <= after
    assert before - timedelta(milliseconds=1) <= row.date_created <= row.date_started <= row.date_done <= after
    assert list(TaskResult.objects.filter(date_done__range=(before, after))) == [row]
    assert not TaskResult.objects.filter(date_done__gt=after).exists()


def test_limits_of_schedules_are_those_of_the_zone_of_the_settings() -> None:
    row = made(interval=IntervalSchedule(5, "minutes"), start_time=NOON, expires=NOON + timedelta(1))
    assert (row.start_time, row.expires) == (NOON, NOON + timedelta(1))
    assert PeriodicTask.objects.filter(start_time=NOON, expires__gt=NOON).get() == row
    assert app.schedules.get("five").next_at == NOON_UTC
    assert row.next_run_at == NOON
    assert row.next_runs(2) == [NOON, NOON + timedelta(minutes=5)]


def test_a_clocked_schedule_is_at_a_naive_time() -> None:
    row = made(clocked=ClockedSchedule(NOON), one_off=True)
    assert app.schedules.get("five").next_at == NOON_UTC
    assert row.next_run_at == NOON > timezone.now()


@pytest.mark.parametrize(("fields", "words"), [
    ({"when": "interval", "every": "5", "period": "minutes"}, "every 5 minutes"),
    ({"when": "clocked", "clocked_time_0": "2099-01-01", "clocked_time_1": "12:00"},
     "once, at 2099-01-01T18:00:00+00:00"),
])  # fmt: skip
def test_the_admin_adds_and_shows_schedules(root: Client, fields: dict[str, str], words: str) -> None:
    given = {"name": "five", "task": "shop.tasks.add", "args": "[1, 2]", "kwargs": "{}", "headers": "{}",
             "enabled": "on", "missed": "latest", "overlap": "allow", **fields}  # fmt: skip
    assert root.post(f"{SCHEDULES}add/", given).status_code == 302
    assert app.schedules.get("five").words == words
    text = root.get(SCHEDULES).content.decode()
    assert words in text
    assert ">in " in text
    assert root.get(f"{SCHEDULES}{PeriodicTask.objects.get().pk}/change/").status_code == 200


def test_the_admin_tells_that_a_time_has_passed(root: Client) -> None:
    given = {"name": "five", "task": "shop.tasks.add", "args": "[1, 2]", "kwargs": "{}", "headers": "{}",
             "missed": "latest", "overlap": "allow", "when": "clocked", "clocked_time_0": "2001-01-01",
             "clocked_time_1": "12:00"}  # fmt: skip
    assert "This time has passed." in root.post(f"{SCHEDULES}add/", given).content.decode()


def test_the_admin_lists_results_by_time_and_shows_when_they_were(root: Client) -> None:
    now = datetime.now(UTC).timestamp()
    outcome = Outcome(id=new_id(), task="shop.tasks.add", state="SUCCESS", value=b"3", started_at=now - 61,
                      done_at=now - 60)  # fmt: skip
    app.backend.save([outcome])
    since = timezone.now() - timedelta(hours=1)
    text = root.get(RESULTS, {"date_done__gte": f"{since:%Y-%m-%d %H:%M:%S}"}).content.decode()
    assert "1 task result" in text
    assert "1 minute ago" in text
    shown = timezone.make_naive(datetime.fromtimestamp(now - 60, UTC))
    assert f"{shown:%Y-%m-%d %H:%M:%S}" in root.get(f"{RESULTS}{outcome.id}/change/").content.decode()


def test_the_status_view_answers(root: Client) -> None:
    app.backend.save([Outcome(id="done", task="shop.tasks.add", state="SUCCESS", value=b"3", done_at=1.0)])
    assert root.get("/tasks/done/status/").json() == {"task": {"id": "done", "status": "SUCCESS", "result": 3}}


@pytest.fixture
def beat_tables() -> Iterator[None]:
    tables = {
        "clockedschedule": "id integer PRIMARY KEY, clocked_time datetime",
        "periodictask": "id integer PRIMARY KEY, name text, task text, args text, kwargs text, one_off bool, "
        "enabled bool, clocked_id integer, expires datetime",
    }
    with connections["archive"].cursor() as cursor:
        for name, columns in tables.items():
            cursor.execute(f"CREATE TABLE django_celery_beat_{name} ({columns})")
        cursor.execute("INSERT INTO django_celery_beat_clockedschedule VALUES (1, '2099-01-01 12:00:00')")
        cursor.execute("INSERT INTO django_celery_beat_periodictask VALUES (1, 'later', 'shop.tasks.add', '[1, 2]', "
                       "'{}', 1, 1, 1, NULL)")  # fmt: skip
    yield
    with connections["archive"].cursor() as cursor:
        for name in tables:
            cursor.execute(f"DROP TABLE django_celery_beat_{name}")


def test_times_of_django_celery_beat_are_those_of_the_zone_of_the_settings(beat_tables: None) -> None:
    call_command("migrate_beat", "--database", "archive", stdout=StringIO())
    assert app.schedules.get("later").next_at == NOON_UTC
