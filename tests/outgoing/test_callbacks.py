"""Callbacks: one message for each end, signed, retried by the schedule, to addresses that were checked alone."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from celeriac import Celeriac, chain, states, webhooks
from celeriac.app.purging import purge
from celeriac.errors import AddressRefused, ImproperlyConfigured, RemoteError
from celeriac.http import delivery, exchange
from celeriac.http.callbacks import DELAYS, WEBHOOK, with_callback
from celeriac.model.message import COROUTINE, Message
from celeriac.model.outcome import Outcome
from celeriac.tasks.execution import Executor
from celeriac.worker.options import WorkerOptions
from tests.certificates import Certificates
from tests.clock import FakeClock
from tests.outgoing.endpoint import SECRET, Endpoint, answering, reply
from tests.patience import PATIENCE, in_time

HOST = "hooks.example.com"


class Names:
    """What names lead to. Each look-up gives the next answer, and the last one again."""

    def __init__(self) -> None:
        self.answers: list[list[str]] = []
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, *more: Any, **options: Any) -> list[Any]:
        self.asked.append(host)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
                for one in found]  # fmt: skip


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Names that lead where the test says."""
    made = Names()

    async def lookup(self: Any, host: str, port: int, **options: Any) -> Any:
        return made(host, port, **options)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", lookup)
    return made


def app_of(*hosts: str, **settings: Any) -> Celeriac:
    settings = {"web_callback_secrets": [SECRET], "broker_url": "memory://callbacks", **settings}
    return Celeriac("shop", web_callback_hosts=list(hosts), **settings)


def callback_message(app: Celeriac, url: str, attempt: int = 1) -> Message:
    call = {"url": url, "task": "shop.add", "include_result": False}
    message = app.builtin_tasks[WEBHOOK].message_template().message((), call)
    return replace(message, parent_id="0197", sent_at=1_800_000_000.5, attempt=attempt)


def attempt(app: Celeriac, url: str, number: int = 1) -> Outcome:
    """Make one attempt of a callback."""
    return Executor(app).run_any(callback_message(app, url, number))


def error_of(outcome: Outcome) -> BaseException:
    assert outcome.failure is not None
    return outcome.failure.exception()


# --- Each end is told ---------------------------------------------------------------------------------


@pytest.fixture
def shop(endpoint: Endpoint) -> Celeriac:
    """An app whose tasks run at once, in the caller."""
    app = app_of(endpoint.url, task_always_eager=True)

    @app.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="shop.fail", max_retries=0)
    def fail(why: str) -> None:
        raise ValueError(why)

    return app


def test_a_success_is_told_thinly_unless_the_result_is_asked_for(endpoint: Endpoint, shop: Celeriac) -> None:
    add = shop.tasks["shop.add"]
    thin = add.apply_async((2, 2), **webhooks.callback(add, f"{endpoint.url}/ended?x=1"))
    full = add.apply_async((2, 3), **webhooks.callback(add, f"{endpoint.url}/ended", include_result=True))
    assert (thin.get(), full.get()) == (4, 5)
    first, second = endpoint.received
    assert (first.method, first.path, first.headers["content-type"]) == (
        "POST", "/ended?x=1", "application/cloudevents+json")  # fmt: skip
    event = first.json
    assert event.pop("time") is not None
    assert event == {
        "specversion": "1.0",
        "id": webhooks.verify(first.headers, first.body, SECRET),
        "source": "/celeriac/shop",
        "type": "celeriac.task.ended",
        "subject": thin.id,
        "datacontenttype": "application/json",
        "data": {"id": thin.id, "task": "shop.add", "state": "SUCCESS"},
    }
    assert second.json["data"] == {"id": full.id, "task": "shop.add", "state": "SUCCESS", "result": 5, "error": None}


def test_a_failure_is_told_and_its_message_only_if_asked_for(endpoint: Endpoint, shop: Celeriac) -> None:
    fail = shop.tasks["shop.fail"]
    fail.apply_async(("no /srv/x/stock.csv",), **webhooks.callback(fail, endpoint.url))
    fail.apply_async(("no /srv/x/stock.csv",), **webhooks.callback(fail, endpoint.url, include_result=True))
    thin, full = (request.json["data"] for request in endpoint.received)
    assert (thin["state"], thin.keys()) == ("FAILURE", {"id", "task", "state"})
    assert full["error"] == {"type": "ValueError", "module": "builtins", "message": "no …/stock.csv"}
    assert full["result"] is None


def test_the_links_of_a_call_are_sent_beside_its_callback(endpoint: Endpoint, shop: Celeriac) -> None:
    add = shop.tasks["shop.add"]
    message = add.message_template().message((1, 2), {}, {"link": add.s(3)})
    linked = with_callback(shop, message, endpoint.url)
    assert [link.message.task for link in linked.link] == ["shop.add", WEBHOOK]
    assert [link.message.task for link in linked.link_error] == [WEBHOOK]
    assert {link.message.priority for link in linked.link_error} == {9}


def test_a_callback_goes_to_the_queue_of_its_task_or_to_one_of_its_own(endpoint: Endpoint) -> None:
    for queue, expected in ((None, "mail"), ("hooks", "hooks")):
        app = app_of(endpoint.url, task_queues=["mail", "hooks"], web_callback_queue=queue)
        linked = with_callback(app, Message(id="1", task="a", queue="mail"), endpoint.url)
        assert {link.message.queue for link in (*linked.link, *linked.link_error)} == {expected}


async def test_the_callback_of_a_purged_task_is_sent(endpoint: Endpoint) -> None:
    app = app_of(endpoint.url, task_queues=["hooks"], web_callback_queue="hooks")

    @app.task(name="shop.add")
    def add() -> None: ...

    result = await add.aapply_async(**webhooks.callback(add, endpoint.url))
    assert await purge(app, "default") == 1
    (waiting,) = await app.broker.operations().waiting("hooks", 10)
    assert waiting.message.task == WEBHOOK
    await Executor(app).arun(waiting.message)
    assert endpoint.received[0].json["data"] == {"id": result.id, "task": "shop.add", "state": states.REVOKED}


def test_a_call_without_a_listed_host_or_a_secret_is_refused(endpoint: Endpoint) -> None:
    message = Message(id="1", task="shop.add")
    with pytest.raises(ImproperlyConfigured, match=r"Callbacks are not switched on: .* `web_callback_hosts`"):
        with_callback(app_of(), message, endpoint.url)
    with pytest.raises(ImproperlyConfigured, match="Callbacks are signed: set `web_callback_secrets`"):
        with_callback(app_of(endpoint.url, web_callback_secrets=[]), message, endpoint.url)
    with pytest.raises(AddressRefused, match=r"Callbacks do not go to http://127\.0\.0\.1:"):
        with_callback(app_of(HOST), message, endpoint.url)


# --- The schedule -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_ends_a_callback(endpoint: Endpoint, status: int) -> None:
    endpoint.then(reply(status))
    assert attempt(app_of(endpoint.url), endpoint.url).state == "SUCCESS"


@pytest.mark.parametrize("answer", [reply(301, location="/x"), *map(reply, (400, 401, 404, 500, 502)), None])
def test_all_else_is_repeated_by_the_schedule_of_standard_webhooks(endpoint: Endpoint, answer: bytes | None) -> None:
    endpoint.then(answer)
    app = app_of(endpoint.url)
    for number, delay in enumerate(DELAYS, 1):
        outcome = attempt(app, endpoint.url, number)
        assert outcome.state == "RETRY"
        assert outcome.retry_delay is not None
        assert delay <= outcome.retry_delay <= delay * 1.1
    last = attempt(app, endpoint.url, len(DELAYS) + 1)
    assert (last.state, isinstance(error_of(last), RemoteError)) == ("FAILURE", True)
    assert sum(DELAYS) == 75 * 3600 + 35 * 60 + 5


def test_410_ends_a_callback(endpoint: Endpoint) -> None:
    endpoint.then(reply(410))
    outcome = attempt(app_of(endpoint.url), endpoint.url)
    assert outcome.state == "FAILURE"
    assert "was answered 410 Gone" in str(error_of(outcome))


@pytest.mark.parametrize(("asked", "least"), [("600", 600), ("1", 5), ("9999999", 86400), ("x", 5)])
def test_retry_after_is_heeded_up_to_a_day(endpoint: Endpoint, asked: str, least: float) -> None:
    for status in (429, 503):
        endpoint.then(reply(status, retry_after=asked))
        outcome = attempt(app_of(endpoint.url), endpoint.url)
        assert outcome.retry_delay is not None
        assert least <= outcome.retry_delay <= max(least, 5.5)


def test_each_attempt_sends_the_same_event_signed_anew(endpoint: Endpoint) -> None:
    endpoint.then(reply(500))
    clock = FakeClock(time.time())
    app = app_of(endpoint.url, clock=clock)
    message = callback_message(app, endpoint.url)
    outcome = Executor(app).run_any(message)
    clock.advance(100.0)
    again = replace(outcome.next_attempt(message), due_at=1.0)
    Executor(app).run_any(again)
    first, second = endpoint.received
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    assert first.json["time"] == "2027-01-15T08:00:00.500+00:00"
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 100
    assert webhooks.verify(second.headers, second.body, SECRET) == message.id


def test_two_secrets_sign_while_they_are_replaced(endpoint: Endpoint) -> None:
    other = webhooks.new_secret()
    attempt(app_of(endpoint.url, web_callback_secrets=[other, SECRET]), endpoint.url)
    for secret in (other, SECRET):
        assert webhooks.verify(endpoint.received[0].headers, endpoint.received[0].body, secret)


# --- Where they go ------------------------------------------------------------------------------------

PRIVATE = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254", "fd00:ec2::254", "64:ff9b::7f00:1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_leads_to_a_private_address_is_refused_for_good(endpoint: Endpoint, names: Names,
                                                                    address: str) -> None:  # fmt: skip
    names.answers = [[address]]
    outcome = attempt(app_of(f"http://{HOST}:{endpoint.port}"), f"http://{HOST}:{endpoint.port}/")
    assert (outcome.state, type(error_of(outcome))) == ("FAILURE", AddressRefused)
    assert "which is not a public address" in str(error_of(outcome))
    assert endpoint.connections == []


def test_one_private_address_among_others_is_enough(endpoint: Endpoint, names: Names) -> None:
    names.answers = [["93.184.215.14", "127.0.0.1"]]
    outcome = attempt(app_of(f"http://{HOST}:{endpoint.port}"), f"http://{HOST}:{endpoint.port}/")
    assert isinstance(error_of(outcome), AddressRefused)


def test_the_connection_is_made_to_the_address_that_was_checked(endpoint: Endpoint, names: Names,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """The name leads to an allowed address once, and to one that is not at every later look-up."""
    names.answers = [["127.0.0.1"], ["127.0.0.2"]]
    url = f"http://{HOST}:{endpoint.port}/ended"
    app = app_of(f"http://{HOST}:{endpoint.port}", "127.0.0.1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.9:1")  # which would look names up itself
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.9:1")
    assert attempt(app, url).state == "SUCCESS"
    assert names.asked == [HOST]
    assert endpoint.received[0].headers["host"] == f"{HOST}:{endpoint.port}"
    outcome = attempt(app, url)
    assert isinstance(error_of(outcome), AddressRefused)
    assert len(endpoint.received) == 1


def test_no_redirect_is_followed(endpoint: Endpoint) -> None:
    with answering() as inner:
        endpoint.then(reply(307, location=inner.url))
        assert attempt(app_of(endpoint.url, "127.0.0.0/8"), endpoint.url).state == "RETRY"
        assert inner.connections == []


def test_no_connection_is_used_twice(endpoint: Endpoint) -> None:
    app = app_of(endpoint.url)
    for _ in range(2):
        attempt(app, endpoint.url)
    assert [request.connection for request in endpoint.received] == [1, 2]
    endpoint.wait_until_closed(2, PATIENCE)


def test_a_host_that_is_not_listed_any_more_is_refused(endpoint: Endpoint) -> None:
    for app in (app_of(HOST), app_of()):
        assert isinstance(error_of(attempt(app, endpoint.url)), AddressRefused)
    outcome = attempt(app_of(endpoint.url, web_callback_secrets=[]), endpoint.url)
    assert "web_callback_secrets" in str(error_of(outcome))
    assert endpoint.connections == []


def test_another_address_of_the_name_is_tried(endpoint: Endpoint, names: Names) -> None:
    names.answers = [["127.0.0.2", "::1", "127.0.0.1"]]
    app = app_of(f"http://{HOST}:{endpoint.port}", "127.0.0.0/8", "::1")
    assert attempt(app, f"http://{HOST}:{endpoint.port}/").state == "SUCCESS"


def test_a_name_that_is_not_known_leads_to_a_retry(names: Names) -> None:
    names.answers = [[]]
    outcome = attempt(app_of(HOST), f"https://{HOST}/x?key=s3cr3t")
    assert outcome.state == "RETRY"
    assert f"LookupFailed: the callback to https://{HOST}: {HOST} cannot be looked up" in str(error_of(outcome))
    assert "s3cr3t" not in str(error_of(outcome))


@pytest.fixture
def tls_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Endpoint]]:
    """A server with a certificate for a name, of an authority that is trusted."""
    authority = Certificates(tmp_path / "ca")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.authority))
    monkeypatch.setattr(delivery, "tls", exchange.tls.__wrapped__)
    opened = []

    def start(name: str) -> Endpoint:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.sign(name, f"DNS:{name}"))
        opened.append(answering(context=context))
        return opened[-1].__enter__()

    yield start
    for one in opened:
        one.__exit__(None, None, None)


def test_the_certificate_must_be_that_of_the_name(tls_endpoint: Callable[[str], Endpoint], names: Names) -> None:
    names.answers = [["127.0.0.1"]]
    for name, state in ((HOST, "SUCCESS"), ("other.example.com", "RETRY")):
        endpoint = tls_endpoint(name)
        app = app_of(f"{HOST}:{endpoint.port}", "127.0.0.1")
        outcome = attempt(app, f"https://{HOST}:{endpoint.port}/")
        assert outcome.state == state
    assert "certificate verify failed" in str(error_of(outcome))
    assert endpoint.received == []


# --- Limits -------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT", 1.0)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nX: "])
def test_an_answer_that_comes_drop_by_drop_ends_with_the_timeout(endpoint: Endpoint, head: bytes) -> None:
    endpoint.drip(head, b"0")
    begun = time.monotonic()
    outcome = attempt(app_of(endpoint.url), endpoint.url)
    assert (outcome.state, "Timeout" in str(error_of(outcome))) == ("RETRY", True)
    assert in_time(time.monotonic() - begun, 4.0)
    endpoint.wait_until_closed(1, PATIENCE)


@pytest.mark.usefixtures("short")
def test_a_name_server_that_is_silent_ends_with_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(host: str, port: int) -> Any:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(delivery, "looked_up", silent)
    outcome = attempt(app_of(HOST), f"https://{HOST}/")
    assert (outcome.state, "Timeout" in str(error_of(outcome))) == ("RETRY", True)


def test_nothing_of_an_answer_is_read_or_shown(endpoint: Endpoint) -> None:
    endpoint.then(reply(500, b"the root password is hunter2" + b"x" * 1_000_000, content_type="text/plain"))
    outcome = attempt(app_of(endpoint.url), endpoint.url)
    assert "hunter2" not in str(outcome)


# --- Workers ------------------------------------------------------------------------------------------


def test_only_a_worker_that_is_configured_for_callbacks_has_children_for_them() -> None:
    for app, children in ((app_of(HOST), 1), (app_of(HOST, web_callback_secrets=[]), 0), (app_of(), 0)):
        assert WorkerOptions.of(app).coroutine_children == children
    assert app.builtin_tasks[WEBHOOK].lane == COROUTINE


def test_a_step_of_a_workflow_cannot_be_told_twice(endpoint: Endpoint, shop: Celeriac) -> None:
    add = shop.tasks["shop.add"]
    options = webhooks.callback(add, endpoint.url, include_result=True)
    assert chain(add.s(1, 1).set(**options), add.s(40)).apply_async().get() == 42
    assert [request.json["data"]["result"] for request in endpoint.received] == [2]
