"""`PeriodicTask`: schedules, in the words of django-celery-beat and in the transactions of Django."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bazaar import app
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.utils import timezone

from celeriac import every
from celeriac.contrib.django.db import periodic
from celeriac.contrib.django.db.models import (
    ClockedSchedule,
    CronSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
    TaskResult,
)
from celeriac.errors import ArgumentsError, CeleriacError, ImproperlyConfigured
from celeriac.ports.schedules import Change
from tests.patience import wait_for

LATER = datetime(2099, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def forget() -> None:
    app.import_tasks()
    PeriodicTask.objects.all().delete()


def made(name: str = "five", **fields: Any) -> PeriodicTask:
    given = {"task": "shop.tasks.add", "args": "[1, 2]", **fields}
    if not {"interval", "crontab", "cron", "solar", "clocked"} & set(given):
        given["interval"] = IntervalSchedule.objects.get_or_create(every=5, period=IntervalSchedule.MINUTES)[0]
    return PeriodicTask.objects.create(name=name, **given)


@pytest.mark.parametrize(("fields", "words"), [
    ({"interval": IntervalSchedule(5, "minutes")}, "every 5 minutes"),
    ({"crontab": CrontabSchedule(minute="30", hour="7", day_of_week="1", timezone="Europe/Berlin")},
     "at 07:30 every Monday, Europe/Berlin"),
    ({"cron": CronSchedule("0 18 * * 5L")}, "at 18:00 on the last Friday of the month, UTC"),
    ({"solar": SolarSchedule("sunset", 48.2, 16.4)}, "at sunset, latitude 48.2, longitude 16.4"),
    ({"clocked": ClockedSchedule(LATER)}, "once, at 2099-01-01T12:00:00+00:00"),
])  # fmt: skip
def test_each_kind_of_schedule_is_kept_and_read_again(fields: dict[str, Any], words: str) -> None:
    if "solar" in fields:
        pytest.importorskip("ephem")
    made(**fields)
    ((kind, value),) = fields.items()
    row = PeriodicTask.objects.get(name="five")
    assert (row.kind, row.words, row.state) == (kind, words, "active")
    if kind == "crontab" or kind == "cron":
        value.timezone = value.timezone or "UTC"
    assert getattr(row, kind) == value
    kinds = ("interval", "crontab", "cron", "solar", "clocked")
    assert [one for one in kinds if getattr(row, one) is not None] == [kind]
    assert row.next_run_at == app.schedules.get("five").next_at


def test_what_is_sent_is_a_message_with_all_options() -> None:
    made(args=json.dumps([1]), kwargs='{"y": 2}', queue="reports", priority=7, headers='{"from": "beat"}',
         expire_seconds=60, description="Adds.", start_time=LATER, expires=LATER + timedelta(1), one_off=True)
    info = app.schedules.get("five")
    (message,) = info.messages
    assert (message.task, message.queue, message.priority, message.headers) == ("shop.tasks.add", "reports", 7,
                                                                               {"from": "beat"})  # fmt: skip
    assert message.body == b'[[1],{"y":2}]'
    assert info.policies == {"times": 1, "description": "Adds."}
    row = PeriodicTask.objects.get(queue="reports", one_off=True, start_time=LATER, description__contains="dd")
    assert (row.args, row.kwargs, row.priority, row.headers, row.expire_seconds) == ("[1]", '{"y": 2}', 7,
                                                                                   '{"from": "beat"}', 60)  # fmt: skip
    assert (row.start_time, row.expires) == (LATER, LATER + timedelta(days=1))


def test_schedules_of_the_app_are_rows_too() -> None:
    app.schedules.add("by hand", every(hours=1), app.signature("shop.tasks.add", (1, 2)))
    row = PeriodicTask.objects.get(task="shop.tasks.add")
    assert (row.name, row.kind, row.args, row.enabled) == ("by hand", "interval", "[1, 2]", True)
    row.delete()
    assert list(app.schedules.list()) == []


def test_a_change_keeps_what_it_does_not_change() -> None:
    row = made()
    before = row.entry
    row.description = "Adds."
    row.save()
    after = PeriodicTask.objects.get().entry
    assert (after.cursor, after.next_at, after.salt) == (before.cursor, before.next_at, before.salt)
    assert (after.version, after.revision) == (before.version + 1, before.revision + 1)


def test_a_workflow_and_policies_stay_when_other_things_change() -> None:
    app.schedules.add("both", 60, app.signature("shop.tasks.add", (1, 2)) | app.signature("shop.tasks.add", (3,)),
                      overlap="skip", jitter=5)  # fmt: skip
    row = PeriodicTask.objects.get()
    assert (row.args, row.overlap) == ("", "skip")
    row.description = "Twice."
    row.save()
    info = app.schedules.get("both")
    assert (info.workflow, info.policies) == (True, {"overlap": "skip", "jitter": 5.0, "description": "Twice."})


def test_a_pause_and_its_end() -> None:
    row = made(enabled=False)
    assert app.schedules.get("five").state == row.state == "paused"
    row.resume()
    assert app.schedules.get("five").state == row.state == "active"
    row.pause()
    assert (row.state, row.next_run_at, row.enabled) == ("paused", None, False)
    assert PeriodicTask.objects.filter(name="five").update(enabled=True) == 1
    assert app.schedules.get("five").state == "active"


def test_a_transaction_that_is_rolled_back_has_changed_nothing() -> None:
    kept = made("kept")
    with transaction.atomic():
        made("lost")
        kept.pause()
        transaction.set_rollback(True)
    assert [(info.name, info.state) for info in app.schedules.list()] == [("kept", "active")]


def test_a_tick_that_is_sent_during_a_change_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    row = made()
    changed, raced = PeriodicTask._changed, []

    def race(self: PeriodicTask, entry: Any) -> Any:
        if not raced:  # a scheduler is faster
            raced.append(periodic._rows("default").filter(pk=row.pk))
            raced[0].update(revision=entry.revision + 1, data=periodic._store().values(
                periodic.replace(entry, sent=1, cursor=entry.cursor + 1))["entry"])  # fmt: skip
        return changed(self, entry)

    monkeypatch.setattr(PeriodicTask, "_changed", race)
    row.description = "Adds."
    row.save()
    after = PeriodicTask.objects.get().entry
    assert (after.sent, PeriodicTask.objects.get().description) == (1, "Adds.")


def test_a_change_that_others_are_always_faster_than_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    row = made()
    monkeypatch.setattr(PeriodicTask, "_replace", lambda self, using: False)
    with pytest.raises(DatabaseError, match="was changed meanwhile"):
        row.save()


@pytest.mark.skipif(connection.vendor != "mysql", reason="the others see what is new, or refuse")
def test_a_change_in_a_transaction_that_sees_old_rows_alone_is_of_the_new_one() -> None:
    row = made()

    def tick() -> None:
        rows = periodic._rows("default").filter(pk=row.pk)
        entry = rows.get().entry
        rows.update(revision=entry.revision + 1, data=periodic._store().values(
            periodic.replace(entry, sent=1, cursor=entry.cursor + 1))["entry"])  # fmt: skip
        connection.close()

    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    with transaction.atomic():
        assert PeriodicTask.objects.get().entry.sent == 0
        scheduler = threading.Thread(target=tick)
        scheduler.start()
        scheduler.join()
        row.description = "Adds."
        row.save()
    after = PeriodicTask.objects.get()
    assert (after.entry.sent, after.description) == (1, "Adds.")


def test_a_scheduler_notices_that_it_was_not_the_first() -> None:
    row = made()
    before = row.entry
    row.pause()
    store = app.schedules.store
    assert app.broker.complete(store.change([Change(before=before, after=before)])) == [False]


def test_another_name_is_the_same_schedule() -> None:
    row = made()
    before = row.entry
    row.name = "Fünf Minuten"
    row.save()
    assert [info.name for info in app.schedules.list()] == ["Fünf Minuten"]
    after = PeriodicTask.objects.get(name="Fünf Minuten")
    assert (after.entry.salt, after.entry.cursor) == (before.salt, before.cursor)
    after.delete()
    assert list(app.schedules.list()) == []


def test_a_name_is_taken_once() -> None:
    made()
    with pytest.raises(IntegrityError), transaction.atomic():
        made()


@pytest.mark.parametrize(("fields", "error", "why"), [
    ({"interval": None}, ImproperlyConfigured, "does not say when"),
    ({"args": "[1]"}, ArgumentsError, "'y' is missing"),
    ({"args": "{}"}, ImproperlyConfigured, "args: JSON of a list"),
    ({"kwargs": "{"}, ImproperlyConfigured, "kwargs is not JSON"),
    ({"queue": "nowhere"}, CeleriacError, "nowhere"),
    ({"interval": IntervalSchedule(0, "minutes")}, ValueError, "from a millisecond"),
    ({"interval": IntervalSchedule(1, "fortnights")}, ValueError, "period is one of"),
    ({"crontab": CrontabSchedule(hour="25")}, ValueError, "the hour 25 is not between"),
    ({"start_time": LATER, "expires": LATER - timedelta(1)}, ValueError, "ends before it starts"),
    ({"missed": "never"}, ImproperlyConfigured, "missed"),
])  # fmt: skip
def test_what_cannot_be_sent_is_refused(fields: dict[str, Any], error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        made(**fields)
    assert list(app.schedules.list()) == []


def test_a_damaged_schedule_is_shown_and_can_be_deleted() -> None:
    row = made()
    periodic._rows("default").filter(pk=row.pk).update(data=b"damaged")
    found = PeriodicTask.objects.get()
    assert (found.name, found.entry, found.interval, found.next_run_at) == ("five", None, None, None)
    with pytest.raises(ImproperlyConfigured, match="delete it, and add it again"):
        found.pause()
    found.delete()


def test_workers_send_what_was_saved_and_stop_when_it_is_deleted(start_worker: Any) -> None:
    start_worker("--beat", "-Q", "default").ready()
    row = made("often", interval=IntervalSchedule(1, "seconds"))
    since = timezone.now() - timedelta(minutes=5)
    sent = TaskResult.objects.filter(task_name="shop.tasks.add", date_created__gte=since)
    wait_for(lambda: sent.count() > 1, "two runs")
    row.refresh_from_db()
    assert row.total_run_count > 0
    assert row.last_run_at is not None
    assert sent.first().periodic_task_name == "often"
    row.delete()
    assert list(app.schedules.list()) == []
