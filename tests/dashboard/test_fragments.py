"""What open pages ask for: several fragments at once, not what they have, shared by those who may. In-process."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from celeriac import Celeriac
from celeriac.dashboard import dashboard
from celeriac.errors import BackendUnavailable
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import dumps
from celeriac.web.scopes import ALL, User
from tests.patience import PATIENCE

FRAME = re.compile('data-fragment="([^"]+)"[^>]* data-version="([^"]*)"( data-fault)?')
USERS = {"admin": frozenset({ALL}), "porter": frozenset({"queues:read"})}


def _user(request: Request) -> User | None:
    name = request.headers.get("x-user", "")
    return User(name, USERS[name]) if name in USERS else None


class _Open:
    """A page that is open."""

    def __init__(self, browser: httpx.AsyncClient, path: str = "/") -> None:
        self._browser = browser
        self._path = path
        self.has: dict[str, str] = {}

    async def ask(self, *names: str, user: str = "admin") -> str:
        """Ask for fragments as the script of a page does; return what came."""
        wanted = "&".join(f"fragment={name}.{self.has.get(name, '')}" for name in names)
        found = await self._browser.get(f"{self._path}?{wanted}", headers={"X-User": user})
        assert found.status_code == 200, found.text
        self.has.update({name: version for name, version, _ in FRAME.findall(found.text)})
        return found.text

    async def until(self, is_right: Callable[[str], bool], *names: str) -> str:
        """Ask again and again until what comes is right."""
        async with asyncio.timeout(PATIENCE):
            while not is_right(found := await self.ask(*names)):
                await asyncio.sleep(0.05)
        return found


@pytest.fixture
def shop(make_app: Callable[..., Celeriac], tmp_path: Any) -> Celeriac:
    return make_app(broker_url=f"sqlite:///{tmp_path / 'shop.db'}", task_queues=["mail"])


@pytest.fixture
def browser(shop: Celeriac) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(dashboard(shop, authenticate=_user))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=PATIENCE)


async def test_an_open_page_is_sent_what_has_changed_and_nothing_else(
    shop: Celeriac, browser: httpx.AsyncClient
) -> None:
    page = _Open(browser)
    first = await page.ask("queues", "types")
    assert [name for name, *_ in FRAME.findall(first)] == ["queues", "types"]
    assert await page.ask("queues", "types") == ""
    await asyncio.to_thread(shop.send_task, "shop.add", queue="mail")
    found = await page.until(bool, "queues", "types")
    assert [name for name, *_ in FRAME.findall(found)] == ["queues"]
    assert '<tr data-row="mail">' in found


async def test_times_that_go_by_change_nothing(
    shop: Celeriac, browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(shop.send_task, "shop.add", queue="mail")
    page = _Open(browser, "/queues/mail")
    assert re.search(r'<time datetime="[^"]+" title="[^"]+" data-at="[0-9.]+"></time>', await page.ask("messages"))
    later = shop.clock.now() + 60.0
    monkeypatch.setattr(shop.clock, "now", lambda: later)
    assert await page.ask("messages") == ""


async def test_what_is_shared_stays_among_those_with_the_same_scopes(browser: httpx.AsyncClient) -> None:
    for user in ("admin", "porter", "admin"):
        found = {name: bool(fault) for name, _, fault in FRAME.findall(await _Open(browser).ask("chart", user=user))}
        assert found == {"chart": user == "porter"}


async def test_pages_that_ask_at_the_same_time_have_a_fragment_made_once(
    shop: Celeriac, browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, asked = shop.history, list[Any]()
    assert history is not None
    search = history.search

    async def searched(*given: Any) -> Any:
        asked.append(given)
        return await search(*given)

    monkeypatch.setattr(history, "search", searched)
    texts = await asyncio.gather(*(_Open(browser).ask("failures") for _ in range(5)))
    assert len(asked) == 1
    assert len(set(texts)) == 1


async def test_a_fragment_that_cannot_be_made_says_so_and_the_others_come(
    shop: Celeriac, browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*given: Any) -> Any:
        raise BackendUnavailable("The history cannot be reached.")

    page = _Open(browser)
    await page.ask("failures", "queues")
    with monkeypatch.context() as patched:
        patched.setattr(shop.history, "search", away)
        failed = await page.until(lambda found: "data-fault" in found, "failures", "queues")
        assert "The history cannot be reached." in failed
        assert 'data-fragment="queues"' not in failed  # it is as it was
    await page.until(lambda found: "data-fault" not in found, "failures")


@pytest.mark.parametrize("done", [-math.inf, math.nan, 10**400, "a", None, -1], ids=lambda value: str(value)[:9])
@pytest.mark.parametrize("total", [math.inf, math.nan, 10**400, 0, 2], ids=lambda value: str(value)[:9])
async def test_a_task_may_report_any_progress(
    shop: Celeriac, browser: httpx.AsyncClient, done: Any, total: Any
) -> None:
    value = dumps({"done": done, "total": total})
    await shop.backend.store([Outcome(id="far", task="shop.add", state="PROGRESS", value=value)])
    found = await browser.get("/tasks/far", headers={"X-User": "admin"})
    assert found.status_code == 200, found.text
    assert 'id="progress-title"' in found.text


async def test_a_fragment_that_a_page_does_not_have_is_told(browser: httpx.AsyncClient) -> None:
    found = await browser.get("/?fragment=queues&fragment=nothing", headers={"X-User": "admin"})
    assert (found.status_code, "no fragment" in found.text) == (404, True)
