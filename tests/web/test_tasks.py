"""Sending tasks and looking at them, with a real worker and real HTTP."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.patience import wait_for
from tests.web.conftest import Running

API = "/api/v1"


def send(client: httpx.Client, task: str, *args: Any, wait: float = 0, **more: Any) -> httpx.Response:
    return client.post(f"{API}/tasks", params={"wait": wait} if wait else {}, json={"task": task, "args": args, **more})


def problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = response.json()
    assert (response.status_code, found["type"]) == (status, f"urn:celeriac:problem:{kind}"), found
    assert response.headers["content-type"] == "application/problem+json"
    assert (found["status"], found["instance"]) == (status, response.request.url.path)
    return found


def test_a_task_is_sent_and_its_view_is_at_the_location(client: httpx.Client) -> None:
    answer = send(client, "shop.add", 2, 40)
    assert answer.status_code == 202
    sent = answer.json()
    assert (sent["task"], sent["state"], sent["queue"], sent["due_at"]) == ("shop.add", "PENDING", "default", None)
    assert answer.headers["location"] == sent["links"]["self"] == f"{API}/tasks/{sent['id']}"
    assert client.get(sent["links"]["status"], params={"wait": 30}).json()["value"] == 42
    view = client.get(answer.headers["location"], params={"wait": 60}).json()
    assert (view["state"], view["ready"], view["result"], view["error"]) == ("SUCCESS", True, 42, None)
    assert view["worker"].startswith("shop@")


def test_with_wait_the_answer_is_the_view(client: httpx.Client) -> None:
    answer = send(client, "shop.buy", wait=60, kwargs={"order": {"item": "tea", "count": 3}})
    assert answer.status_code == 200
    assert answer.json()["result"] == "3 × tea"


def test_a_wait_that_is_too_short_gives_202(client: httpx.Client) -> None:
    answer = send(client, "shop.until", "never", wait=0.2)
    assert answer.status_code == 202
    client.post(f"{answer.headers['location']}/revoke", json={"terminate": True})


def test_options_are_those_of_a_call(client: httpx.Client) -> None:
    eta = datetime.now(UTC) + timedelta(hours=1)
    answer = send(client, "shop.add", 1, options={
        "queue": "idle", "priority": 9, "eta": eta.isoformat(), "expires": 7200, "headers": {"tenant": "acme"},
        "id": f"mine-{uuid.uuid4()}", "time_limit": None, "soft_time_limit": 5, "max_retries": 1,
    })  # fmt: skip
    assert answer.status_code == 202, answer.text
    id = answer.json()["id"]
    assert id.startswith("mine-")
    waiting = client.get(f"{API}/queues/idle/messages", params={"state": "scheduled", "limit": 200}).json()
    (message,) = [message for message in waiting if message["id"] == id]
    assert (message["priority"], message["headers"]) == (9, {"tenant": "acme"})
    assert datetime.fromisoformat(message["due_at"]) == eta.replace(microsecond=eta.microsecond // 1000 * 1000)
    view = client.get(f"{API}/tasks/{id}").json()
    assert (view["state"], view["place"], view["queue"], view["task"]) == ("PENDING", "scheduled", "idle", "shop.add")
    assert client.post(f"{API}/tasks/{id}/revoke").json() == {"revoked": [id]}


@pytest.mark.parametrize(
    ("body", "status", "kind", "pointer", "nearest"),
    [
        ({"task": "shop.ad"}, 404, "unknown-task", None, "shop.add"),
        ({"task": "add"}, 404, "unknown-task", None, "shop.add"),
        ({"task": "shop.add"}, 422, "bad-arguments", "/kwargs/x", None),
        ({"task": "shop.add", "args": [1, 2, 3]}, 422, "bad-arguments", "/args/2", None),
        ({"task": "shop.add", "args": [1], "kwargs": {"x": 1}}, 422, "bad-arguments", "/kwargs/x", None),
        ({"task": "shop.add", "args": [1], "kwargs": {"z": 1}}, 422, "bad-arguments", "/kwargs/z", None),
        ({"task": "shop.buy", "args": [{"item": 3}]}, 422, "bad-arguments", "/args/0", None),
        ({"task": "shop.add", "arg": [1]}, 422, "bad-body", "/arg", "args"),
        ({"task": "shop.add", "args": [1], "options": {"que": "x"}}, 422, "bad-body", "/options/que", "queue"),
        ({"task": "shop.add", "args": [1], "options": {"priority": 10}}, 422, "bad-body", "/options/priority", None),
        ({"task": "shop.add", "args": [1], "options": {"countdown": 1, "eta": "2030-01-01T00:00:00Z"}}, 422, "bad-body",
         "/options", None),
        ({"task": "shop.add", "args": [1], "options": {"eta": "2030-01-01T00:00:00"}}, 422, "bad-body", "/options/eta",
         None),
        ({"task": "shop.add", "args": [1], "options": {"queue": "mial"}}, 404, "unknown-queue", None, "mail"),
        ({"task": "shop.add", "args": 1}, 422, "bad-body", "/args", None),
        ({"args": [1]}, 422, "bad-body", "", None),
        ([], 422, "bad-body", "", None),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_place(
    client: httpx.Client, body: Any, status: int, kind: str, pointer: str | None, nearest: str | None
) -> None:
    found = problem(client.post(f"{API}/tasks", json=body), status, kind)
    assert found.get("nearest") == nearest
    if pointer is not None:
        assert [error["pointer"] for error in found["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("content", "kind", "headers"),
    [
        (b"{", "bad-json", {}),
        (b"", "bad-json", {}),
        (b"\xff", "bad-json", {}),
        (b'{"task": "shop.add", "args": [' + b"[" * 60 + b"]" * 60 + b"]}", "bad-json", {}),
        (b"[" * 500_000, "bad-json", {}),
        (b'{"task": "shop.add"}', "wrong-content-type", {"content-type": "text/plain"}),
    ],
)
def test_a_body_that_is_not_json_is_refused(
    client: httpx.Client, content: bytes, kind: str, headers: dict[str, str]
) -> None:
    answer = client.post(f"{API}/tasks", content=content, headers={"content-type": "application/json", **headers})
    problem(answer, 415 if kind == "wrong-content-type" else 400, kind)


def test_a_query_that_does_not_fit_is_refused(client: httpx.Client) -> None:
    for query in ({"wait": "61"}, {"wait": "soon"}, {"wiat": "1"}, {"wait": ["1", "2"]}):
        found = problem(client.get(f"{API}/tasks/x", params=query), 422, "bad-query")
        assert found["parameter"] in ("wait", "wiat")


def test_an_unknown_id_is_not_pending(client: httpx.Client) -> None:
    problem(client.get(f"{API}/tasks/nobody", params={"wait": 60}), 404, "unknown-id")
    problem(client.get(f"{API}/tasks/nobody/result"), 404, "unknown-id")


# --- Batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["order/17", "a?b#c", "/", "."])
def test_the_links_of_an_id_with_odd_characters_lead_there(client: httpx.Client, id: str) -> None:
    id = f"{uuid.uuid4()}{id}"
    links = send(client, "shop.add", 1, 1, options={"id": id}).json()["links"]
    assert client.get(links["result"], params={"wait": 60}).json() == 2
    assert client.get(links["self"]).json()["id"] == id
    assert client.post(links["revoke"]).json() == {"revoked": [id]}
    assert client.get(f"{links['self']}/explain").json()["id"] == id


def test_a_batch_is_sent_as_a_whole(client: httpx.Client) -> None:
    body = {"task": "shop.add", "calls": [{"args": [n]} for n in range(1000)]}
    answer = client.post(f"{API}/tasks/batch", json=body)
    assert answer.status_code == 202
    ids = answer.json()["ids"]
    assert len(set(ids)) == 1000

    def ended() -> bool:
        found = client.get(f"{API}/tasks", params={"ids": ",".join(ids[-100:]), "wait": 5}).json()["tasks"]
        return len(found) == 100 and all(view["ready"] for view in found.values())

    wait_for(ended, "the batch")
    found = client.get(f"{API}/tasks", params={"ids": ",".join(ids[-3:])}).json()["tasks"]
    assert [found[id]["result"] for id in ids[-3:]] == [999, 1000, 1001]


def test_of_a_batch_with_a_mistake_nothing_is_sent(client: httpx.Client, running: Running) -> None:
    calls: list[Any] = [{"args": ["of a wrong batch"]}, {"args": []}, {"kwargs": {"txt": "x"}}]
    found = problem(client.post(f"{API}/tasks/batch", json={"task": "shop.note", "calls": calls}), 422, "bad-arguments")
    assert [(error["index"], error["pointer"]) for error in found["errors"]] == [
        (1, "/kwargs/text"), (2, "/kwargs/text"), (2, "/kwargs/txt"),
    ]  # fmt: skip
    assert send(client, "shop.note", "after it", wait=60).json()["state"] == "SUCCESS"
    assert "of a wrong batch" not in (running.served.folder / "notes").read_text()


def test_lines_of_json_are_a_batch(client: httpx.Client) -> None:
    lines = "\n".join(json.dumps({"args": [n, n]}) for n in range(3))
    headers = {"content-type": "application/x-ndjson"}
    answer = client.post(f"{API}/tasks/batch", params={"task": "shop.add"}, content=lines, headers=headers)
    ids = answer.json()["ids"]
    results = [client.get(f"{API}/tasks/{id}/result", params={"wait": 60}).json() for id in ids]
    assert results == [0, 2, 4]
    problem(client.post(f"{API}/tasks/batch", content=lines, headers=headers), 422, "bad-query")


def test_a_batch_has_at_most_a_thousand_calls(client: httpx.Client) -> None:
    body = {"task": "shop.add", "calls": [{"args": [1]}] * 1001}
    problem(client.post(f"{API}/tasks/batch", json=body), 422, "bad-body")
    problem(client.post(f"{API}/tasks/batch", json={"task": "shop.add", "calls": []}), 422, "bad-body")


# --- Looking ------------------------------------------------------------------------------------------


def test_the_result_is_the_bare_value(client: httpx.Client) -> None:
    id = send(client, "shop.echo", "ä", 2**63 + 1, k=1, kwargs={"deep": [{"n": None}]}).json().get("id")
    if id is None:  # `k` is no field of the body
        id = send(client, "shop.echo", "ä", 2**63 + 1, kwargs={"deep": [{"n": None}]}).json()["id"]
    answer = client.get(f"{API}/tasks/{id}/result", params={"wait": 60})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.text == '[["ä",9223372036854775809],{"deep":[{"n":null}]}]'


def test_the_result_of_a_task_that_failed_is_424(client: httpx.Client) -> None:
    id = send(client, "shop.fail", "no tea").json()["id"]
    found = problem(client.get(f"{API}/tasks/{id}/result", params={"wait": 60}), 424, "task-failed")
    assert found["error"] == {"type": "ValueError", "module": "builtins", "message": "no tea"}
    view = client.get(f"{API}/tasks/{id}").json()
    assert (view["state"], view["error"]["message"]) == ("FAILURE", "no tea")
    assert "ValueError: no tea" in view["traceback"]


def test_the_result_of_a_task_that_runs_is_202(client: httpx.Client, running: Running) -> None:
    name = f"file-{uuid.uuid4()}"
    id = send(client, "shop.steps", name).json()["id"]

    def progress() -> Any:
        return client.get(f"{API}/tasks/{id}").json()["progress"]

    assert wait_for(progress, "the progress") == {"done": 1, "of": 2}
    answer = client.get(f"{API}/tasks/{id}/result")
    assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
    (running.served.folder / name).touch()
    preferring = client.get(f"{API}/tasks/{id}/result", headers={"Prefer": "respond-async, wait=60"})
    assert (preferring.status_code, preferring.json()) == (200, "there")
    assert preferring.headers["preference-applied"] == "wait=60"


def test_a_view_that_has_not_changed_is_304(client: httpx.Client) -> None:
    id = send(client, "shop.add", 1, wait=60).json()["id"]
    first = client.get(f"{API}/tasks/{id}")
    again = client.get(f"{API}/tasks/{id}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"{API}/tasks/{id}", headers={"If-None-Match": '"other"'}).status_code == 200


def test_many_tasks_are_looked_at_together(client: httpx.Client) -> None:
    ids = [send(client, "shop.add", n, wait=60).json()["id"] for n in range(2)]
    found = client.get(f"{API}/tasks", params={"ids": f"{ids[0]},nobody, {ids[1]}"}).json()["tasks"]
    assert {id: view["result"] for id, view in found.items()} == {ids[0]: 2, ids[1]: 3}
    problem(client.get(f"{API}/tasks", params={"ids": ","}), 422, "bad-query")
    problem(client.get(f"{API}/tasks", params={"ids": ",".join(map(str, range(1001)))}), 422, "bad-query")


def test_a_revoked_task_ends_as_such(client: httpx.Client, running: Running) -> None:
    id = send(client, "shop.until", "never").json()["id"]
    wait_for(lambda: client.get(f"{API}/tasks/{id}").json()["place"] == "active", "the start")
    assert client.post(f"{API}/tasks/{id}/revoke", json={"terminate": True}).status_code == 202
    view = client.get(f"{API}/tasks/{id}", params={"wait": 60}).json()
    assert (view["state"], view["error"]["type"]) == ("REVOKED", "TaskRevoked")


# --- Workflows ----------------------------------------------------------------------------------------


def test_workflows_are_nested(client: httpx.Client) -> None:
    body = {"chain": [
        {"task": "shop.add", "args": [1]},
        {"chord": {"header": [{"task": "shop.add"},
                              {"chain": [{"task": "shop.add", "args": [7]}, {"task": "shop.add"}]}],
                   "body": {"task": "shop.total"}}},
        {"task": "shop.echo", "args": ["last"], "immutable": True},
    ]}  # fmt: skip
    answer = client.post(f"{API}/workflows", json=body)
    assert answer.status_code == 202, answer.text
    sent = answer.json()
    assert client.get(sent["links"]["self"]).json()["tasks"][sent["id"]]["id"] == sent["id"]
    query = {"wait": 60, "workflow": sent["workflow_id"]}
    assert client.get(f"{API}/tasks/{sent['id']}/result", params=query).json() == [["last"], {}]
    shown = client.get(sent["links"]["workflow"]).json()
    assert (shown["ended"], shown["total"], {task["state"] for task in shown["tasks"]}) == (6, 6, {"SUCCESS"})
    drawn = client.get(sent["links"]["graph"]).json()
    assert [node.get("task") for node in drawn["nodes"]].count("shop.add") == 4
    assert [0, 2] in drawn["edges"] or [0, 1] in drawn["edges"]
    text = client.get(sent["links"]["graph"], params={"format": "mermaid"})
    assert text.text.startswith("flowchart TD")
    assert text.headers["content-type"].startswith("text/vnd.mermaid")


def test_a_group_has_the_ids_of_its_tasks(client: httpx.Client) -> None:
    group = {"group": [{"task": "shop.add", "args": [n]} for n in range(3)]}
    sent = client.post(f"{API}/workflows", json=group).json()
    assert (len(sent["ids"]), sent["workflow_id"]) == (3, None)
    assert [client.get(f"{API}/tasks/{id}/result", params={"wait": 60}).json() for id in sent["ids"]] == [2, 3, 4]


def test_a_failed_workflow_is_run_again(client: httpx.Client) -> None:
    chain = {"chain": [{"task": "shop.fail", "args": ["first"]}, {"task": "shop.echo"}]}
    sent = client.post(f"{API}/workflows", json=chain).json()
    query = {"wait": 60, "workflow": sent["workflow_id"]}
    view = client.get(f"{API}/tasks/{sent['id']}", params=query).json()
    assert (view["state"], view["error"]["message"]) == ("FAILURE", "first")
    assert client.post(f"{sent['links']['workflow']}/retry").json() == {"count": 1}
    assert client.get(f"{API}/tasks/{sent['id']}", params=query).json()["state"] == "FAILURE"
    assert client.post(f"{sent['links']['workflow']}/revoke").json() == {"count": 0}


@pytest.mark.parametrize(
    ("body", "status", "kind", "pointer"),
    [
        ({"chain": []}, 422, "bad-body", "/chain"),
        ({"chain": [{"task": "shop.add"}], "grop": []}, 422, "bad-body", ""),
        ({"group": [{"task": "shop.add", "arg": [1]}]}, 422, "bad-body", "/group/0/arg"),
        ({"chord": {"header": [{"task": "shop.add", "args": [1]}]}}, 422, "bad-body", "/chord"),
        ({"chain": [{"group": [3]}]}, 422, "bad-body", "/chain/0/group/0"),
        ({"chain": [{"task": "shop.nothing"}]}, 404, "unknown-task", None),
        ({"chain": [{"task": "shop.add"}, {"task": "shop.add"}]}, 422, "bad-arguments", ""),
    ],
)
def test_a_workflow_that_does_not_fit_is_refused(
    client: httpx.Client, body: Any, status: int, kind: str, pointer: str | None
) -> None:
    found = problem(client.post(f"{API}/workflows", json=body), status, kind)
    if pointer is not None:
        assert [error["pointer"] for error in found["errors"]] == [pointer]


def test_two_workflows_in_one_body_are_no_mistyped_name(client: httpx.Client) -> None:
    for second, words in (("group", "without 'group'."), ("grop", "Did you mean 'group'?")):
        found = problem(client.post(f"{API}/workflows", json={"chain": [], second: []}), 422, "bad-body")
        assert found["errors"][0]["detail"].endswith(words)


def test_there_is_no_unknown_workflow(client: httpx.Client) -> None:
    problem(client.get(f"{API}/workflows/nobody"), 404, "unknown-workflow")
