"""HTTP tasks against a real server: what is sent, what each answer means, and what bounds an attempt."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import ssl
import subprocess
import sys
import time
import warnings
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from msgspec.structs import replace

from celeriac import Celeriac, webhooks
from celeriac.errors import ArgumentsError, ImproperlyConfigured, RemoteError, TimeLimitExceeded
from celeriac.http import calling, exchange
from celeriac.http.task import HttpTask
from celeriac.model.outcome import Outcome
from celeriac.tasks.execution import Executor
from celeriac.worker.pools.coroutine_child import run_limited
from tests.certificates import Certificates
from tests.clock import FakeClock
from tests.outgoing.endpoint import SECRET, Endpoint, Received, answering, reply
from tests.patience import PATIENCE, in_time

OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def app_of(**settings: Any) -> Celeriac:
    return Celeriac("shop", broker_url="memory://http-tasks", **settings)


def task_of(endpoint: Endpoint, path: str = "/charge", **options: Any) -> HttpTask:
    return app_of().http_task("billing.charge", endpoint.url + path, **options)


def attempt(task: HttpTask, *args: Any, attempt: int = 1, options: dict[str, Any] | None = None,
            **kwargs: Any) -> Outcome:  # fmt: skip
    """Run one attempt, and return how it ended."""
    message = task.message_template().message(args, kwargs, options)
    return Executor(task.app).run_any(replace(message, attempt=attempt))


def failure_of(outcome: Outcome) -> RemoteError:
    assert outcome.failure is not None
    error = outcome.failure.exception()
    assert isinstance(error, RemoteError)
    return error


# --- What is sent -------------------------------------------------------------------------------------


def test_a_call_is_sent_as_json_and_its_result_is_returned(endpoint: Endpoint) -> None:
    endpoint.then(reply(body={"result": {"charged": 12.5}}))
    charge = task_of(endpoint, "/charge?x=1")
    result = charge.apply((7,), {"amount": Decimal("12.50"), "at": datetime(2030, 1, 31, tzinfo=UTC)},
                          headers={"tenant": "acme"}, task_id="0197")  # fmt: skip
    assert result.get() == {"charged": 12.5}
    (request,) = endpoint.received
    assert (request.method, request.path) == ("POST", "/charge?x=1")
    assert request.json == {"id": "0197", "task": "billing.charge", "args": [7], "attempt": 1, "deadline": None,
                            "kwargs": {"amount": "12.50", "at": "2030-01-31T00:00:00Z"},
                            "headers": {"tenant": "acme"}}  # fmt: skip
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == '"0197"'
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"].startswith("celeriac/")
    assert "webhook-signature" not in request.headers


def test_a_call_is_signed_with_each_secret(endpoint: Endpoint) -> None:
    charge = task_of(endpoint, secret=[OTHER, SECRET])
    attempt(charge, 1, options={"task_id": "a.b\r\nx"})
    (request,) = endpoint.received
    for secret in (OTHER, SECRET):
        assert webhooks.verify(request.headers, request.body, secret) == "a%2Eb%0D%0Ax"
    assert request.headers["idempotency-key"] == '"a%2Eb%0D%0Ax"'
    assert request.json["id"] == "a.b\r\nx"


def test_the_id_is_the_same_in_each_attempt_and_the_number_is_not(endpoint: Endpoint) -> None:
    endpoint.then(reply(500), None, reply(429), reply(body={"result": "done"}))
    assert task_of(endpoint, secret=SECRET).apply((1,)).get() == "done"
    assert [request.json["attempt"] for request in endpoint.received] == [1, 2, 3, 4]
    assert len({request.json["id"] for request in endpoint.received}) == 1
    assert len({request.headers["idempotency-key"] for request in endpoint.received}) == 1
    assert len({request.headers["webhook-id"] for request in endpoint.received}) == 1


def test_the_deadline_is_when_the_time_limit_ends_the_attempt(endpoint: Endpoint) -> None:
    begun = time.time()
    attempt(task_of(endpoint, time_limit=600))
    deadline = datetime.fromisoformat(endpoint.received[0].json["deadline"]).timestamp()
    assert begun + 599 <= deadline <= time.time() + 601


def test_the_trace_of_a_call_goes_on(endpoint: Endpoint) -> None:
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=b"}
    charge = task_of(endpoint)
    attempt(charge, options={"headers": {**trace, "x": "y"}})
    attempt(charge, options={"headers": {"traceparent": "00-evil\r\nX: y", "tracestate": 5}})
    assert {name: endpoint.received[0].headers.get(name) for name in (*trace, "x")} == {**trace, "x": None}
    assert not {"traceparent", "tracestate", "x"} & endpoint.received[1].headers.keys()


def test_methods_that_have_a_body_can_be_chosen(endpoint: Endpoint) -> None:
    attempt(task_of(endpoint, method="put"))
    assert endpoint.received[0].method == "PUT"


def test_a_function_that_is_called_directly_makes_one_request(endpoint: Endpoint) -> None:
    endpoint.then(reply(body={"result": 5}), reply(503))
    charge = task_of(endpoint)
    assert asyncio.run(charge(7)) == 5
    with pytest.raises(RemoteError, match="503"):
        asyncio.run(charge(7))
    assert len(endpoint.received) == 2
    assert endpoint.received[0].json["id"]


# --- What answers mean --------------------------------------------------------------------------------


def said(**error: Any) -> bytes:
    return reply(body={"error": error})


DEEP = b'{"result": ' + b"[" * 500 + b"]" * 500 + b"}"
MANY_HEADERS = b"HTTP/1.1 200 OK\r\nA: b\r\n" + b"x: y\r\n" * 40_000


@pytest.mark.parametrize(
    ("answer", "value"),
    [(reply(204), None), (reply(body={"result": None}), None), (reply(body={"result": [1], "more": 2}), [1])],
)
def test_an_answer_may_be_the_value(endpoint: Endpoint, answer: bytes, value: Any) -> None:
    endpoint.then(answer)
    assert task_of(endpoint).apply().get() == value


@pytest.mark.parametrize(
    ("answer", "least", "most", "type", "message"),
    [
        (said(type="Busy", message="later", retry=True), 0.5, 1.0, "Busy", "later"),
        (said(type="Busy", retry=90), 90, 90, "Busy", ""),
        (said(type="Busy", retry=0), 0, 0, "Busy", ""),
        (said(type="Busy", retry=-5), 0, 0, "Busy", ""),
        (said(type="Busy", retry=1e300), 2592000, 2592000, "Busy", ""),
        (reply(408), 0.5, 1.0, "HTTPError", "was answered 408 Request Timeout"),
        (reply(425), 0.5, 1.0, "HTTPError", "425 Too Early"),
        (reply(429, retry_after="120"), 120, 120, "HTTPError", "429 Too Many Requests"),
        (reply(503, retry_after="0"), 0.5, 1.0, "HTTPError", "503 Service Unavailable"),
        (reply(503, retry_after="999999999999"), 86400, 86400, "HTTPError", "503"),
        (reply(503, retry_after="soon"), 0.5, 1.0, "HTTPError", "503"),
        (reply(599), 0.5, 1.0, "HTTPError", "599"),
        (None, 0.5, 1.0, "RemoteProtocolError", "billing.charge: POST http://"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 0.5, 1.0, "RemoteProtocolError", "billing.charge: POST http://"),
        (MANY_HEADERS, 0.5, 1.0, "RemoteProtocolError", "billing.charge: POST http://"),
    ],
)
def test_what_may_pass_leads_to_a_retry(endpoint: Endpoint, answer: bytes | None, least: float, most: float, type: str,
                                        message: str) -> None:  # fmt: skip
    endpoint.then(answer)
    outcome = attempt(task_of(endpoint, "/charge?secret=1"))
    error = failure_of(outcome)
    assert (outcome.state, error.type, message in error.message) == ("RETRY", type, True), error.message
    assert outcome.retry_delay is not None
    assert least <= outcome.retry_delay <= most
    assert "secret=1" not in error.message


@pytest.mark.parametrize(
    ("answer", "type", "message"),
    [
        (said(type="CardDeclined", message="no money"), "CardDeclined", "no money"),
        (said(retry=False), "Error", ""),
        (reply(400, {"detail": "no customer"}), "HTTPError", '400 Bad Request. It says: {"detail": "no customer"}'),
        (reply(404, b"<h1>no</h1>", content_type="text/html"), "HTTPError", "404 Not Found."),
        (reply(418, b"\x1b[2Jx\n", content_type="text/plain"), "HTTPError", "It says:  [2Jx "),
        (reply(201, {"result": 1}), "HTTPError", "201 Created"),
        (reply(302, location="http://169.254.169.254/"), "HTTPError", "Redirects are not followed"),
        (reply(307, location="/other"), "HTTPError", "Redirects are not followed"),
        (reply(202), "InvalidResponse", "202 without Location"),
        (reply(202, location="http://169.254.169.254/x"), "InvalidResponse", "on another host"),
        (reply(202, location="//evil.example/x"), "InvalidResponse", "on another host"),
        (reply(202, location="http://[::1"), "InvalidResponse", "on another host"),
        (reply(200), "InvalidResponse", "the body is empty"),
        (reply(body=b"<html>"), "InvalidResponse", "JSON is malformed"),
        (reply(body=b"\xff\xfe"), "InvalidResponse", "cannot be understood"),
        (reply(body=[1]), "InvalidResponse", "Expected `object`"),
        (reply(body={"value": 1}), "InvalidResponse", 'either "result" or "error"'),
        (reply(body={"result": 1, "error": {}}), "InvalidResponse", 'either "result" or "error"'),
        (reply(body={"error": {"retry": "yes"}}), "InvalidResponse", "retry"),
        (reply(body=b"[" * 100_000), "InvalidResponse", "nested too deeply"),
        (reply(body=DEEP), "InvalidResponse", "nested too deeply"),
        (reply(body=b"x", content_encoding="gzip"), "InvalidResponse", "compressed"),
    ],
)
def test_all_else_is_a_failure(endpoint: Endpoint, answer: bytes, type: str, message: str) -> None:
    endpoint.then(answer)
    outcome = attempt(task_of(endpoint, "/charge?secret=1"))
    error = failure_of(outcome)
    assert (outcome.state, error.type, message in error.message) == ("FAILURE", type, True), error.message
    assert "secret=1" not in error.message
    assert len(endpoint.received) == 1


def test_retry_after_may_be_a_date(endpoint: Endpoint) -> None:
    clock = FakeClock()
    at = datetime.fromtimestamp(clock.now() + 300, UTC)
    endpoint.then(reply(503, retry_after=format_datetime(at, usegmt=True)))
    app = Celeriac("shop", clock=clock, broker_url="memory://http-tasks")
    outcome = attempt(app.http_task("a", endpoint.url))
    assert outcome.retry_delay == 300


def test_retries_end_and_the_failure_is_the_last_answer(endpoint: Endpoint) -> None:
    endpoint.then(reply(503))
    result = task_of(endpoint, max_retries=2).apply()
    with pytest.raises(RemoteError, match="503 Service Unavailable"):
        result.get()
    assert len(endpoint.received) == 3


def test_the_task_has_its_own_back_off(endpoint: Endpoint) -> None:
    endpoint.then(reply(503))
    charge = task_of(endpoint, retry_backoff=60, retry_jitter=False, max_retries=None)
    assert [attempt(charge, attempt=number).retry_delay for number in (1, 2, 3, 20)] == [60, 120, 240, 600]


def test_an_endpoint_that_does_not_listen_leads_to_a_retry() -> None:
    with answering() as endpoint:
        charge = task_of(endpoint)
    outcome = attempt(charge)
    assert (outcome.state, failure_of(outcome).type) == ("RETRY", "ConnectError")


def test_the_error_of_an_endpoint_has_its_traceback(endpoint: Endpoint) -> None:
    endpoint.then(reply(body={"error": {"type": "x" * 9_000, "message": "m" * 9_000, "traceback": "t" * 99_000}}))
    error = failure_of(attempt(task_of(endpoint)))
    assert (len(error.type), len(error.message), len(error.traceback)) == (200, 4_000, 16_000)


# --- Limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [True, False])
def test_an_answer_of_more_than_the_largest_result_is_not_read(endpoint: Endpoint, declared: bool) -> None:
    whole = reply(body={"result": "x" * 200_000}, connection="close")
    if not declared:
        whole = whole.replace(b"content-length", b"x-length")
    endpoint.then(whole)
    app = app_of(result_max_bytes=100_000)
    outcome = attempt(app.http_task("a", endpoint.url))
    assert (outcome.state, failure_of(outcome).type) == ("FAILURE", "ResponseTooLarge")


def test_an_answer_without_end_is_cut_off(endpoint: Endpoint) -> None:
    def script(request: Received) -> None:
        connection = endpoint.connections[-1]
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n")

    endpoint.script = script
    assert failure_of(attempt(task_of(endpoint))).type == "ResponseTooLarge"


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\n"])
def test_an_answer_that_comes_drop_by_drop_ends_with_the_timeout(endpoint: Endpoint, head: bytes) -> None:
    endpoint.drip(head, b"x")
    begun = time.monotonic()
    outcome = attempt(task_of(endpoint, timeout=1))
    assert (outcome.state, failure_of(outcome).type) == ("RETRY", "Timeout")
    assert "no answer within 1 s" in failure_of(outcome).message
    assert in_time(time.monotonic() - begun, 4.0)
    endpoint.wait_until_closed(1, PATIENCE)


@pytest.mark.parametrize("headers", [{}, {"content_encoding": "gzip"}, {"content_length": "999999999"}])
def test_of_an_error_only_the_beginning_is_read(endpoint: Endpoint, headers: dict[str, str]) -> None:
    endpoint.then(reply(503, b"busy " * 400_000, content_type="text/plain", **headers))
    app = app_of(result_max_bytes=1000)
    outcome = attempt(app.http_task("a", endpoint.url))
    assert outcome.state == "RETRY"
    assert ("It says: busy busy" in failure_of(outcome).message) == ("content_encoding" not in headers)


@pytest.mark.parametrize("value", [{"$datetime": "2030-01-31"}, {"$": {"$": 1}}, [{"$tuple": [1]}], 2**63, 1e300])
def test_a_value_is_what_the_endpoint_says_and_no_tag(endpoint: Endpoint, value: Any) -> None:
    endpoint.then(reply(body={"result": value}))
    assert task_of(endpoint).apply().get() == value


def test_no_cookie_is_kept(endpoint: Endpoint) -> None:
    endpoint.then(reply(body={"result": 1}, set_cookie="session=1"), reply(body={"result": 2}))

    async def twice() -> list[Any]:
        charge = task_of(endpoint)
        return [await charge(), await charge()]

    assert asyncio.run(twice()) == [1, 2]
    assert "cookie" not in endpoint.received[1].headers


# --- Endpoints that work on ---------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for the end at once, again and again."""
    monkeypatch.setattr(calling, "PAUSES", (0.0, 0.0))


@pytest.mark.usefixtures("quick")
def test_the_end_is_asked_for_where_the_endpoint_says_and_progress_is_told(endpoint: Endpoint) -> None:
    endpoint.then(reply(202, {"progress": {"done": 1}}, location="/runs/7?x=1"), reply(202, {"progress": {"done": 1}}),
                  reply(202, {"progress": {"done": 2}}, location="runs/8"), reply(202, b"[not json"),
                  reply(body={"result": "done"}))  # fmt: skip
    charge = task_of(endpoint, "/a/charge", secret=SECRET)
    told: list[Any] = []
    message = charge.message_template().message((), {})
    outcome = Executor(charge.app, report=lambda message, state, value: told.append((state, value))).run_any(message)
    assert outcome.value == b'"done"'
    assert [(request.method, request.path) for request in endpoint.received] == [
        ("POST", "/a/charge"),
        *[("GET", "/runs/7?x=1")] * 2,
        *[("GET", "/a/runs/8")] * 2,
    ]
    assert told == [("PROGRESS", b'{"done":1}'), ("PROGRESS", b'{"done":2}')]
    for request in endpoint.received:
        assert webhooks.verify(request.headers, request.body, SECRET) == message.id


@pytest.mark.usefixtures("quick")
def test_questions_may_go_unanswered_for_a_while(endpoint: Endpoint) -> None:
    endpoint.then(reply(202, location="/runs/7"), None, reply(503), None, reply(502), reply(202), reply(500), None,
                  reply(body={"result": "done"}))  # fmt: skip
    outcome = attempt(task_of(endpoint))
    assert (outcome.state, outcome.value) == ("SUCCESS", b'"done"')


@pytest.mark.usefixtures("quick")
def test_after_five_questions_without_an_answer_the_task_is_retried(endpoint: Endpoint) -> None:
    endpoint.then(reply(202, location="/runs/7"), reply(503))
    outcome = attempt(task_of(endpoint))
    assert (outcome.state, len(endpoint.received)) == ("RETRY", 1 + calling.UNANSWERED)


@pytest.mark.usefixtures("quick")
def test_the_end_may_be_an_error(endpoint: Endpoint) -> None:
    endpoint.then(reply(202, location="/runs/7"), reply(body={"error": {"type": "Busy", "retry": 7}}))
    assert attempt(task_of(endpoint)).retry_delay == 7
    endpoint.then(reply(202, location="/runs/7"), said(type="Busy", retry=True))
    assert attempt(task_of(endpoint)).state == "RETRY"
    assert len(endpoint.received) == 4  # it has ended: nothing more is asked
    endpoint.then(reply(202, location="/runs/7"), reply(404))
    assert attempt(task_of(endpoint)).state == "FAILURE"


# --- The old form -------------------------------------------------------------------------------------


def test_the_form_of_celery_by_get(endpoint: Endpoint) -> None:
    endpoint.then(reply(body={"status": "success", "retval": 100}))
    multiply = task_of(endpoint, "/multiply?key=1", style="celery", method="GET")
    assert attempt(multiply, x=10, y=10, name="ä&b").value == b"100"
    (request,) = endpoint.received
    assert (request.method, request.body) == ("GET", b"")
    assert request.path == "/multiply?key=1&x=10&y=10&name=%C3%A4%26b"


def test_the_form_of_celery_by_post(endpoint: Endpoint) -> None:
    endpoint.then(reply(body={"status": "failure", "reason": "ValueError('no')"}))
    multiply = task_of(endpoint, style="celery", secret=SECRET)
    error = failure_of(attempt(multiply, x=1.5, y=None, z=True))
    assert (error.type, error.message) == ("RemoteExecuteError", "ValueError('no')")
    (request,) = endpoint.received
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(request.body.decode()) == {"x": ["1.5"], "y": ["None"], "z": ["True"]}
    assert webhooks.verify(request.headers, request.body, SECRET)


@pytest.mark.parametrize("body", [{"status": "maybe"}, {"retval": 1}, [], {"status": 5}])
def test_an_answer_that_celery_would_not_give_is_a_failure(endpoint: Endpoint, body: Any) -> None:
    endpoint.then(reply(body=body))
    assert failure_of(attempt(task_of(endpoint, style="celery"))).type == "InvalidResponse"


def test_the_form_has_named_arguments_of_text_and_numbers(endpoint: Endpoint) -> None:
    multiply = task_of(endpoint, style="celery")
    with pytest.raises(ArgumentsError):
        multiply.delay(10)
    outcome = attempt(multiply, x=[1])
    assert outcome.failure is not None
    assert "x: a form has text and numbers, not list" in outcome.failure.message
    assert endpoint.received == []


# --- Registration -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"url": "billing.internal/charge"}, "its URL must be"),
        ({"url": "ftp://billing/"}, "its URL must be"),
        ({"url": "https:///x"}, "its URL must be"),
        ({"url": "https://user:secret@billing/"}, "its URL must be"),
        ({"url": "https://billing/#x"}, "its URL must be"),
        ({"url": "https://billing/a b"}, "its URL must be"),
        ({"url": "https://billing/\r\nx"}, "its URL must be"),
        ({"url": "https://billing:port/"}, "its URL must be|could not be cast"),
        ({"url": None}, "its URL must be"),
        ({"style": "xml"}, "its style must be one of json, celery, not 'xml'"),
        ({"method": "GET"}, 'with style="json" its method is POST or PUT or PATCH'),
        ({"method": "DELETE", "style": "celery"}, "its method is POST or GET"),
        ({"method": "GET", "style": "celery", "secret": SECRET}, "a signature covers the body"),
        ({"timeout": 0}, "its timeout must be more than 0"),
        ({"timeout": "long"}, "timeout"),
        ({"secret": "password"}, "its secret must be a secret of Standard Webhooks"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: dict[str, Any], why: str) -> None:
    app = app_of()
    with pytest.raises(ImproperlyConfigured, match=f"The HTTP task billing.charge: .*({why})"):
        app.http_task("billing.charge", **{"url": "https://billing.internal/charge", **arguments})
    assert "billing.charge" not in app.tasks


def test_a_task_shows_neither_its_secret_nor_its_query() -> None:
    task = app_of().http_task("billing.charge", "https://billing.internal/charge?key=s3cr3t", secret=SECRET)
    shown = f"{task!r} {task.endpoint!r} {task.__doc__} {task.options}"
    assert "s3cr3t" not in shown
    assert SECRET[6:] not in shown
    assert "POST https://billing.internal/charge" in shown


def test_two_tasks_of_one_name_are_refused_and_a_module_that_is_imported_again_is_not() -> None:
    app = app_of()
    app.http_task("a", "https://a/")
    assert app.http_task("a", "https://b/").endpoint.url == "https://b/"

    def other() -> None: ...

    with pytest.raises(ImproperlyConfigured, match="Two functions are registered as the task 'a'"):
        app.task(name="a")(other)


def test_options_are_those_of_tasks() -> None:
    task = app_of(task_queues=["billing"]).http_task("a", "https://a/", queue="billing", priority=8, max_retries=9)
    assert (task.queue, task.priority, task.max_retries, task.is_coroutine) == ("billing", 8, 9, True)


# --- The client ---------------------------------------------------------------------------------------


def test_tasks_of_one_loop_share_connections_which_are_closed_with_it(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "IDLE_SECONDS", PATIENCE)  # this machine may stand still for five seconds
    charge = task_of(endpoint)

    async def several() -> None:
        for _ in range(3):
            await charge()

    asyncio.run(several())
    assert [request.connection for request in endpoint.received] == [1, 1, 1]
    endpoint.wait_until_closed(1, PATIENCE)
    assert list(exchange._clients) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Certificates(tmp_path / "ca")
    certificate, key = authority.sign("localhost", "IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with answering(context=context) as endpoint:
        monkeypatch.setattr(exchange, "tls", exchange.tls.__wrapped__)
        assert failure_of(attempt(task_of(endpoint))).type == "ConnectError"
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.authority))
        assert attempt(task_of(endpoint)).state == "SUCCESS"


def test_a_proxy_of_the_environment_is_used(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", endpoint.url)
    task = app_of().http_task("a", "http://billing.invalid/charge", secret=SECRET)
    assert attempt(task).state == "SUCCESS"
    assert endpoint.received[0].path == "http://billing.invalid/charge"


def test_arguments_are_not_logged(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    endpoint.then(reply(body={"status": "success"}))
    attempt(task_of(endpoint, style="celery", method="GET"), card="4111")
    assert endpoint.received[0].path.endswith("card=4111")
    assert "4111" not in caplog.text


def test_a_time_limit_ends_an_attempt_that_waits(endpoint: Endpoint) -> None:
    charge = task_of(endpoint)
    message = charge.message_template().message((), {})

    async def run() -> Outcome:
        loop, running = asyncio.get_running_loop(), []

        def silent(request: Received) -> None:
            loop.call_soon_threadsafe(running[0].interrupt, TimeLimitExceeded())
            endpoint.connections[-1].recv(1)  # until the client hangs up

        endpoint.script = silent
        return await run_limited(Executor(charge.app), message, 1, running.append)

    outcome = asyncio.run(run())
    assert outcome.failure is not None
    assert (outcome.state, outcome.failure.type) == ("FAILURE", "TimeLimitExceeded")
    endpoint.wait_until_closed(1, PATIENCE)


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("httpx2", "httpcore2", "anyio"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


def test_only_workers_need_the_extra(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        f"{WITHOUT}from celeriac import Celeriac\napp = Celeriac('shop')\n"
        "charge = app.http_task('billing.charge', 'https://billing.internal/charge')\n"
    )
    sending = "import json, shop; print(json.dumps(shop.charge.delay(7).state))"
    done = subprocess.run([sys.executable, "-c", sending], cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(done.stdout) == "PENDING", done.stderr
    done = subprocess.run([sys.executable, "-m", "celeriac", "-A", "shop", "worker"], cwd=tmp_path, capture_output=True,
                          text=True, timeout=PATIENCE)  # fmt: skip
    assert (done.returncode, "pip install 'celeriac[http]'" in done.stderr) == (2, True), done.stderr
