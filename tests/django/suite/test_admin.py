"""The pages of Django's admin: what they show, whom they let do what, and how mistakes are told."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any

import pytest
from bazaar import app
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.test.utils import setup_test_environment, teardown_test_environment

from celeriac import states
from celeriac.contrib.django.db.models import CronSchedule, IntervalSchedule, PeriodicTask, TaskResult
from celeriac.model.failure import Failure
from celeriac.model.message import encode, new_id
from celeriac.model.outcome import Outcome

RESULTS = "/admin/celeriac_db/taskresult/"
SCHEDULES = "/admin/celeriac_db/periodictask/"


@pytest.fixture(autouse=True, scope="module")
def contexts() -> Iterator[None]:
    """Answers have the contexts of their templates."""
    setup_test_environment()
    yield
    teardown_test_environment()


@pytest.fixture(autouse=True)
def forget() -> None:
    app.import_tasks()
    TaskResult.objects.all().delete()
    PeriodicTask.objects.all().delete()
    User.objects.all().delete()


@pytest.fixture
def person() -> Callable[..., Client]:
    """Log in as a member of the staff with these permissions."""

    def log_in(*permissions: str) -> Client:
        user = User.objects.create_user(new_id(), is_staff=True, is_superuser="all" in permissions)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client = Client()
        client.force_login(user)
        return client

    return log_in


@pytest.fixture
def root(person: Callable[..., Client]) -> Client:
    return person("all")


def failed(**fields: Any) -> Outcome:
    message = app.signature("shop.tasks.add", (1, 2), {}).message()
    failure = Failure.of(ValueError("<script>alert(1)</script>"))
    outcome = Outcome(id=message.id, task="shop.tasks.add", state=states.FAILURE, failure=failure, kept=encode(message),
                      worker="one@here", started_at=1.0, done_at=2.0, **fields)  # fmt: skip
    app.backend.save([outcome])
    return outcome


def text_of(answer: Any) -> str:
    assert answer.status_code == 200, answer
    return answer.content.decode()


def act(client: Client, page: str, action: str, *keys: str) -> str:
    return text_of(client.post(page, {"action": action, "_selected_action": keys}, follow=True))


# --- Results ------------------------------------------------------------------------------------------


def test_results_are_listed_searched_and_filtered(root: Client) -> None:
    outcome = failed()
    app.backend.save([Outcome(id="other", task="shop.tasks.total", state=states.SUCCESS, value=b"1")])
    assert all(word in text_of(root.get(RESULTS)) for word in ("shop.tasks.add", "other", "FAILURE", "one@here"))
    for query in (f"q={outcome.id}", "q=one@here", "q=tasks.add", "status=FAILURE", "task_name=shop.tasks.add"):
        text = text_of(root.get(f"{RESULTS}?{query}"))
        assert outcome.id in text, query
        assert ">other<" not in text, query
    assert "1 task result" in text_of(root.get(f"{RESULTS}?date_done__gte=2020-01-01 00:00:00Z"))


def test_a_result_shows_its_call_its_error_and_its_traceback_and_nothing_of_it_is_html(root: Client) -> None:
    outcome = failed()
    text = text_of(root.get(f"{RESULTS}{outcome.id}/change/"))
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text
    for word in ("[\n  1,\n  2\n]", "builtins.ValueError", "Traceback", "Send again", "1.0 s"):
        assert word in unescape(text)
    assert 'name="_save"' not in text


def test_a_value_shows_as_json_with_its_lines(root: Client) -> None:
    app.backend.save([Outcome(id="v", task="t", state=states.SUCCESS, value=b'{"a":[1]}')])
    text = unescape(text_of(root.get(f"{RESULTS}v/change/")))
    assert '{\n  "a": [\n    1\n  ]\n}' in text
    assert "result_extended" in text
    assert "Send again" not in text


def test_a_failed_task_is_sent_again_and_others_are_not(root: Client) -> None:
    outcome = failed()
    app.backend.save([Outcome(id="fine", task="t", state=states.SUCCESS)])
    text = unescape(act(root, RESULTS, "retry", outcome.id, "fine"))
    assert "Sent again: 1." in text
    assert "Not sent again: t fine: it has not failed: it is SUCCESS." in text
    found = app.broker.complete(app.broker.operations().find([outcome.id]))
    assert found[outcome.id][1].task == "shop.tasks.add"
    assert LogEntry.objects.latest("pk").get_change_message() == "Sent again."


def test_a_task_that_has_not_ended_is_revoked(root: Client) -> None:
    app.backend.save([Outcome(id="waits", task="t", state=states.RETRY)])
    app.backend.save([Outcome(id="e", task="t", state=states.SUCCESS)])
    assert "Revoke and end" in text_of(root.get(f"{RESULTS}waits/change/"))
    assert "Revoked: 1. 1 have ended before." in act(root, RESULTS, "revoke", "waits", "e")
    assert "Revoked: 1." in act(root, RESULTS, "terminate", "waits")


def test_deleting_a_result_forgets_it(root: Client) -> None:
    outcome = failed()
    root.post(RESULTS, {"action": "delete_selected", "_selected_action": outcome.id, "post": "yes"})
    assert app.AsyncResult(outcome.id).state == states.PENDING


def test_who_may_look_may_not_act(person: Callable[..., Client]) -> None:
    outcome = failed()
    client = person("view_taskresult")
    text = text_of(client.get(RESULTS))
    assert outcome.id in text
    assert not re.search("retry|revoke|delete_selected", text)
    assert "Send again" not in text_of(client.get(f"{RESULTS}{outcome.id}/change/"))
    act(client, RESULTS, "retry", outcome.id)
    assert app.AsyncResult(outcome.id).state == states.FAILURE
    assert client.get(f"{RESULTS}{outcome.id}/delete/").status_code == 403
    assert person().get(RESULTS).status_code == 403
    assert client.get(SCHEDULES).status_code == 403


def test_an_action_needs_its_own_permission(person: Callable[..., Client]) -> None:
    outcome = failed()
    client = person("view_taskresult", "retry_taskresult")
    assert 'value="revoke"' not in text_of(client.get(RESULTS))
    assert "Sent again: 1." in act(client, RESULTS, "retry", outcome.id)


# --- Schedules ----------------------------------------------------------------------------------------


def daily(name: str) -> PeriodicTask:
    made: PeriodicTask = PeriodicTask.objects.create(name=name, task="shop.tasks.add", args="[1, 2]",
                                                     interval=IntervalSchedule(1, "days"))  # fmt: skip
    return made


def form(**fields: Any) -> dict[str, Any]:
    given = {"name": "new", "task": "shop.tasks.add", "args": "[1, 2]", "kwargs": "{}", "enabled": "on",
             "when": "interval", "every": "5", "period": "minutes", "headers": "{}", "missed": "latest",
             "overlap": "allow"}  # fmt: skip
    return {**given, **fields}


def errors_of(answer: Any) -> dict[str, list[str]]:
    return dict(answer.context["adminform"].form.errors)


@pytest.mark.parametrize(("fields", "words"), [
    ({}, "every 5 minutes"),
    ({"when": "crontab", "minute": "*/15", "hour": "9-17", "day_of_week": "mon-fri", "day_of_month": "*",
      "month_of_year": "*", "timezone": "Europe/Berlin"},
     "every 15 minutes of hours 9 to 17, Monday to Friday, Europe/Berlin"),
    ({"when": "cron", "expression": "@daily"}, "at 00:00 every day, UTC"),
    ({"when": "clocked", "clocked_time_0": "2099-01-01", "clocked_time_1": "12:00"},
     "once, at 2099-01-01T18:00:00+00:00"),
])  # fmt: skip
def test_schedules_of_each_kind_are_added(root: Client, fields: dict[str, Any], words: str) -> None:
    answer = root.post(f"{SCHEDULES}add/", form(**fields), follow=True)
    assert "adminform" not in (answer.context or {}), errors_of(answer)
    assert app.schedules.get("new").words == words
    text = text_of(root.get(SCHEDULES))
    assert words in text
    assert "in " in text


@pytest.mark.parametrize(("fields", "field", "why"), [
    ({"when": "crontab", "minute": "0", "hour": "25", "day_of_week": "*", "day_of_month": "*", "month_of_year": "*"},
     "hour", "The hour 25 is not between 0 and 23."),
    ({"when": "cron", "expression": "0 9 * *"}, "expression", "An expression has five fields"),
    ({"when": "cron", "expression": ""}, "expression", "This field is required."),
    ({"when": "clocked", "clocked_time_0": "2001-01-01", "clocked_time_1": "12:00"}, "clocked_time",
     "This time has passed."),
    ({"every": ""}, "every", "This field is required."),
    ({"every": "0"}, "every", "greater than or equal to 1"),
    ({"args": "[1]"}, "args", "'y' is missing"),
    ({"args": "nonsense"}, "args", "args is not JSON"),
    ({"kwargs": "[]"}, "kwargs", "JSON of a dict"),
    ({"headers": "7"}, "headers", "JSON of a dict"),
    ({"queue": "nowhere"}, "queue", "not one of the available choices"),
    ({"when": "cron", "expression": "@daily", "timezone": "Europe/Nowhere"}, "timezone", "no time zone"),
    ({"name": "taken"}, "name", "already"),
    ({"name": ""}, "name", "required"),
])  # fmt: skip
def test_mistakes_are_told_at_their_fields(root: Client, fields: dict[str, Any], field: str, why: str) -> None:
    daily("taken")
    found = errors_of(root.post(f"{SCHEDULES}add/", form(**fields)))
    assert list(found) == [field]
    assert why in found[field][0]
    assert [info.name for info in app.schedules.list()] == ["taken"]


def test_a_schedule_is_changed_by_the_form_that_shows_it(root: Client) -> None:
    row = PeriodicTask.objects.create(name="old", task="shop.tasks.add", args="[1, 2]", queue="reports", priority=7,
                                      cron=CronSchedule("0 18 * * 5L", "Europe/Berlin"), expire_seconds=60)  # fmt: skip
    page = root.get(f"{SCHEDULES}{row.pk}/change/")
    shown = page.context["adminform"].form
    given = {name: shown.get_initial_for_field(field, name) for name, field in shown.fields.items()}
    plain = {name: value for name, value in given.items() if value not in (None, "", False)}
    assert (plain["when"], plain["expression"], plain["timezone"]) == ("cron", "0 18 * * 5L", "Europe/Berlin")
    posted = {**plain, "name": "new", "description": "At the end."}
    answer = root.post(f"{SCHEDULES}{row.pk}/change/", posted, follow=True)
    assert "adminform" not in (answer.context or {}), errors_of(answer)
    info = app.schedules.get("new")
    assert (info.words, info.policies) == ("at 18:00 on the last Friday of the month, Europe/Berlin",
                                           {"description": "At the end."})  # fmt: skip
    assert (info.messages[0].queue, info.messages[0].priority, info.messages[0].expires_at) == ("reports", 7, 60)
    assert (info.next_at, len(list(app.schedules.list()))) == (row.next_run_at, 1)


def test_a_task_that_the_project_does_not_know_is_warned_of(root: Client) -> None:
    text = text_of(root.post(f"{SCHEDULES}add/", form(task="shop.tasks.ad", args="[]"), follow=True))
    assert "No task of this project is named shop.tasks.ad. Did you mean &#x27;shop.tasks.add&#x27;?" in text


def test_schedules_are_paused_resumed_run_and_deleted(root: Client) -> None:
    row = daily("one")
    assert "Paused: 1." in act(root, SCHEDULES, "pause", row.pk)
    assert app.schedules.get("one").state == "paused"
    assert "Resume" in text_of(root.get(f"{SCHEDULES}{row.pk}/change/"))
    assert "Resumed: 1." in act(root, SCHEDULES, "resume", row.pk)
    text = act(root, SCHEDULES, "run_now", row.pk)
    id = re.search(r"Sent: one, as ([0-9a-f-]{36})\.", text)[1]
    assert id in app.broker.complete(app.broker.operations().find([id]))
    root.post(SCHEDULES, {"action": "delete_selected", "_selected_action": row.pk, "post": "yes"})
    assert list(app.schedules.list()) == []


def test_pausing_is_changing_and_running_needs_a_permission_of_its_own(person: Callable[..., Client]) -> None:
    row = daily("one")
    looker, runner = person("view_periodictask"), person("view_periodictask", "run_periodictask")
    page = text_of(looker.get(f"{SCHEDULES}{row.pk}/change/"))
    assert "every day" in page
    assert 'name="_save"' not in page
    assert 'value="pause"' not in page
    act(looker, SCHEDULES, "pause", row.pk)
    act(runner, SCHEDULES, "pause", row.pk)
    assert app.schedules.get("one").state == "active"
    assert looker.get(f"{SCHEDULES}add/").status_code == 403
    assert "Sent: one" not in act(looker, SCHEDULES, "run_now", row.pk)
    assert "Sent: one" in act(runner, SCHEDULES, "run_now", row.pk)


def test_a_schedule_of_the_code_says_so(root: Client) -> None:
    definition = app.schedules.definition(60, app.signature("shop.tasks.add", (1, 2)), origin="code", app="bazaar")
    app.broker.complete(app.schedules.store.create([app.schedules.entry("declared", definition)]))
    assert "In the code" in text_of(root.get(f"{SCHEDULES}{PeriodicTask.objects.get().pk}/change/"))
