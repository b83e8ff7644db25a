"""The addresses of Celery's views and of Flower answer with their shapes."""

from __future__ import annotations

import uuid

import httpx

from tests.patience import wait_for
from tests.web.test_tasks import API, problem, send


def test_celerys_views(client: httpx.Client) -> None:
    id = send(client, "shop.add", 1, 2, wait=60).json()["id"]
    assert client.get(f"/compat/{id}/status/").json() == {"task": {"id": id, "status": "SUCCESS", "result": 3}}
    assert client.get(f"/compat/{id}/done/").json() == {"task": {"id": id, "executed": True}}
    failed = send(client, "shop.fail", "no 'tea'", wait=60).json()["id"]
    found = client.get(f"/compat/{failed}/status/").json()["task"]
    assert (found["status"], found["exc"]) == ("FAILURE", "builtins.ValueError")
    assert found["result"] == 'ValueError("no \'tea\'")'
    assert "no 'tea'" in found["traceback"]
    assert client.get(f"/compat/{failed}/done/").json()["task"]["executed"] is False
    unknown = client.get("/compat/nobody/status/").json()
    assert unknown == {"task": {"id": "nobody", "status": "PENDING", "result": None}}
    assert "shop.add" in client.get("/compat/tasks/").json()["regular"]


def test_celerys_apply_takes_named_arguments_as_text(client: httpx.Client) -> None:
    for answer in (
        client.get("/compat/apply/mail.send/", params={"to": "ann", "subject": "tea & <cake>"}),
        client.post("/compat/apply/mail.send/", data={"to": "ann", "subject": "tea & <cake>"}),
        client.post("/compat/apply/mail.send/?to=ann", data={"subject": "tea & <cake>"}),
    ):
        found = answer.json()
        assert (answer.status_code, found["ok"]) == (200, "true")
        result = client.get(f"{API}/tasks/{found['task_id']}/result", params={"wait": 60})
        assert result.json() == "tea & <cake> to ann"
    problem(client.get("/compat/apply/mail.sent/"), 404, "unknown-task")
    problem(client.get("/compat/apply/mail.send/", params={"too": "x"}), 422, "bad-arguments")
    problem(client.post("/compat/apply/mail.send/", json={"to": "ann"}), 415, "wrong-content-type")


def test_flowers_task_api(client: httpx.Client) -> None:
    sent = client.post("/compat/api/task/async-apply/shop.add", json={"args": [1, 2], "retry": True}).json()
    assert sent["state"] == "PENDING"
    found = client.get(f"/compat/api/task/result/{sent['task-id']}", params={"timeout": 60}).json()
    assert (found["task-id"], found["state"], found["result"]) == (sent["task-id"], "SUCCESS", 3)
    assert client.post("/compat/api/task/apply/shop.add", json={"kwargs": {"x": 5}}).json()["result"] == 7
    info = client.get(f"/compat/api/task/info/{sent['task-id']}").json()
    assert (info["name"], info["state"]) == ("shop.add", "SUCCESS")
    recent = client.get("/compat/api/tasks", params={"limit": 200}).json()
    assert recent[sent["task-id"]]["name"] == "shop.add"
    problem(client.post("/compat/api/task/send-task/shop.ad", json={}), 404, "unknown-task")
    lengths = client.get("/compat/api/queues/length").json()["active_queues"]
    assert "default" in [queue["name"] for queue in lengths]


def test_flower_revokes(client: httpx.Client) -> None:
    body = {"args": [f"never-{uuid.uuid4()}"]}
    id = client.post("/compat/api/task/send-task/shop.until", json=body).json()["task-id"]
    wait_for(lambda: client.get(f"{API}/tasks/{id}").json()["place"] == "active", "the start")
    answer = client.post(f"/compat/api/task/revoke/{id}", params={"terminate": "true"})
    assert answer.json() == {"message": f"Revoked '{id}'"}
    assert client.get(f"/compat/api/task/result/{id}", params={"timeout": 60}).json()["state"] == "REVOKED"
