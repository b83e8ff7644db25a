"""What the API tells of the history: searches, timelines, failures by signature, counts, and what operators did."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from inspect import CORO_CLOSED, getcoroutinestate
from pathlib import Path
from typing import Any

import httpx
import pytest

from celeriac import Celeriac
from celeriac.errors import BrokerError
from celeriac.model.message import new_id
from celeriac.testing import running_worker
from tests.commands import command
from tests.patience import PATIENCE
from tests.web.inside import client_of, site_of
from tests.web.test_tasks import problem


@pytest.fixture(params=["memory", "sqlite"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, make_app: Callable[..., Celeriac]) -> Iterator[Celeriac]:
    url = f"memory://{new_id()}" if request.param == "memory" else f"sqlite:///{tmp_path}/shop.db"
    app = make_app("shop", broker_url=url, task_queues=["mail", "idle"])

    @app.task(name="shop.add")
    def add(x: int, y: int = 2) -> int:
        return x + y

    @app.task(name="shop.fail", max_retries=0)
    def fail(why: str) -> None:
        if not (tmp_path / why).exists():
            raise ValueError(why)

    with running_worker(app, queues=["default", "mail"]):
        yield app


@pytest.fixture
def client(shop: Celeriac) -> httpx.AsyncClient:
    return client_of(site_of(shop))


async def send(client: httpx.AsyncClient, task: str, *args: Any, wait: float = 60, **options: Any) -> str:
    answer = await client.post("/tasks", params={"wait": wait}, json={"task": task, "args": args, "options": options})
    return str(answer.json()["id"])


async def found(client: httpx.AsyncClient, path: str, condition: Callable[[Any], bool], **params: Any) -> Any:
    """Return an answer, once it is as it should be: workers write the history a moment later."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        answer = (await client.get(path, params=params)).json()
        if condition(answer):
            return answer
        await asyncio.sleep(0.02)
    raise AssertionError(f"{path} stays {answer}")


async def test_tasks_are_searched_for_with_the_grammar_of_the_command(client: httpx.AsyncClient) -> None:
    failed = [await send(client, "shop.fail", f"no {n}", queue="mail") for n in range(3)]
    await send(client, "shop.add", 1)
    q = "task:shop.* state:failure queue:mail error:ValueError since:1h"
    page = await found(client, "/tasks", lambda page: len(page["tasks"]) == 3, q=q)
    assert [task["id"] for task in page["tasks"]] == failed[::-1]
    assert (page["next"], page["searched"]["of"] >= 3) == (None, True)
    first = (await client.get("/tasks", params={"q": q, "limit": 2})).json()
    rest = (await client.get("/tasks", params={"q": q, "limit": 2, "cursor": first["next"]})).json()
    assert [task["id"] for task in first["tasks"] + rest["tasks"]] == failed[::-1]
    assert "traceback" not in page["tasks"][0]
    every = await found(client, "/tasks", lambda page: len(page["tasks"]) == 4, q="")
    assert every["tasks"][0]["task"] == "shop.add"


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"q": "tusk:x"}, "'task'"),
        ({"q": "args.x:1"}, "keeps no arguments"),
        ({"q": "", "cursor": "nonsense"}, "not the cursor"),
        ({"q": "", "cursor": "nan/1/x"}, "not the cursor"),
        ({"q": "", "ids": "x"}, "either"),
        ({}, "either"),
    ],
)
async def test_a_search_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, params: dict[str, str], why: str
) -> None:
    assert why in problem(await client.get("/tasks", params=params), 422, "bad-query")["detail"]


async def test_the_documents_are_those_of_the_command(shop: Celeriac, client: httpx.AsyncClient) -> None:
    await send(client, "shop.fail", "no")
    page = await found(client, "/tasks", lambda page: len(page["tasks"]) == 1, q="task:shop.fail")
    failures = (await client.get("/failures")).json()
    for document, arguments in ((page, ("tasks", "--task", "shop.fail")), (failures, ("stats", "failures"))):
        done = await asyncio.to_thread(command, shop, *arguments, "--json")
        assert json.loads(done.stdout) == document


async def test_a_timeline_has_each_attempt_and_what_operators_did(
    client: httpx.AsyncClient, shop: Celeriac, tmp_path: Path
) -> None:
    id = await send(client, "shop.fail", "later")
    timeline = await found(client, f"/tasks/{id}/timeline", lambda it: bool(it["attempts"]))
    (attempt,) = timeline["attempts"]
    assert (attempt["state"], attempt["can_retry"], timeline["events"]) == ("FAILURE", True, [])
    assert "ValueError: later" in attempt["traceback"]
    async with client_of(site_of(shop), "vic viewer") as viewer:
        shown = (await viewer.get(f"/tasks/{id}/timeline")).json()
        assert "traceback" not in shown["attempts"][0]
        problem(await viewer.post(f"/tasks/{id}/retry"), 403, "scope")
    (tmp_path / "later").touch()
    assert (await client.post(f"/tasks/{id}/retry")).json() == {"sent": 1, "refused": {}}
    assert (await client.get(f"/tasks/{id}", params={"wait": 60})).json()["state"] == "SUCCESS"
    timeline = await found(client, f"/tasks/{id}/timeline", lambda it: len(it["attempts"]) == 2)
    assert [one["state"] for one in timeline["attempts"]] == ["FAILURE", "SUCCESS"]
    assert [(event["kind"], event["by"]) for event in timeline["events"]] == [("task.retried", "ann")]
    problem(await client.post(f"/tasks/{id}/retry"), 409, "wrong-state")
    problem(await client.post("/tasks/nobody/retry"), 404, "unknown-id")
    problem(await client.get("/tasks/nobody/timeline"), 404, "unknown-id")
    waits = await send(client, "shop.add", 1, wait=0, queue="idle")
    assert (await client.get(f"/tasks/{waits}/timeline")).json() == {"id": waits, "attempts": [], "events": []}


async def test_a_failed_task_is_sent_again_to_another_queue(client: httpx.AsyncClient) -> None:
    id = await send(client, "shop.fail", "no")
    problem(await client.post(f"/tasks/{id}/retry", json={"queue": "nowhere"}), 404, "unknown-queue")
    assert (await client.post(f"/tasks/{id}/retry", json={"queue": "idle"})).status_code == 202
    view = (await client.get(f"/tasks/{id}")).json()
    assert (view["state"], view["queue"], view["error"]) == ("PENDING", "idle", None)


async def test_why_a_task_does_not_run_is_explained_as_the_command_does(client: httpx.AsyncClient,
                                                                        shop: Celeriac) -> None:  # fmt: skip
    waits = await send(client, "shop.add", 1, wait=0, countdown=3600)
    told = (await client.get(f"/tasks/{waits}/explain")).json()
    assert (told["status"], [reason["kind"] for reason in told["reasons"]]) == ("waiting", ["not_due"])
    assert told["reasons"][0]["command"] == f"celeriac tasks run-now {waits}"
    printed = json.loads((await asyncio.to_thread(command, shop, "explain", waits, "--json")).stdout)
    assert [one["kind"] for one in printed["reasons"]] == ["not_due"]
    unknown = (await client.get("/tasks/nobody/explain", params={"workflow": "none"})).json()
    assert (unknown["status"], unknown["reasons"][0]["kind"]) == ("unknown", "never_seen")
    async with client_of(site_of(shop), "vic viewer") as viewer:
        assert (await viewer.get(f"/tasks/{waits}/explain")).status_code == 200


async def test_a_scheduled_task_is_run_now(client: httpx.AsyncClient) -> None:
    id = await send(client, "shop.add", 1, wait=0, countdown=3600)
    assert (await client.post(f"/tasks/{id}/run-now")).json() == {"count": 1}
    assert (await client.get(f"/tasks/{id}/result", params={"wait": 60})).json() == 3
    problem(await client.post(f"/tasks/{id}/run-now"), 409, "wrong-state")
    problem(await client.post("/tasks/nobody/run-now"), 404, "unknown-id")


async def test_failures_are_grouped_by_signature_and_marked(client: httpx.AsyncClient) -> None:
    ids = [await send(client, "shop.fail", f"no {n}") for n in range(2)]
    (one,) = await found(client, "/failures", lambda them: bool(them) and them[0]["count"] == 2)
    assert (one["task"], one["error"], one["status"]) == ("shop.fail", "builtins.ValueError", "open")
    path = f"/failures/{one['signature']}"
    shown = await found(client, path, lambda it: len(it["attempts"]) == 2)
    assert {attempt["id"] for attempt in shown["attempts"]} == set(ids)
    marked = (await client.patch(path, json={"status": "resolved"})).json()
    assert (marked["status"], marked["marked_by"], marked["regressed"]) == ("resolved", "ann", False)
    assert (await client.get("/failures", params={"status": "open"})).json() == []
    await send(client, "shop.fail", "again")
    await found(client, path, lambda it: it["regressed"])
    problem(await client.patch("/failures/f00d", json={"status": "muted"}), 404, "unknown-signature")
    problem(await client.get("/failures/f00d"), 404, "unknown-signature")
    problem(await client.patch(path, json={"status": "gone"}), 422, "bad-body")


async def test_what_ended_is_counted_by_steps(client: httpx.AsyncClient) -> None:
    for n in range(3):
        await send(client, "shop.add", n)
    await send(client, "shop.fail", "no")

    def total(series: Any) -> int:
        return sum(sum(point["count"].values()) for point in series["points"])

    series = await found(client, "/stats/series", lambda it: total(it) == 4)
    assert series["step"] == 60
    assert {"p50", "p95", "p99"} <= series["points"][0]["runtime"].keys()
    by_task = (await client.get("/stats/series", params={"by": "task", "step": "1d", "since": "1h"})).json()
    assert {point["task"]: point["count"] for point in by_task["points"]} == {
        "shop.add": {"SUCCESS": 3}, "shop.fail": {"FAILURE": 1},
    }  # fmt: skip
    some = {"task": "shop.add", "queue": "default", "q": "state:success"}
    assert total((await client.get("/stats/series", params=some)).json()) == 3
    for params, why in (
        ({"step": "10s", "since": "1w"}, "5,000 steps"),
        ({"step": "soon"}, "no duration"),
        ({"since": "yesterday"}, "neither"),
        ({"q": "runtime:>5s"}, "runtime"),
        ({"since": "999999999999w"}, "5,000 steps"),
    ):
        assert why in problem(await client.get("/stats/series", params=params), 422, "bad-query")["detail"]


async def test_an_app_without_a_history_says_so(make_app: Callable[..., Celeriac]) -> None:
    async with client_of(site_of(make_app("shop", history="off"))) as client:
        for path in ("/tasks?q=", "/failures", "/failures/x", "/stats/series", "/tasks/x/timeline", "/audit"):
            assert "`history` is 'off'" in problem(await client.get(path), 501, "not-supported")["detail"]


async def test_what_is_cancelled_before_a_thread_was_free_leaves_nothing_open(
    tmp_path: Path, make_app: Callable[..., Celeriac]
) -> None:
    site = site_of(make_app(broker_url=f"sqlite:///{tmp_path}/shop.db")).site
    free, taken = threading.Event(), threading.Event()

    def takes_the_only_thread() -> None:
        taken.set()
        free.wait(PATIENCE)

    with ThreadPoolExecutor(1) as executor:
        asyncio.get_running_loop().set_default_executor(executor)
        executor.submit(takes_the_only_thread)
        taken.wait(PATIENCE)
        question = site.inspector.queues()
        reading = asyncio.create_task(site.read(question))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        free.set()
    assert getcoroutinestate(question) == CORO_CLOSED


# --- The audit ----------------------------------------------------------------------------------------


async def test_each_action_of_an_operator_is_written_down(client: httpx.AsyncClient, shop: Celeriac) -> None:
    id = await send(client, "shop.add", 1, wait=0, queue="idle")
    async with client_of(site_of(shop), "olga operator queues:purge") as olga:
        await olga.patch("/queues/idle", json={"paused": True})
        await olga.patch("/queues/nowhere", json={"paused": True})
        await olga.post(f"/tasks/{id}/revoke")
        await olga.request("DELETE", "/queues/idle/messages", json={"expected": 5})
        await olga.post("/dead/drop", json={"ids": [f"x{n}" for n in range(50)]})
        await olga.post("/workers/nobody/orders", json={"order": "ping"})
    written = (await client.get("/audit")).json()
    assert [(event["by"], event["id"], event["data"]["request"]) for event in written] == [
        ("olga", None, "POST /api/v1/dead/drop"),
        ("olga", "idle", "DELETE /api/v1/queues/{queue:path}/messages"),
        ("olga", id, "POST /api/v1/tasks/{id}/revoke"),
        ("olga", "idle", "PATCH /api/v1/queues/{queue:path}"),
    ]
    assert (len(written[0]["data"]["body"]["ids"]), written[0]["data"]["body"]["of"]) == (20, 50)
    assert written[3]["data"]["body"] == {"paused": True}
    assert len((await client.get("/audit", params={"id": id})).json()) == 1
    done = await asyncio.to_thread(command, shop, "stats", "audit", "--since", "1h", "--json")
    assert json.loads(done.stdout) == written
    shown = await asyncio.to_thread(command, shop, "stats", "audit", "--id", "idle", "--limit", "1")
    assert [word in shown.stdout for word in ("olga", "action", "idle", "Delete the waiting messages")] == [True] * 4
    assert len((await client.get("/audit", params={"limit": 2, "since": "1h"})).json()) == 2


async def test_an_action_with_an_integer_that_the_history_cannot_keep_is_written_down(
    client: httpx.AsyncClient
) -> None:
    done = await client.request("DELETE", "/queues/idle/messages", json={"expected": 10**30})
    assert (done.status_code, done.json()) == (200, {"count": 0})
    (event,) = (await client.get("/audit")).json()
    assert json.loads(event["data"]["body"]) == {"expected": 10**30}


async def test_an_action_that_fails_half_way_is_written_down(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def purge(self: Any, queues: Any) -> Any:
        raise BrokerError("it broke")

    monkeypatch.setattr("celeriac.inspector.changing.Inspector.purge", purge)
    problem(await client.request("DELETE", "/queues/idle/messages", json={"expected": 5}), 502, "broker-failed")
    (event,) = (await client.get("/audit")).json()
    assert (event["id"], event["data"]["failed"]) == ("idle", "it broke")
