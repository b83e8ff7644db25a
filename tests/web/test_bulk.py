"""Bulk actions of the API: counted before, cut off, with a few that go first, stopped, and interrupted by a kill."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from celeriac import Celeriac
from celeriac.errors import BrokerError
from celeriac.inspector import Inspector
from celeriac.inspector.selecting import Bound
from celeriac.model.history import Event
from celeriac.model.message import new_id
from celeriac.testing import running_worker
from celeriac.web import Api
from tests.patience import PATIENCE
from tests.redis_server import RedisServer
from tests.web.inside import client_of, site_of
from tests.web.served import serving
from tests.web.test_tasks import API, problem

Shop = tuple[Celeriac, Api]


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        return server.url
    return f"memory://{new_id()}" if request.param == "memory" else f"sqlite:///{tmp_path}/shop.db"


@pytest.fixture
def shop(url: str, tmp_path: Path, make_app: Callable[..., Celeriac]) -> Celeriac:
    app = make_app("shop", broker_url=url, task_queues=["mail", "idle", "spare"])

    @app.task(name="shop.add")
    def add(x: int, y: int = 2) -> int:
        return x + y

    @app.task(name="shop.fail", max_retries=0)
    def fail(name: str, customer: int = 0) -> str:
        if not (tmp_path / name).exists():
            raise ValueError(name)
        return "done"

    return app


@pytest.fixture
def client(shop: Celeriac) -> httpx.AsyncClient:
    return client_of(site_of(shop))


async def act(client: httpx.AsyncClient, action: str, **more: Any) -> dict[str, Any]:
    answer = await client.post("/bulk", json={"action": action, **more})
    assert answer.status_code in (200, 202), answer.text
    found: dict[str, Any] = answer.json()
    return found


async def over(client: httpx.AsyncClient, bulk: str) -> dict[str, Any]:
    """Return a bulk action that has ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found: dict[str, Any] = (await client.get(f"/bulk/{bulk}")).json()
        if found["state"] not in ("counting", "canary", "running"):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"it is still running: {found}")


async def done(client: httpx.AsyncClient, action: str, **more: Any) -> dict[str, Any]:
    return await over(client, (await act(client, action, **more))["bulk"])


async def waiting(client: httpx.AsyncClient, queue: str, state: str = "ready") -> list[str]:
    return [one["id"] for one in (await client.get(f"/queues/{queue}/messages", params={"state": state})).json()]


async def matched(client: httpx.AsyncClient, count: int, action: str, text: str) -> str:
    """Wait until so many are matched: workers write the history a moment later. Return the cut-off."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        counted = await act(client, action, filter=text, dry_run=True)
        if counted["matched"] == count:
            assert counted["of"] == "exact"
            return str(counted["before"])
        await asyncio.sleep(0.02)
    raise AssertionError(f"{counted} are matched, not {count}")


def send(app: Celeriac, task: str, calls: list[tuple[Any, ...]], **options: Any) -> list[str]:
    return [app.send_task(task, call, **options).id for call in calls]


# --- Waiting messages ---------------------------------------------------------------------------------


async def test_what_came_after_the_count_is_left_alone(shop: Celeriac, client: httpx.AsyncClient) -> None:
    before = send(shop, "shop.add", [(n,) for n in range(3)], queue="idle")
    counted = await act(client, "move", filter="task:shop.add queue:idle", queue="spare", dry_run=True)
    assert (counted["matched"], counted["of"]) == (3, "exact")
    assert await waiting(client, "idle") == before
    await asyncio.sleep(0.002)  # ids of one millisecond do not tell which was first
    after = send(shop, "shop.add", [(9,)], queue="idle")
    moved = await done(client, "move", filter="task:shop.add queue:idle", queue="spare", before=counted["before"])
    assert (moved["state"], moved["matched"], moved["done"], moved["refused"]) == ("done", 3, 3, 0)
    assert (await waiting(client, "idle"), sorted(await waiting(client, "spare"))) == (after, before)
    # What was done is not found again.
    again = await done(client, "move", filter="queue:idle", queue="spare", before=counted["before"])
    assert (again["matched"], again["done"]) == (0, 0)


async def test_scheduled_tasks_are_run_now_by_a_filter_of_arguments_and_headers(
    shop: Celeriac, client: httpx.AsyncClient
) -> None:
    ids = send(shop, "shop.fail", [("x", 1), ("x", 2)], queue="idle", countdown=3600, headers={"tenant": "acme"})
    send(shop, "shop.fail", [("x", 2)], queue="idle", countdown=3600)
    send(shop, "shop.add", [(2,)], queue="idle")
    assert (await done(client, "run-now", filter="args.customer:2 header.tenant:acme"))["done"] == 1
    assert ids[1] in await waiting(client, "idle")
    assert len(await waiting(client, "idle", "scheduled")) == 2
    assert (await done(client, "run-now", ids=[ids[0], "nobody"]))["reasons"] == {"it is not scheduled any more": 1}


async def test_waiting_tasks_are_revoked(shop: Celeriac, client: httpx.AsyncClient) -> None:
    ids = send(shop, "shop.add", [(n,) for n in range(3)], queue="idle")
    assert (await done(client, "revoke", filter="queue:idle"))["done"] == 3
    with running_worker(shop, queues=["idle"]):
        for id in ids:
            assert (await client.get(f"/tasks/{id}", params={"wait": 60})).json()["state"] == "REVOKED"


async def test_many_are_acted_on_in_steps(shop: Celeriac, client: httpx.AsyncClient) -> None:
    shop.tasks["shop.add"].delay_many([(n,) for n in range(2_500)])
    steps: list[int] = []
    step = Inspector.move

    async def counted(self: Inspector, ids: Any, queue: str) -> int:
        steps.append(len(ids))
        return await step(self, ids, queue)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inspector, "move", counted)
        assert (await done(client, "move", filter="", queue="spare"))["done"] == 2_500
    assert steps == [1000, 1000, 500]
    counts = {queue["queue"]: queue["ready"] for queue in (await client.get("/queues")).json()}
    assert (counts["default"], counts["spare"]) == (0, 2_500)


async def test_of_too_many_the_first_are_taken_and_it_says_that_there_are_more(
    make_app: Callable[..., Celeriac], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.web.bulk.MOST", Bound(5))
    app = make_app("shop", task_queues=["idle", "spare"])

    @app.task(name="shop.add")
    def add(x: int) -> int:
        return x

    async with client_of(site_of(app)) as client:
        send(app, "shop.add", [(n,) for n in range(7)], queue="idle")
        counted = await act(client, "move", filter="queue:idle", queue="spare", dry_run=True)
        assert (counted["matched"], counted["of"]) == (5, "at least")
        moved = await done(client, "move", filter="queue:idle", queue="spare")
        assert (moved["done"], moved["more"]) == (5, True)
        moved = await done(client, "move", filter="queue:idle", queue="spare")
        assert (moved["done"], moved["more"]) == (2, False)


# --- Failures and dead letters ------------------------------------------------------------------------


async def test_failed_tasks_are_sent_again_with_a_canary(
    shop: Celeriac, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    with running_worker(shop):
        send(shop, "shop.fail", [(f"file-{n}",) for n in range(12)])
        before = await matched(client, 12, "retry", "task:shop.fail error:ValueError")
        # All of the first fail again, and fewer would be no reason to stop: the others are left alone.
        first = {"filter": "task:shop.fail", "before": before, "canary": {"count": 4, "max_failed": 0.75}}
        stopped = await done(client, "retry", **first)
        assert (stopped["state"], stopped["done"], stopped["matched"]) == ("stopped", 4, 12)
        assert "of the first 4 have failed, and 75% may" in stopped["why"]
        for n in range(12):
            (tmp_path / f"file-{n}").touch()
        # The same request does the rest; those that failed again since are left alone.
        rest = await done(client, "retry", **first)
        assert (rest["state"], rest["done"], rest["refused"]) == ("done", 8, 4)
        assert rest["reasons"] == {"it has failed again since": 4}
        again = await matched(client, 12, "retry", "task:shop.fail")
        everything = await done(client, "retry", filter="task:shop.fail", before=again)
        assert (everything["done"], everything["refused"]) == (4, 8)


async def test_dead_letters_are_resent_and_dropped(shop: Celeriac, client: httpx.AsyncClient) -> None:
    for name in ("one", "two"):
        send(shop, "shop.unknown", [(name,)], queue="idle", headers={"name": name})
    shop.conf.worker_unknown_task_seconds = 0
    with running_worker(shop, queues=["idle"]):
        await matched(client, 2, "drop", "queue:idle")
    dropped = await done(client, "drop", filter="header.name:one")
    assert (dropped["matched"], dropped["done"]) == (1, 1)
    resent = await done(client, "resend", filter="args.0:two")
    assert (resent["matched"], resent["done"]) == (1, 1)
    assert len(await waiting(client, "idle")) == 1
    assert (await done(client, "drop", ids=["nobody"]))["reasons"] == {"it is no dead letter any more": 1}


# --- Who may, and what is refused ---------------------------------------------------------------------


async def test_each_action_needs_its_own_scope(shop: Celeriac) -> None:
    scopes = {"resend": "dead:write", "drop": "dead:write", "retry": "tasks:retry", "revoke": "tasks:revoke",
              "run-now": "tasks:retry", "move": "queues:write"}  # fmt: skip
    site = site_of(shop)
    for action, scope in scopes.items():
        body = {"action": action, "filter": "", **({"queue": "spare"} if action == "move" else {})}
        others = [other for other in {*scopes.values()} if other != scope]
        async with client_of(site, f"bob tasks:read {' '.join(others)}") as bob:
            for dry_run in (True, False):
                refused = await bob.post("/bulk", json={**body, "dry_run": dry_run})
                assert problem(refused, 403, "scope")["needed"] == scope
        async with client_of(site, f"ann tasks:read {scope}") as ann, client_of(site, "vic viewer") as viewer:
            bulk = (await act(ann, **body))["bulk"]
            assert problem(await viewer.delete(f"/bulk/{bulk}"), 403, "scope")["needed"] == scope
            assert (await over(viewer, bulk))["by"] == "ann"


@pytest.mark.parametrize(
    ("body", "pointer", "why"),
    [
        ({"action": "drop"}, "", "either"),
        ({"action": "drop", "filter": "", "ids": ["x"]}, "", "either"),
        ({"action": "drop", "filter": "tusk:x"}, "/filter", "'task'"),
        ({"action": "drop", "filter": "runtime:>5s"}, "/filter", "no runtime"),
        ({"action": "revoke", "filter": "state:failure"}, "/filter", "neither a state"),
        ({"action": "retry", "filter": "state:success"}, "/filter", "leave the state out"),
        ({"action": "retry", "filter": "args.x:1"}, "/filter", "keeps no arguments"),
        ({"action": "drop", "filter": "", "canary": {}}, "/canary", "runs no task"),
        ({"action": "move", "filter": ""}, "/queue", "move needs a queue"),
        ({"action": "drop", "filter": "", "queue": "spare"}, "/queue", "the others take none"),
        ({"action": "drop", "filter": "", "before": "order-17"}, "/before", "tells a time"),
    ],
)
async def test_a_bulk_action_that_makes_no_sense_is_refused(
    make_app: Callable[..., Celeriac], body: dict[str, Any], pointer: str, why: str
) -> None:
    async with client_of(site_of(make_app("shop", task_queues=["spare"]))) as client:
        found = problem(await client.post("/bulk", json={**body, "dry_run": True}), 422, "bad-body")
        assert found["errors"][0]["pointer"] == pointer
        assert why in found["detail"]


async def test_an_unknown_queue_or_bulk_action_is_refused(make_app: Callable[..., Celeriac]) -> None:
    async with client_of(site_of(make_app("shop"))) as client:
        nowhere = {"action": "move", "filter": "", "queue": "nowhere"}
        problem(await client.post("/bulk", json=nowhere), 404, "unknown-queue")
        for id in ("nobody", new_id()):
            problem(await client.get(f"/bulk/{id}"), 404, "unknown-bulk")
            problem(await client.delete(f"/bulk/{id}"), 404, "unknown-bulk")


# --- Stopped, failed, interrupted ---------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Event]:
    """Steps of moving that begin when the event is set."""
    go = asyncio.Event()
    step = Inspector.move

    async def waits(self: Inspector, ids: Any, queue: str) -> int:
        while not go.is_set():
            await asyncio.sleep(0.01)
        return await step(self, ids, queue)

    monkeypatch.setattr(Inspector, "move", waits)
    yield go
    go.set()


async def test_a_bulk_action_is_stopped_by_any_server(
    shop: Celeriac, slow: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.web.bulk.PROGRESS_SECONDS", 0.0)
    shop.tasks["shop.add"].delay_many([(n,) for n in range(2_500)])
    async with client_of(site_of(shop)) as ann, client_of(site_of(shop), "olga operator") as olga:
        bulk = (await act(ann, "move", filter="", queue="spare"))["bulk"]
        # Another server knows it from the history.
        assert (await olga.get(f"/bulk/{bulk}")).json()["state"] == "counting"
        assert (await olga.delete(f"/bulk/{bulk}")).status_code == 202
        slow.set()
        stopped = await over(ann, bulk)
        assert (stopped["state"], stopped["done"], stopped["why"]) == ("stopped", 1000, "olga stopped it.")
        assert (await over(olga, bulk)) == stopped
        written = [(event["kind"], event["by"]) for event in (await olga.get("/audit")).json()]
        assert written == [("bulk.ended", "ann"), ("bulk.stop", "olga"), ("bulk.started", "ann")]


async def test_a_bulk_action_that_fails_says_what_is_left(
    shop: Celeriac, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(shop, "shop.add", [(1,)], queue="idle")

    async def broken(self: Inspector, ids: Any, queue: str) -> int:
        raise BrokerError("it broke")

    with monkeypatch.context() as patch:
        patch.setattr(Inspector, "move", broken)
        failed = await done(client, "move", filter="queue:idle", queue="spare")
    assert (failed["state"], failed["done"]) == ("failed", 0)
    assert failed["why"].startswith("it broke What it has not done was not done")
    assert (await done(client, "move", filter="queue:idle", queue="spare", before=failed["before"]))["done"] == 1


async def test_only_some_bulk_actions_run_at_once(
    shop: Celeriac, slow: asyncio.Event, client: httpx.AsyncClient
) -> None:
    send(shop, "shop.add", [(1,)], queue="idle")
    bulks = [(await act(client, "move", filter="queue:idle", queue="spare"))["bulk"] for _ in range(5)]
    refused = await client.post("/bulk", json={"action": "drop", "filter": ""})
    problem(refused, 429, "too-many")
    slow.set()
    assert sum([(await over(client, bulk))["done"] for bulk in bulks]) == 1


async def test_without_a_history_a_bulk_action_is_known_to_its_server(make_app: Callable[..., Celeriac]) -> None:
    app = make_app("shop", history="off")
    async with client_of(site_of(app)) as client, client_of(site_of(app)) as other:
        bulk = (await act(client, "drop", filter=""))["bulk"]
        assert (await over(client, bulk))["state"] == "done"
        problem(await other.get(f"/bulk/{bulk}"), 404, "unknown-bulk")
        refused = await client.post("/bulk", json={"action": "retry", "filter": "", "dry_run": True})
        problem(refused, 501, "not-supported")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_bulk_action_whose_server_ends_is_interrupted_and_can_be_finished(
    tmp_path: Path, number: signal.Signals
) -> None:
    with serving(tmp_path) as served:
        served.worker("-Q", "default")
        process, address = served.web()
        with httpx.Client(base_url=f"{address}{API}", timeout=PATIENCE, trust_env=False) as client:
            name = f"file-{uuid.uuid4()}"
            ids = [client.post("/tasks", json={"task": "shop.until", "args": [name]}).json()["id"] for _ in range(20)]
            # Those that go first wait for a file, so the job waits for them.
            later = [client.post("/tasks", json={"task": "shop.until", "args": [name], "options": {"countdown": 3600}})
                     .json()["id"] for _ in range(20)]  # fmt: skip
            body = {"action": "run-now", "filter": "task:shop.until", "canary": {"count": 5, "max_failed": 0}}
            bulk = client.post("/bulk", json=body).json()
            deadline = time.monotonic() + PATIENCE
            while client.get(f"/bulk/{bulk['bulk']}").json()["done"] < 5 and time.monotonic() < deadline:
                time.sleep(0.02)
        process.send_signal(number)
        process.wait(PATIENCE)
        _, address = served.web()
        with httpx.Client(base_url=f"{address}{API}", timeout=PATIENCE, trust_env=False) as client:
            found = client.get(f"/bulk/{bulk['bulk']}").json()
            assert (found["by"], found["before"]) == ("local", bulk["before"])
            # A server that is killed cannot say so: that is known a minute later.
            assert found["state"] == ("interrupted" if number == signal.SIGTERM else "counting")
            again = client.post("/bulk", json={**body, "canary": None, "before": bulk["before"]}).json()
            (tmp_path / name).touch()
            for id in [*ids, *later]:
                assert client.get(f"/tasks/{id}/result", params={"wait": 60}).json() == "there"
            finished = client.get(f"/bulk/{again['bulk']}").json()
            assert (finished["state"], finished["done"]) == ("done", 15)


async def test_a_job_of_which_nothing_was_heard_is_interrupted(make_app: Callable[..., Celeriac]) -> None:
    app = make_app("shop")
    async with client_of(site_of(app)) as client, client_of(site_of(app)) as other:
        bulk = await done(client, "drop", filter="")
        id = new_id()
        data = {**bulk, "bulk": id, "state": "running"}
        assert app.history is not None
        await app.history.audit(Event(at=app.clock.now() - 50, kind="bulk.started", id=id, by="ann", data=data))
        assert (await other.get(f"/bulk/{id}")).json()["state"] == "running"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("celeriac.web.bulk.SILENT_SECONDS", 49.0)
            patch.setattr("celeriac.web.bulk.LOOK_BACK", 100.0)
            found = (await other.get(f"/bulk/{id}")).json()
        assert found["state"] == "interrupted"
        assert "with the same `before`" in found["why"]
