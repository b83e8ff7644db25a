"""Following tasks: server-sent events, and status URLs."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from celeriac import Celeriac
from celeriac.errors import ImproperlyConfigured
from celeriac.web import Limits, User, api
from tests.patience import PATIENCE
from tests.web.conftest import Running
from tests.web.served import SECRET
from tests.web.test_tasks import API, problem, send


def events(client: httpx.Client, *ids: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names and data of events, until the stream ends."""
    with client.stream("GET", f"{API}/events", params={"ids": ",".join(ids)}) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def test_each_end_is_told_once_and_then_the_stream_ends(client: httpx.Client) -> None:
    before = [send(client, "shop.add", n, wait=60).json()["id"] for n in range(3)]
    ids = [*before, *(send(client, "shop.add", n).json()["id"] for n in range(20)),
           send(client, "shop.fail", "no").json()["id"]]  # fmt: skip
    found = [data for name, data in events(client, *ids) if name == "task.ended"]
    assert sorted(event["subject"] for event in found) == sorted(ids)
    assert len({event["id"] for event in found}) == len(ids)
    (failed,) = [event["data"] for event in found if event["subject"] == ids[-1]]
    assert (failed["state"], failed["error"]["message"]) == ("FAILURE", "no")
    assert {(event["specversion"], event["type"], event["source"]) for event in found} == {
        ("1.0", "celeriac.task.ended", "/celeriac/shop")
    }


def test_progress_is_told_before_the_end(client: httpx.Client, running: Running) -> None:
    name = f"file-{uuid.uuid4()}"
    id = send(client, "shop.steps", name).json()["id"]
    found = []
    for kind, data in events(client, id):
        found.append(kind)
        if kind == "task.changed" and data["data"]["state"] == "PROGRESS":
            assert data["data"]["progress"] == {"done": 1, "of": 2}
            (running.served.folder / name).touch()
    assert found[-2:] == ["task.ended", "end"]
    assert "task.changed" in found


async def test_only_so_many_streams_are_open(app: Celeriac) -> None:
    site = api(app, authenticate=lambda request: User("a", frozenset({"admin"})), limits=Limits(streams=0))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://localhost") as client:
        problem(await client.get(f"{API}/events", params={"ids": "x"}), 429, "too-many")


async def test_streams_that_begin_at_the_same_moment_are_all_counted(app: Celeriac) -> None:
    site = api(app, authenticate=lambda request: User("a", frozenset({"admin"})), limits=Limits(streams=2))
    statuses: list[int] = []
    all_told = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await all_told.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            if len(statuses) == 5:
                all_told.set()

    async def follow() -> None:
        scope = {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": f"{API}/events",
                 "raw_path": f"{API}/events".encode(), "query_string": b"ids=nobody", "root_path": "",
                 "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1),
                 "server": ("localhost", 80)}  # fmt: skip
        await site(scope, receive, send)

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(follow() for _ in range(5)))
    assert sorted(statuses) == [200, 200, 429, 429, 429]
    statuses.clear()
    all_told.clear()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(follow() for _ in range(5)))
    assert sorted(statuses) == [200, 200, 429, 429, 429]


def test_a_stream_that_its_reader_leaves_is_closed(client: httpx.Client, running: Running) -> None:
    """The server allows 200; so 300 can be opened one after the other only if each is counted off."""
    for _ in range(300):
        with client.stream("GET", f"{API}/events", params={"ids": "nobody"}) as answer:
            assert answer.status_code == 200
            assert next(answer.iter_lines()) == "retry: 2000"


# --- Status URLs --------------------------------------------------------------------------------------


@pytest.fixture
def shop(running: Running) -> Iterator[Celeriac]:
    """The app of the server, in this process."""
    app = Celeriac("shop", broker_url=f"sqlite:///{running.served.folder}/celeriac.db", web_secret=SECRET,
                   web_url=f"{running.address}/", environ={})  # fmt: skip
    yield app
    app.close()


def test_a_status_url_tells_the_state_without_a_token(shop: Celeriac, guarded: Running) -> None:
    url = shop.send_task("shop.add", (20, 22)).status_url(expires=timedelta(hours=1))
    assert url.startswith(shop.conf.web_url + "/s/")
    there = url.replace(shop.conf.web_url, guarded.address)
    answer = httpx.get(there, params={"wait": 30}, timeout=120, trust_env=False)
    assert answer.json() == {
        "id": url.rpartition("/s/")[2].partition(".")[0], "state": "SUCCESS", "ready": True, "progress": None,
        "value": 42, "error": None,
    }  # fmt: skip


def test_a_status_url_shows_no_traceback_and_the_value_only_if_so_signed(shop: Celeriac) -> None:
    failed = httpx.get(shop.send_task("shop.fail", ("in /srv/shop/x.py",)).status_url(), params={"wait": 30},
                       timeout=120, trust_env=False).json()  # fmt: skip
    assert failed["error"] == {"type": "ValueError", "message": "in …/x.py"}
    hidden = httpx.get(shop.send_task("shop.add", (1,)).status_url(result=False), params={"wait": 30}, timeout=120,
                       trust_env=False).json()  # fmt: skip
    assert (hidden["state"], "value" in hidden) == ("SUCCESS", False)


def test_a_status_url_needs_its_settings(app: Celeriac) -> None:
    with pytest.raises(ImproperlyConfigured, match="`web_url`"):
        app.AsyncResult("x").status_url()


async def test_only_pages_of_listed_sites_read_status_urls(make_app: Any) -> None:
    app = make_app(web_secret=SECRET, web_url="http://localhost", web_origins=["https://shop.example"])
    url = app.AsyncResult("x").status_url()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api(app)), base_url="http://localhost") as client:
        listed = await client.get(url, headers={"Origin": "https://shop.example"})
        assert listed.headers["access-control-allow-origin"] == "https://shop.example"
        other = await client.get(url, headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        assert (listed.headers["vary"], other.headers["vary"]) == ("Origin", "Origin")
        asked = await client.options(url, headers={"Origin": "https://shop.example"})
        assert (asked.status_code, asked.headers["access-control-allow-methods"]) == (204, "GET")
        lists = await client.get(f"{API}/queues", headers={"Origin": "https://shop.example"})
        assert "access-control-allow-origin" not in lists.headers


def test_a_secret_that_is_short_is_an_error() -> None:
    with pytest.raises(ImproperlyConfigured, match="at least 32 characters"):
        Celeriac("x", environ={}, web_secret="short")


# --- Waiting costs nothing ----------------------------------------------------------------------------


def test_fifty_waits_at_once_end_with_their_tasks(client: httpx.Client, running: Running) -> None:
    names = [f"file-{uuid.uuid4()}" for _ in range(50)]
    ids = [send(client, "shop.until", name).json()["id"] for name in names]
    results: list[Any] = []

    def wait(id: str) -> None:
        results.append(httpx.get(f"{running.address}{API}/tasks/{id}/result", params={"wait": 60}, timeout=120,
                                 trust_env=False).json())  # fmt: skip

    threads = [threading.Thread(target=wait, args=(id,)) for id in ids]
    for thread in threads:
        thread.start()
    for name in names:
        (running.served.folder / name).touch()
    for thread in threads:
        thread.join()
    assert results == ["there"] * 50
