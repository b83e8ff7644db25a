"""What keeps pages quick with much data: what is read before there is a page, and counts that end early. In-process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from celeriac import Celeriac
from celeriac.brokers.sqlite.operations import SQLiteOperations
from celeriac.dashboard import application, bulk, dashboard
from celeriac.inspector.selecting import Bound
from celeriac.ports.operations import QueueCounts
from tests.patience import PATIENCE


def _browser(site: application.Dashboard) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://localhost", timeout=PATIENCE,
                             headers={"Accept": "text/html", "Sec-Fetch-Site": "same-origin"})  # fmt: skip


def _text(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", "", html).split())


async def test_what_the_first_page_shows_is_read_before_it_and_a_page_waits_for_what_takes_long(
    make_app: Callable[..., Celeriac], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(broker_url=f"sqlite:///{tmp_path / 'shop.db'}", task_queues=["mail"])
    begun, may_end, counted, count = asyncio.Event(), asyncio.Event(), list[int](), SQLiteOperations.queues

    async def queues(self: SQLiteOperations) -> list[QueueCounts]:
        counted.append(1)
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(PATIENCE)  # it runs in a thread
        return await count(self)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(SQLiteOperations, "queues", queues)
    monkeypatch.setattr(application, "BEGIN_SECONDS", 0.01)
    app.send_task("shop.add", queue="mail")
    site = dashboard(app)
    await site.begin()
    await asyncio.wait_for(begun.wait(), PATIENCE)
    async with _browser(site) as browser:
        asked = asyncio.ensure_future(browser.get("/"))
        await asyncio.wait([asked], timeout=0.05)
        assert not asked.done()
        assert counted == [1]
        may_end.set()
        assert re.search(r"mail\b", _text((await asked).text))


class _Waiting:
    """A dashboard with tasks that wait, a part of which is counted."""

    def __init__(self, app: Celeriac) -> None:
        self.app, self.browser = app, _browser(dashboard(app))
        for number in range(30):
            app.send_task("shop.add" if number % 3 else "shop.rare", queue="mail")

    async def page(self, **query: str) -> str:
        found = await self.browser.get("/bulk/new", params={"action": "revoke", **query})
        assert found.status_code == 200
        return found.text

    async def begin(self, html: str, **form: str) -> str:
        """Post the form of the page, and return what is said then."""
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', html.partition("<h1")[2]))
        done = await self.browser.post("/bulk", data={**hidden, **form}, follow_redirects=True)
        return _text(done.text)


@pytest.fixture
def waiting(make_app: Callable[..., Celeriac], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> _Waiting:
    monkeypatch.setattr(bulk, "QUICKLY", Bound(found=10, searched=20))
    return _Waiting(make_app(broker_url=f"sqlite:///{tmp_path / 'shop.db'}", task_queues=["mail"]))


async def test_a_bulk_action_counts_up_to_a_limit_and_is_confirmed_by_a_word(waiting: _Waiting) -> None:
    html = await waiting.page()
    assert "More than 10 waiting tasks are meant" in _text(html)
    assert "not all. How many are meant is counted when it begins" in _text(html)
    assert "type all to confirm" in await waiting.begin(html, confirm="10")
    await waiting.begin(html, confirm="all")
    job = list((await waiting.browser.get("/bulk")).text.split("/bulk/"))[1].partition('"')[0]
    while (found := (await waiting.browser.get(f"/api/v1/bulk/{job}")).json())["state"] != "done":
        await asyncio.sleep(0.01)
    assert (found["matched"], found["more"], found["done"]) == (30, False, 30)


async def test_a_count_that_has_not_looked_at_all_says_so_and_goes_on_if_it_is_asked_to(waiting: _Waiting) -> None:
    html = await waiting.page(q="task:shop.rare")
    assert re.search(r"At least 7 waiting tasks are meant, .* 20 were looked at, not all\.", _text(html))
    (link,) = re.findall(r'<a href="([^"]*)">Count all of them', html)
    query = {name: value for name, (value,) in parse_qs(urlsplit(link.replace("&amp;", "&")).query).items()}
    await asyncio.to_thread(waiting.app.send_task, "shop.rare", queue="mail")
    html = await waiting.page(**query)
    assert "10 waiting tasks are meant, as of now: what comes later is left alone." in _text(html)
    assert "Count all of them" not in html
