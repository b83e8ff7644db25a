"""The form that changes a schedule: what it shows is what is changed, and everything else stays. In-process."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from celeriac import Celeriac, chain, cron, every
from celeriac.dashboard import dashboard
from tests.patience import PATIENCE

FIELD = re.compile(r'<input id="\w+" name="(\w+)" value="([^"]*)"')
CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')


@pytest.fixture
def app(make_app: Callable[..., Celeriac], tmp_path: Any) -> Celeriac:
    app = make_app(broker_url=f"sqlite:///{tmp_path}/shop.db", timezone="Europe/Berlin", task_queues=["mail"])

    @app.task(name="shop.report", time_limit=100)
    def report(*given: Any, **named: Any) -> None:
        pass

    return app


@pytest.fixture
def client(app: Celeriac) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(dashboard(app)), base_url="http://localhost",
                             timeout=PATIENCE, headers={"Accept": "text/html", "Origin": "http://localhost"},
                             )  # fmt: skip


async def save(client: httpx.AsyncClient, name: str, **changed: str) -> str:
    """Open the form, change fields and save it; return what the next page says."""
    form = (await client.get(f"/schedule-form/{name}")).text
    found = CSRF.search(form)
    assert found is not None
    fields = {field: html.unescape(value) for field, value in FIELD.findall(form)}
    answer = await client.post(f"/schedules/{name}/edit", data={**fields, **changed, "csrf": found[1]},
                                follow_redirects=True)  # fmt: skip
    assert answer.status_code == 200
    return answer.text


async def test_what_the_form_does_not_show_stays(app: Celeriac, client: httpx.AsyncClient) -> None:
    report = app.tasks["shop.report"]
    limited = cron("0 3 * * *", starts="2030-01-01T00:00Z", ends="2031-01-01T00:00Z")
    await app.schedules.aadd("limited", limited, report.s(when=datetime(2029, 5, 1, tzinfo=UTC)))
    options: dict[str, Any] = {"priority": 9, "time_limit": None, "headers": {"a": 1}, "countdown": 5, "expires": 60}
    await app.schedules.aadd("plain", cron("0 3 * * *"), report.s(1).set(**options), window=60, description="why")
    await app.schedules.aadd("chained", every(minutes=5), chain(report.s(), report.si()))
    for name in ("limited", "plain", "chained"):
        before = await app.schedules.aget(name)
        assert "Changed." in await save(client, name, jitter="5s")
        after = await app.schedules.aget(name)
        assert after.policies == {**before.policies, "jitter": 5.0}
        assert (after.schedule, after.messages, after.workflow) == (before.schedule, before.messages, before.workflow)
        assert after.version == before.version + 1


async def test_what_is_changed_keeps_the_options_of_the_call(app: Celeriac, client: httpx.AsyncClient) -> None:
    options: dict[str, Any] = {"priority": 9, "time_limit": None, "headers": {"a": 1}, "countdown": 5, "expires": 60}
    await app.schedules.aadd("plain", cron("0 3 * * *"), app.tasks["shop.report"].s(1).set(**options))
    [before] = (await app.schedules.aget("plain")).messages
    assert "Changed." in await save(client, "plain", args="[2]", queue="mail")
    info = await app.schedules.aget("plain")
    [after] = info.messages
    assert info.schedule == "cron('0 3 * * *', tz='Europe/Berlin')"
    assert (after.body, after.queue) == (app.tasks["shop.report"].s(2).message().body, "mail")
    for option in ("priority", "time_limit", "headers", "due_at", "expires_at"):
        assert getattr(after, option) == getattr(before, option)


async def test_a_time_zone_without_its_expression_is_refused(app: Celeriac, client: httpx.AsyncClient) -> None:
    await app.schedules.aadd("limited", cron("0 3 * * *", ends="2031-01-01T00:00Z"), app.tasks["shop.report"].s())
    assert "write that, too" in await save(client, "limited", tz="Asia/Tokyo")
    assert "Changed." in await save(client, "limited", tz="Asia/Tokyo", schedule="0 4 * * *")
    assert (await app.schedules.aget("limited")).schedule == "cron('0 4 * * *', tz='Asia/Tokyo')"
