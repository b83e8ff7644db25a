"""The status of tasks for pages; the dashboard and the HTTP API for the users of Django's sessions."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest
from bazaar import app
from django.contrib.auth.models import User
from django.test import AsyncClient, Client, override_settings
from django.urls import reverse
from shop.tasks import add, plain, total

from celeriac.contrib.django.views import status_path
from tests.patience import PATIENCE


@pytest.fixture
def person() -> Any:
    """Make a client of a user who is logged in."""
    User.objects.all().delete()

    def make(name: str, **rights: bool) -> Client:
        client = Client()
        client.force_login(User.objects.create_user(name, **rights))
        return client

    return make


@pytest.fixture
def staff(person: Any) -> Client:
    return person("ann", is_staff=True)


@pytest.fixture(scope="module")
def succeeded(worker) -> Any:
    result = add.delay(1, 2)
    assert result.get(timeout=PATIENCE) == 3
    return result


@pytest.fixture(scope="module")
def failed(worker) -> Any:
    result = total.delay("there is no such order")
    assert result.get(timeout=PATIENCE, propagate=False)
    return result


def test_the_status_has_the_shape_of_djcelery(staff: Client, succeeded: Any) -> None:
    answer = staff.get(f"/tasks/{succeeded.id}/status/")
    assert answer.json() == {"task": {"id": succeeded.id, "status": "SUCCESS", "result": 3}}
    assert "no-store" in answer.headers["Cache-Control"]
    assert staff.get(f"/tasks/{succeeded.id}/done/").json() == {"task": {"id": succeeded.id, "executed": True}}


def test_the_status_of_a_failure_has_its_exception(staff: Client, failed: Any) -> None:
    told = staff.get(f"/tasks/{failed.id}/status/").json()["task"]
    assert told["status"] == "FAILURE"
    assert told["result"] == "DoesNotExist('Order matching query does not exist.')"
    assert told["exc"] == "shop.models.Order.DoesNotExist"
    assert told["traceback"].startswith("Traceback")
    assert staff.get(f"/tasks/{failed.id}/done/").json()["task"]["executed"] is False


def test_an_unknown_task_is_pending(staff: Client) -> None:
    assert staff.get("/tasks/unknown/status/").json() == {
        "task": {"id": "unknown", "status": "PENDING", "result": None}
    }


def test_the_urls_have_the_names_of_djcelery(staff: Client) -> None:
    assert reverse("celery-task_status", args=["x"]) == "/tasks/x/status/"
    assert reverse("celery-is_task_successful", args=["x"]) == "/tasks/x/done/"
    assert "shop.tasks.add" in staff.get(reverse("celery-tasks")).json()["regular"]


@pytest.mark.parametrize("path", ["x/status/", "x/done/", "tasks/"])
def test_they_are_for_staff_alone(person: Any, path: str) -> None:
    assert Client().get(f"/tasks/{path}").status_code == 401
    assert person("bob").get(f"/tasks/{path}").status_code == 403
    assert person("eve", is_staff=True).get(f"/tasks/{path}").status_code == 200


def test_nothing_can_be_changed_by_them(staff: Client) -> None:
    assert staff.post("/tasks/x/status/").status_code == 405


def test_a_view_behind_another_decorator_shows_no_traceback(person: Any, staff: Client, failed: Any) -> None:
    told = person("bob").get(f"/mine/{failed.id}/").json()["task"]
    assert told["exc"] == "shop.models.Order.DoesNotExist"
    assert "traceback" not in told
    assert "traceback" in staff.get(f"/mine/{failed.id}/").json()["task"]


def test_a_signed_path_is_for_anybody_who_has_it(succeeded: Any) -> None:
    told = Client().get(status_path(succeeded)).json()
    assert (told["id"], told["state"], told["value"]) == (succeeded.id, "SUCCESS", 3)
    assert "value" not in Client().get(status_path(succeeded, value=False)).json()


def test_a_signed_path_shows_no_traceback(failed: Any) -> None:
    told = Client().get(status_path(failed)).json()
    assert told["error"] == {"type": "shop.models.Order.DoesNotExist",
                             "message": "Order matching query does not exist."}  # fmt: skip


def test_a_signed_path_expires_and_cannot_be_changed(succeeded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = status_path(succeeded, expires=timedelta(minutes=1))
    assert Client().get(path.replace(succeeded.id, "another")).status_code == 404
    assert Client().get(path[:-2] + "/").status_code == 404
    now = app.clock.now()
    monkeypatch.setattr(app.clock, "now", lambda: now + 61)
    assert Client().get(path).status_code == 410


def test_a_signed_path_outlives_a_change_of_the_secret(succeeded: Any) -> None:
    path = status_path(succeeded)
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["bazaar"]):
        assert Client().get(path).status_code == 200
    with override_settings(SECRET_KEY="new"):
        assert Client().get(path).status_code == 404


# --- The HTTP API -------------------------------------------------------------------------------------


class Asgi(AsyncClient):
    """Calls the project's ASGI application as a server does."""

    async def ask(self, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        from bazaar.asgi import application

        cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in self.cookies.items())
        given = {"host": "testserver", "cookie": cookie, "content-type": "application/json", **headers}
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
                 "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
                 "client": ("192.0.2.1", 1), "server": ("testserver", 80),
                 "headers": [(name.encode(), value.encode()) for name, value in given.items()]}  # fmt: skip
        answers: list[dict] = []
        requests = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict:
            if requests:
                return requests.pop()
            return await asyncio.Event().wait()  # type: ignore[return-value]

        async def send(message: dict) -> None:
            answers.append(message)

        await application(scope, receive, send)
        return answers[0]["status"], b"".join(answer.get("body", b"") for answer in answers)


def logged_in(**rights: bool) -> Asgi:
    User.objects.all().delete()
    client = Asgi()
    client.force_login(User.objects.create_user("zoe", **rights))
    return client


def asgi(client: Asgi, *args: Any, **kwargs: Any) -> tuple[int, bytes]:
    return asyncio.run(client.ask(*args, **kwargs))


def test_the_api_serves_users_of_djangos_sessions_by_their_rights() -> None:
    assert asgi(Asgi(), "/celeriac/api/v1/queues")[0] == 401
    assert asgi(logged_in(), "/celeriac/api/v1/queues")[0] == 401
    assert asgi(logged_in(is_staff=True), "/celeriac/api/v1/queues")[0] == 200
    call = b'{"task": "shop.tasks.add", "args": [1, 2]}'
    assert asgi(logged_in(is_staff=True), "/celeriac/api/v1/tasks", "POST", call)[0] == 403
    own_page = {"sec-fetch-site": "same-origin"}
    assert asgi(logged_in(is_superuser=True), "/celeriac/api/v1/tasks", "POST", call, **own_page)[0] == 202


def test_the_dashboard_serves_users_of_djangos_sessions_by_their_rights() -> None:
    page = {"accept": "text/html"}
    assert asgi(Asgi(), "/celeriac/queues", **page)[0] == 401
    assert asgi(logged_in(), "/celeriac/queues", **page)[0] == 401
    status, html = asgi(logged_in(is_staff=True), "/celeriac/queues", **page)
    assert status == 200
    assert b'href="/celeriac/queues/default"' in html
    form = re.compile(rb'action="/celeriac/queues/default/pause"')
    assert not form.search(asgi(logged_in(is_staff=True), "/celeriac/queues/default", **page)[1])
    assert form.search(asgi(logged_in(is_superuser=True), "/celeriac/queues/default", **page)[1])


def test_the_api_refuses_what_a_page_of_another_site_sends() -> None:
    call = b'{"task": "shop.tasks.add", "args": [1, 2]}'
    headers = {"origin": "http://evil.example", "sec-fetch-site": "cross-site"}
    assert asgi(logged_in(is_superuser=True), "/celeriac/api/v1/tasks", "POST", call, **headers)[0] == 403


def test_a_session_that_was_ended_serves_nobody() -> None:
    client = logged_in(is_superuser=True)
    user = User.objects.get()
    user.set_password("new")
    user.save()
    assert asgi(client, "/celeriac/api/v1/queues")[0] == 401


def test_django_answers_elsewhere(succeeded: Any) -> None:
    status, body = asgi(Asgi(), status_path(succeeded), host="testserver")
    assert status == 200
    assert succeeded.id.encode() in body


def test_plain_data_of_a_result_is_json(worker, staff: Client) -> None:
    result = plain.delay("x")
    assert result.get(timeout=PATIENCE) == "x"
    assert staff.get(f"/tasks/{result.id}/status/").json()["task"]["result"] == "x"
