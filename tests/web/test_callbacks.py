"""Callbacks by the HTTP API, with real workers: what a client asks for, and what its server is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from celeriac import Celeriac, webhooks
from celeriac.web.answers.callbacks import CallbackEvent
from tests.outgoing.endpoint import SECRET, Endpoint, answering, reply
from tests.patience import PATIENCE, wait_for
from tests.web.served import Served, check_shape, serving


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with answering() as made:
        yield made


@pytest.fixture(scope="module")
def served(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A folder with a worker that sends callbacks."""
    with serving(tmp_path_factory.mktemp("callbacks"), web_callback_hosts=endpoint.url,
                 web_callback_secrets=SECRET) as made:  # fmt: skip
        made.worker("-Q", "default,mail")
        yield made


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{served.web()[1]}/api/v1", timeout=PATIENCE, trust_env=False,
                      event_hooks={"response": [check_shape]}) as made:  # fmt: skip
        yield made


def test_the_document_describes_what_a_callback_sends(client: httpx.Client, endpoint: Endpoint) -> None:
    document = client.get("/openapi.json").json()
    described = document["webhooks"]["celeriac.task.ended"]["post"]
    schema = described["requestBody"]["content"]["application/cloudevents+json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/CallbackEvent"}
    send(client, "shop.fail", ["no tea"], {"url": f"{endpoint.url}/described", "include_result": True})
    event = told(endpoint, "/described")
    assert msgspec.to_builtins(msgspec.convert(event, CallbackEvent)) == event
    sent = next(request for request in endpoint.received if request.path == "/described")
    assert {parameter["name"] for parameter in described["parameters"]} <= sent.headers.keys()


def send(client: httpx.Client, task: str, args: list[Any], callback: dict[str, Any], **more: Any) -> httpx.Response:
    return client.post("/tasks", json={"task": task, "args": args, "callback": callback, **more})


def told(endpoint: Endpoint, path: str) -> Any:
    """Return the event that came to a path. It is the only one."""
    wait_for(lambda: any(request.path == path for request in list(endpoint.received)), f"a callback to {path}")
    (request,) = [request for request in endpoint.received if request.path == path]
    event = request.json
    assert webhooks.verify(request.headers, request.body, SECRET) == event["id"]
    return event


@pytest.mark.parametrize(
    ("task", "args", "more", "expected"),
    [
        ("shop.add", [2, 2], {"include_result": True}, {"state": "SUCCESS", "result": 4, "error": None}),
        ("mail.send", ["a@b"], {}, {"state": "SUCCESS"}),
        ("shop.until", ["there"], {"include_result": True}, {"state": "SUCCESS", "result": "there", "error": None}),
        ("shop.fail", ["no tea"], {"include_result": True}, {"state": "FAILURE", "result": None, "error": {
            "type": "ValueError", "module": "builtins", "message": "no tea"}}),
        ("shop.reject", ["nothing"], {}, {"state": "FAILURE"}),
    ],
)  # fmt: skip
def test_an_end_is_told(client: httpx.Client, endpoint: Endpoint, served: Served, task: str, args: list[Any],
                        more: dict[str, Any], expected: dict[str, Any]) -> None:  # fmt: skip
    (served.folder / "there").touch()
    path = f"/{task}"
    sent = send(client, task, args, {"url": endpoint.url + path, **more})
    assert sent.status_code == 202
    event = told(endpoint, path)
    id = sent.json()["id"]
    assert event["data"] == {"id": id, "task": task, **expected}
    assert (event["type"], event["source"], event["subject"]) == ("celeriac.task.ended", "/celeriac/shop", id)


def test_the_end_of_a_task_that_does_not_run_is_told(client: httpx.Client, endpoint: Endpoint) -> None:
    send(client, "shop.add", [1, 1], {"url": f"{endpoint.url}/expired"}, options={"expires": 0})
    assert told(endpoint, "/expired")["data"]["state"] == "REVOKED"
    later = send(client, "shop.add", [1, 1], {"url": f"{endpoint.url}/revoked"}, options={"countdown": 1}).json()["id"]
    assert client.post(f"/tasks/{later}/revoke").status_code == 202
    assert told(endpoint, "/revoked")["data"] == {"id": later, "task": "shop.add", "state": "REVOKED"}


def test_a_result_that_nobody_keeps_is_told(client: httpx.Client, endpoint: Endpoint) -> None:
    send(client, "shop.add", [1, 1], {"url": f"{endpoint.url}/ignored", "include_result": True},
         options={"ignore_result": True})  # fmt: skip
    assert told(endpoint, "/ignored")["data"]["result"] == 2


def test_a_request_that_is_repeated_with_its_key_is_told_once(client: httpx.Client, endpoint: Endpoint) -> None:
    body = {"task": "shop.add", "args": [1, 1], "callback": {"url": f"{endpoint.url}/keyed"}}
    ids = {client.post("/tasks", json=body, headers={"Idempotency-Key": "k"}).json()["id"] for _ in range(3)}
    assert len(ids) == 1
    assert told(endpoint, "/keyed")["subject"] in ids
    other = {**body, "callback": {"url": f"{endpoint.url}/other"}}
    assert client.post("/tasks", json=other, headers={"Idempotency-Key": "k"}).status_code == 422


def test_an_endpoint_that_is_down_gets_it_later(client: httpx.Client, endpoint: Endpoint) -> None:
    endpoint.then(reply(503), reply())
    try:
        send(client, "shop.add", [1, 1], {"url": f"{endpoint.url}/later"})
        wait_for(lambda: [one.path for one in list(endpoint.received)].count("/later") == 2, "the second attempt")
    finally:
        endpoint.then(reply())
    first, second = (request for request in endpoint.received if request.path == "/later")
    assert first.body == second.body
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) >= 4


@pytest.mark.parametrize(
    ("callback", "why"),
    [
        ({"url": "https://evil.example/"}, "Callbacks do not go to https://evil.example"),
        ({"url": "http://169.254.169.254/latest/meta-data/"}, "Callbacks do not go to http://169.254.169.254"),
        ({"url": "http://2130706433/"}, "four decimal numbers"),
        ({"url": "http://user@127.0.0.1/"}, "without user and password"),
        ({"url": "nonsense"}, "A callback's URL is https://host/path"),
        ({"url": ""}, "length >= 1"),
        ({"url": "https://a/" + "x" * 3000}, "length <= 2048"),
        ({}, "url"),
        ({"url": "https://a/", "secret": "x"}, "There is no field 'secret'"),
        ("https://a/", "Expected `object"),
    ],
)
def test_a_callback_to_elsewhere_is_refused_at_the_call(client: httpx.Client, callback: Any, why: str) -> None:
    answer = send(client, "shop.note", ["never"], callback)
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:celeriac:problem:bad-body"
    assert any(why in error["detail"] for error in answer.json()["errors"]), answer.json()
    assert answer.json()["errors"][0]["pointer"].startswith("/callback")


def test_without_settings_there_are_no_callbacks(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        with httpx.Client(base_url=served.web()[1], timeout=PATIENCE, trust_env=False) as client:
            answer = client.post("/api/v1/tasks", json={"task": "shop.add", "args": [1], "callback": {"url": "https://a/"}})
    assert (answer.status_code, answer.json()["type"]) == (501, "urn:celeriac:problem:not-configured")
    assert "web_callback_hosts" in answer.json()["detail"]


def test_a_worker_that_is_not_configured_leaves_callbacks_to_others(endpoint: Endpoint, tmp_path: Path) -> None:
    settings = {"web_callback_hosts": endpoint.url, "web_callback_secrets": SECRET}
    with serving(tmp_path) as served:
        app = Celeriac("shop", broker_url=f"sqlite:///{tmp_path}/celeriac.db", **{
            name: [value] for name, value in settings.items()})  # fmt: skip

        @app.task(name="shop.add")
        def add(x: int, y: int) -> int: ...

        worker, log = served.start("worker", "-c", "1", "--loglevel", "info", ready="is ready")
        assert add.apply_async((1, 1), **webhooks.callback(add, f"{endpoint.url}/left")).get(timeout=PATIENCE) == 2
        wait_for(lambda: "celeriac.webhook" in log.read_text(), "the callback in the worker")
        assert [request for request in endpoint.received if request.path == "/left"] == []
        worker.terminate()  # it might take the message first each time that it comes back
        worker.wait(PATIENCE)
        with serving(tmp_path, **settings) as other:
            other.worker()
            assert told(endpoint, "/left")["data"]["state"] == "SUCCESS"
        app.close()
