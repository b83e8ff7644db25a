"""Operating queues, dead letters, workers and schedules over HTTP."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

from tests.patience import wait_for
from tests.web.conftest import Running, worker_of
from tests.web.served import serving
from tests.web.test_tasks import API, problem, send


def test_task_types_have_a_schema_of_their_parameters(client: httpx.Client) -> None:
    names = [found["name"] for found in client.get(f"{API}/task-types").json()]
    assert names == sorted(names)
    assert {"shop.add", "mail.send"} <= set(names)
    add = client.get(f"{API}/task-types/shop.add").json()
    assert add["doc"] == "Add numbers."
    assert add["parameters"]["properties"] == {"x": {"type": "integer"}, "y": {"type": "integer", "default": 2}}
    assert (add["parameters"]["required"], add["parameters"]["additionalProperties"]) == (["x"], False)
    buy = client.get(f"{API}/task-types/shop.buy").json()["parameters"]
    assert buy["properties"] == {"order": {"$ref": "#/$defs/Order"}}
    assert buy["$defs"]["Order"]["required"] == ["item"]
    assert client.get(f"{API}/task-types/shop.echo").json()["parameters"]["additionalProperties"] is True
    assert client.get(f"{API}/task-types/shop.until").json()["kind"] == "coroutine"
    problem(client.get(f"{API}/task-types/shop.ad"), 404, "unknown-task")


def test_a_queue_is_counted_paused_and_resumed(client: httpx.Client) -> None:
    assert {"default", "mail", "idle"} <= {queue["queue"] for queue in client.get(f"{API}/queues").json()}
    paused = client.patch(f"{API}/queues/spare", json={"paused": True})
    assert paused.json() == {"queue": "spare", "ready": 0, "scheduled": 0, "active": 0, "dead": 0, "paused": True,
                             "uncounted": ""}  # fmt: skip
    assert client.get(f"{API}/queues/spare").json()["paused"] is True
    assert client.patch(f"{API}/queues/spare", json={"paused": False}).json()["paused"] is False
    assert problem(client.get(f"{API}/queues/spar"), 404, "unknown-queue")["nearest"] == "spare"
    problem(client.patch(f"{API}/queues/spar", json={"paused": True}), 404, "unknown-queue")


def test_a_queue_is_purged_only_of_what_was_expected(client: httpx.Client) -> None:
    ids = [send(client, "shop.add", n, options={"queue": "spare"}).json()["id"] for n in range(3)]
    waiting = client.get(f"{API}/queues/spare/messages").json()
    assert [(message["id"], message["args"]) for message in waiting] == [(id, [n]) for n, id in enumerate(ids)]
    assert len(client.get(f"{API}/queues/spare/messages", params={"limit": 1, "offset": 2}).json()) == 1
    grown = client.request("DELETE", f"{API}/queues/spare/messages", json={"expected": 2})
    assert problem(grown, 409, "changed")["count"] == 3
    done = client.request("DELETE", f"{API}/queues/spare/messages", json={"expected": 3})
    assert done.json() == {"count": 3}
    assert client.get(f"{API}/tasks/{ids[0]}").json()["state"] == "REVOKED"


def test_dead_letters_are_sent_again_and_dropped(client: httpx.Client, running: Running) -> None:
    name = f"dead-{uuid.uuid4()}"
    ids = [send(client, "shop.reject", name).json()["id"] for _ in range(2)]

    def dead() -> Any:
        return {letter["id"]: letter for letter in client.get(f"{API}/dead").json() if letter["args"] == [name]}

    found = wait_for(lambda: len(dead()) == 2 and dead(), "the dead letters")
    assert found[ids[0]]["reason"] == "not today"
    (running.served.folder / name).touch()
    assert client.post(f"{API}/dead/resend", json={"ids": [ids[0], "nobody"]}).json() == {"count": 1}
    assert client.get(f"{API}/tasks/{ids[0]}/result", params={"wait": 60}).json() == "taken"
    assert client.post(f"{API}/dead/drop", json={"ids": [ids[1]]}).json() == {"count": 1}
    assert dead() == {}
    problem(client.get(f"{API}/dead", params={"queue": "spar"}), 404, "unknown-queue")


def test_a_worker_is_shown_and_takes_orders(client: httpx.Client) -> None:
    worker = worker_of(client.get(f"{API}/workers"))
    path = f"{API}/workers/{worker['name']}"
    # A worker has two seconds to answer, which may not be enough on a busy machine.
    shown = wait_for(lambda: (told := client.get(path).json())["stats"] and told, "the worker's answer")
    assert (shown["pid"], shown["silent"], shown["stats"]["pid"]) == (worker["pid"], False, worker["pid"])
    grown = 0

    def grows() -> dict[str, Any] | None:
        nonlocal grown
        grown += 1
        told: dict[str, Any] = client.post(f"{path}/orders", json={"order": "pool_grow", "arguments": {"n": 1}}).json()
        return told if told["workers"] else None

    answer = wait_for(grows, "the worker's answer to an order")
    assert (answer["silent"], answer["unknown"], list(answer["workers"])) == ([], [], [worker["name"]])
    client.post(f"{path}/orders", json={"order": "pool_shrink", "arguments": {"n": grown}})
    found = problem(client.post(f"{path}/orders", json={"order": "pol_grow"}), 422, "bad-body")
    assert "pool_grow" in found["detail"]
    problem(client.get(f"{API}/workers/nobody"), 404, "unknown-worker")
    problem(client.post(f"{API}/workers/nobody/orders", json={"order": "ping"}), 404, "unknown-worker")


def test_a_schedule_is_shown_paused_resumed_and_run(client: httpx.Client, running: Running) -> None:
    options = ("--schedule", "0 4 * * *", "--task", "shop.add", "--args", "[20, 1]")
    running.served.run("schedules", "add", "early", *options)
    assert "early" in [entry["name"] for entry in client.get(f"{API}/schedules").json()]
    shown = client.get(f"{API}/schedules/early").json()
    assert (shown["state"], shown["sends"][0]["args"]) == ("active", [20, 1])
    assert client.patch(f"{API}/schedules/early", json={"paused": True}).json()["state"] == "paused"
    assert client.patch(f"{API}/schedules/early", json={"paused": False}).json()["state"] == "active"
    sent = client.post(f"{API}/schedules/early/run").json()
    assert client.get(f"{API}/tasks/{sent['id']}/result", params={"wait": 60}).json() == 21
    found = problem(client.get(f"{API}/schedules/ealy"), 404, "unknown-schedule")
    assert "'early'" in found["detail"]


def test_the_probes_tell_whether_the_servers_answer(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "ok"}
    ready = {"status": "ok", "broker": "ok", "backend": "ok"}
    wait_for(lambda: client.get("/readyz").json() == ready, "an answer of the database within a second")


def test_without_its_broker_the_api_is_not_ready_and_says_503(tmp_path_factory: pytest.TempPathFactory) -> None:
    url = "redis://127.0.0.1:1"
    with serving(tmp_path_factory.mktemp("away"), broker_url=url, broker_publish_timeout=0.5) as served:
        _, address = served.web()
        with httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
            assert client.get("/livez").status_code == 200
            ready = client.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
            answer = send(client, "shop.add", 1)
            problem(answer, 503, "broker-unavailable")
            assert answer.headers["retry-after"] == "5"
            problem(client.get(f"{API}/tasks/x"), 503, "broker-unavailable")


def test_head_is_answered_like_get(client: httpx.Client) -> None:
    answer = client.head(f"{API}/queues")
    assert (answer.status_code, answer.content) == (200, b"")


def test_where_nothing_is_the_answer_is_a_problem(client: httpx.Client) -> None:
    problem(client.get("/nowhere"), 404, "not-found")
    answer = client.put(f"{API}/tasks", json={})
    problem(answer, 405, "method-not-allowed")
    assert "POST" in answer.headers["allow"]
