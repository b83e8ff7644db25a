"""What the HTTP API refuses: no token, wrong scopes, other sites, other hosts, sizes, slowness."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from celeriac import Celeriac
from celeriac.errors import CeleriacError, ImproperlyConfigured
from celeriac.inspector.bulk import ACTIONS
from celeriac.model.keys import new_key, parse_key, write_caller_key
from celeriac.model.status_urls import signed_path
from celeriac.web import Limits, User, api
from celeriac.web.application import ENDPOINTS
from celeriac.web.limits import Buckets
from celeriac.web.problems import KINDS, TABLE, Problem, kind_of
from celeriac.web.scopes import SCOPES
from celeriac.web.tokens import TokenFile, Tokens, new_token, read_tokens
from tests.patience import PATIENCE, wait_for
from tests.web.conftest import Running, worker_of
from tests.web.served import SECRET, Served, serving
from tests.web.test_tasks import API, problem

SIMPLE = {"task": "shop.add", "args": [1]}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def locked(guarded: Running) -> Iterator[httpx.Client]:
    """A client of the server with tokens; without one."""
    with httpx.Client(base_url=guarded.address, timeout=PATIENCE, trust_env=False) as client:
        yield client


@pytest.fixture
def token(guarded: Running) -> Callable[..., str]:
    """Adds a token to the file of the server, as `celeriac web token add` does."""

    def make(*scopes: str) -> str:
        text, kept = new_token(f"t{time.monotonic_ns()}", scopes, None)
        TokenFile(guarded.served.folder / "tokens").add(kept)
        return text

    return make


# --- Errors -------------------------------------------------------------------------------------------


def all_errors(kind: type[CeleriacError] = CeleriacError) -> Iterator[type[CeleriacError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from all_errors(inner)


def test_each_error_of_celeriac_is_a_problem() -> None:
    errors = {error for error in all_errors() if error.__module__.startswith("celeriac.")}
    assert len(errors) > 30
    unmapped = {error.__qualname__ for error in errors if error.__module__ == "celeriac.errors"} - {
        error.__qualname__ for error in TABLE
    }
    assert unmapped == set()
    assert all(kind_of(error) in KINDS for error in errors)


# --- Tokens -------------------------------------------------------------------------------------------


def test_without_a_token_everything_but_probes_is_refused(locked: httpx.Client) -> None:
    for endpoint in ENDPOINTS:
        path = endpoint.path.replace(":path", "").replace("{", "").replace("}", "")
        answer = locked.request(endpoint.method, path)
        if endpoint.scope is None:
            assert answer.status_code != 401
        else:
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="celeriac"'), path
    problem(locked.get(f"{API}/queues", headers=bearer("clr_first_" + "0" * 64)), 401, "unauthenticated")
    problem(locked.get(f"{API}/queues", headers={"Authorization": "Bearer"}), 401, "unauthenticated")
    problem(locked.get(f"{API}/queues", headers={"Authorization": "Basic eDp5"}), 401, "unauthenticated")


def test_each_endpoint_needs_its_scope(locked: httpx.Client, token: Callable[..., str]) -> None:
    other = {scope: token(next(one for one in SCOPES if one != scope)) for scope in ("tasks:send", "queues:read")}
    found = problem(locked.post(f"{API}/tasks", json=SIMPLE, headers=bearer(other["tasks:send"])), 403, "scope")
    assert found["needed"] == "tasks:send"
    problem(locked.get(f"{API}/queues", headers=bearer(other["queues:read"])), 403, "scope")
    assert locked.get(f"{API}/queues", headers=bearer(token("queues:read"))).status_code == 200


async def test_each_endpoint_is_refused_to_a_user_who_has_all_other_scopes(app: Celeriac) -> None:
    site = api(app, authenticate=lambda request: User("bob", frozenset(request.headers["x-scopes"].split())))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://localhost") as client:
        for endpoint in ENDPOINTS:
            if endpoint.scope is not None:
                others = " ".join(scope for scope in SCOPES if scope != endpoint.scope)
                path = endpoint.path.replace(":path", "").replace("{", "").replace("}", "")
                answer = await client.request(endpoint.method, path, headers={"X-Scopes": others})
                assert problem(answer, 403, "scope")["needed"] == endpoint.scope
        # What needs a second scope checks it where it acts.
        searching = {"X-Scopes": "results:read"}
        answer = await client.get(f"{API}/tasks", params={"q": ""}, headers=searching)
        assert problem(answer, 403, "scope")["needed"] == "tasks:read"


def test_every_scope_is_one_that_is_known() -> None:
    needed = {endpoint.scope for endpoint in ENDPOINTS} | {action.scope for action in ACTIONS.values()}
    assert needed - {None} <= SCOPES.keys()


def test_a_token_may_send_only_tasks_of_its_pattern(locked: httpx.Client, token: Callable[..., str]) -> None:
    mail = bearer(token("tasks:send:mail.*"))
    allowed = {"task": "mail.send", "args": ["ann"], "options": {"queue": "idle"}}
    sent = locked.post(f"{API}/tasks", json=allowed, headers=mail)
    assert sent.status_code == 202
    assert "status" not in sent.json()["links"]  # by which the result could be read
    for path, body in (
        ("tasks", SIMPLE),
        ("tasks/batch", {"task": "shop.add", "calls": [{"args": [1]}]}),
        ("workflows", {"chain": [allowed, SIMPLE]}),
    ):
        assert problem(locked.post(f"{API}/{path}", json=body, headers=mail), 403, "scope")["needed"] == (
            "tasks:send:shop.add"
        )
    problem(locked.get("/compat/apply/shop.add/?x=1", headers=mail), 403, "scope")
    problem(locked.post("/compat/api/task/async-apply/shop.add", json={"args": [1]}, headers=mail), 403, "scope")


def test_a_traceback_and_orders_need_scopes_of_their_own(
    locked: httpx.Client, client: httpx.Client, token: Callable[..., str]
) -> None:
    id = client.post(f"{API}/tasks?wait=60", json={"task": "shop.fail", "args": ["x"]}).json()["id"]
    viewer, operator = bearer(token("viewer")), bearer(token("operator"))
    assert "traceback" not in locked.get(f"{API}/tasks/{id}", headers=viewer).json()
    assert "ValueError" in locked.get(f"{API}/tasks/{id}", headers=operator).json()["traceback"]
    assert locked.get(f"/compat/{id}/status/", headers=viewer).json()["task"]["traceback"] is None
    worker = worker_of(locked.get(f"{API}/workers", headers=viewer))
    path = f"{API}/workers/{worker['name']}/orders"
    assert locked.post(path, json={"order": "ping"}, headers=viewer).status_code == 200
    for user in (viewer, operator):
        assert problem(locked.post(path, json={"order": "shutdown"}, headers=user), 403, "scope")["needed"] == (
            "workers:control"
        )


def test_a_removed_token_is_refused_at_once(locked: httpx.Client, guarded: Running) -> None:
    text = guarded.served.run("web", "token", "add", "brief", "--scope", "queues:read", "--expires", "1h")
    assert locked.get(f"{API}/queues", headers=bearer(text)).status_code == 200
    assert "brief" in guarded.served.run("web", "token", "list")
    assert text not in (guarded.served.folder / "tokens").read_text()
    assert (guarded.served.folder / "tokens").stat().st_mode & 0o077 == 0
    guarded.served.run("web", "token", "remove", "brief")
    problem(locked.get(f"{API}/queues", headers=bearer(text)), 401, "unauthenticated")


def test_an_expired_token_is_refused(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    text, kept = new_token("ci", ["viewer"], now + timedelta(hours=1))
    tokens = Tokens([str(kept)], TokenFile(tmp_path / "tokens"))
    assert tokens.user(text, now.timestamp()) == User("ci", frozenset({"viewer"}))
    assert tokens.user(text, now.timestamp() + 3600) is None
    assert tokens.user(text[:-1] + ("0" if text[-1] != "0" else "1"), now.timestamp()) is None
    assert tokens.user(text.replace("clr_ci", "clr_di"), now.timestamp()) is None


async def test_with_a_callers_key_an_action_is_done_though_its_audit_cannot_be_written(
    make_app: Callable[..., Celeriac], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = write_caller_key(parse_key(new_key()))
    site = api(make_app(broker_url=f"sqlite:///{tmp_path}/shop.db", security_keys=[key]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://localhost") as client:
        answer = await client.patch(f"{API}/queues/default", json={"paused": True}, headers={"Origin": "http://localhost"})
        assert (answer.status_code, answer.json()["paused"]) == (200, True)
    assert "is missing in the audit: A value of the kind 'history' must be signed" in caplog.text


@pytest.mark.parametrize("way", ["the last one is removed", "the file is lost", "the file was empty"])
async def test_who_loses_the_last_token_opens_nothing(
    make_app: Callable[..., Celeriac], tmp_path: Path, way: str
) -> None:
    file = TokenFile(tmp_path / "tokens")
    _, kept = new_token("ann", ["admin"], None)
    file.add(kept)
    if way == "the file was empty":
        file.remove("ann")
    site = api(make_app(broker_url=f"sqlite:///{tmp_path}/shop.db", web_token_file=str(file.path)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://localhost") as client:
        problem(await client.get(f"{API}/queues"), 401, "unauthenticated")
        if way == "the last one is removed":
            file.remove("ann")
        else:
            file.path.unlink(missing_ok=way == "the file was empty")
        problem(await client.get(f"{API}/queues"), 401, "unauthenticated")


def test_the_last_token_that_is_removed_says_what_that_means(tmp_path: Path) -> None:
    served = Served(tmp_path)
    served.run("web", "token", "add", "ann", "--scope", "admin")
    assert "nobody is served: add one" in served.run("web", "token", "remove", "ann")
    assert "nobody is served: add one" in served.run("web", "token", "list")
    (tmp_path / "tokens").unlink()
    assert "only this machine is served" in served.run("web", "token", "list")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ci", "line 1: not a token"),
        (f"ci {'0' * 64} -", "not a token"),
        (f"ci {'0' * 63} - viewer", "not a token"),
        (f"ci {'0' * 64} soon viewer", "not a token"),
        (f"c_i {'0' * 64} - viewer", "not a token"),
        (f"ci {'0' * 64} - task:send", "Did you mean 'tasks:send'"),
        (f"ci {'0' * 64} - tasks:send:", "There is no scope"),
    ],
)
def test_a_line_that_is_no_token_is_an_error(line: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=why):
        read_tokens([line], "web_tokens")
    with pytest.raises(ImproperlyConfigured, match="letters, digits"):
        new_token("not a name", ["viewer"], None)


# --- Without tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", "", "[::2]"]
)
def test_a_name_that_leads_to_this_machine_is_not_served(client: httpx.Client, host: str) -> None:
    problem(client.get(f"{API}/queues", headers={"Host": host}), 403, "forbidden")


def test_this_machine_is_served_by_its_names(client: httpx.Client) -> None:
    for host in ("localhost:1", "127.0.0.1", "[::1]:80"):
        assert client.get(f"{API}/queues", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_what_a_proxy_passes_on_is_not_from_this_machine(client: httpx.Client, header: str) -> None:
    problem(client.get(f"{API}/queues", headers={header: "203.0.113.1"}), 401, "unauthenticated")


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Cookie": "session=1"},
    ],
)
def test_the_page_of_another_site_changes_nothing(client: httpx.Client, headers: dict[str, str]) -> None:
    for method, path in (
        ("POST", "/compat/apply/shop.add/?x=1"),
        ("GET", "/compat/apply/shop.add/?x=1"),
        ("POST", f"{API}/tasks/x/revoke"),
        ("POST", f"{API}/tasks"),
    ):
        problem(client.request(method, path, headers=headers), 403, "forbidden")


def test_a_page_of_the_same_site_may(client: httpx.Client, running: Running) -> None:
    for headers in ({"Sec-Fetch-Site": "same-origin", "Cookie": "a=1"}, {"Origin": running.address}):
        assert client.post(f"{API}/tasks/x/revoke", headers=headers).status_code == 202


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_tokens_no_other_address_is_listened_on(running: Running, host: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celeriac", "-A", "shop", "web", "--host", host, "--port", "0"], timeout=PATIENCE,
        cwd=running.served.folder, env=running.served.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Make a token" in done.stderr


def test_an_address_that_is_taken_is_an_error(running: Running) -> None:
    port = running.address.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "celeriac", "-A", "shop", "web", "--port", port], timeout=PATIENCE,
        cwd=running.served.folder, env=running.served.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, "Choose another --port" in done.stderr) == (2, True)


# --- An application's own users -----------------------------------------------------------------------


async def test_an_application_knows_its_users(app: Celeriac) -> None:
    def authenticate(request: Request) -> User | None:
        return User("ann", frozenset({"queues:read"})) if request.cookies.get("session") == "ann" else None

    transport = httpx.ASGITransport(api(app, authenticate=authenticate), client=("203.0.113.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="https://shop.example") as client:
        problem(await client.get(f"{API}/queues"), 401, "unauthenticated")
        cookie = {"Cookie": "session=ann"}
        assert (await client.get(f"{API}/queues", headers=cookie)).status_code == 200
        problem(await client.patch(f"{API}/queues/default", headers=cookie, json={"paused": True}), 403, "forbidden")
        same = {**cookie, "Sec-Fetch-Site": "same-origin"}
        problem(await client.patch(f"{API}/queues/default", headers=same, json={"paused": True}), 403, "scope")


async def test_a_token_of_an_application_may_come_from_a_page_of_another_site(app: Celeriac) -> None:
    """A browser adds cookies by itself, and never a bearer token."""

    def authenticate(request: Request) -> User | None:
        return User("ann", frozenset({"admin"})) if request.headers.get("authorization") == "Bearer ann" else None

    cross = {"Authorization": "Bearer ann", "Sec-Fetch-Site": "cross-site"}
    transport = httpx.ASGITransport(api(app, authenticate=authenticate), client=("203.0.113.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="https://shop.example") as client:
        path = f"{API}/queues/default"
        assert (await client.patch(path, headers=cross, json={"paused": True})).status_code == 200
        problem(await client.patch(path, headers={**cross, "Cookie": "a=b"}, json={"paused": True}), 403, "forbidden")


async def test_hosts_are_those_that_are_allowed(make_app: Callable[..., Celeriac]) -> None:
    app = make_app(web_allowed_hosts=["shop.example"])
    transport = httpx.ASGITransport(api(app, authenticate=lambda request: User("ann", frozenset({"admin"}))))
    async with httpx.AsyncClient(transport=transport, base_url="https://shop.example") as client:
        assert (await client.get(f"{API}/queues")).status_code == 200
        problem(await client.get(f"{API}/queues", headers={"Host": "evil.example"}), 403, "forbidden")


# --- Limits -------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client: httpx.Client) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'{"task": "shop.echo", "args": ["'
        for _ in range(10_000):
            sent += 65_536
            yield b"x" * 65_536

    headers = {"content-type": "application/json"}
    try:
        answer = client.post(f"{API}/tasks", content=endless(), headers=headers)
        problem(answer, 413, "too-large")
    except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
        pass  # the server has closed the connection while the client was still sending
    assert sent < 1000 * 65_536  # the rest of what fits into buffers
    declared = {**headers, "content-length": str(10**9)}
    request = client.build_request("POST", f"{API}/tasks", headers=declared, content=b"")
    with socket.create_connection((request.url.host, request.url.port or 80), timeout=PATIENCE) as raw:
        raw.sendall(b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 1000000000\r\n\r\n{")  # fmt: skip
        assert b" 413 " in raw.recv(65_536).partition(b"\r\n")[0]


@pytest.mark.parametrize("inner", ['{"a":', "["])
@pytest.mark.parametrize("path", ["tasks", "workflows", "bulk", "workers/w/orders"])
def test_a_body_that_is_nested_too_deeply_is_refused(client: httpx.Client, path: str, inner: str) -> None:
    close = "}" if inner.startswith("{") else "]"
    for depth in (200, 100_000):
        deep = inner * depth + "1" + close * depth
        body = f'{{"task": "shop.echo", "args": [{deep}]}}'.encode()
        answer = client.post(f"{API}/{path}", content=body, headers={"Content-Type": "application/json"})
        assert "nested" in problem(answer, 400, "bad-json")["detail"]


def test_an_argument_of_more_than_a_message_may_have_is_refused(client: httpx.Client) -> None:
    body = {"task": "shop.echo", "calls": [{"args": ["x" * 2_000_000]}]}
    found = problem(client.post(f"{API}/tasks/batch", json=body), 422, "bad-arguments")
    assert "message_max_bytes" in found["errors"][0]["detail"]


async def test_a_body_that_does_not_arrive_is_given_up(app: Celeriac) -> None:
    site = api(app, authenticate=lambda request: User("a", frozenset({"admin"})), limits=Limits(body_seconds=0.05))
    answered: list[Any] = []
    messages = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        return None

    async def send(message: Any) -> None:
        answered.append(message)

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    await site({"type": "http", "method": "POST", "path": f"{API}/tasks", "query_string": b"", "headers": headers,
                "root_path": "", "scheme": "http", "server": ("localhost", 80), "client": ("127.0.0.1", 1),
                "http_version": "1.1", "asgi": {"version": "3.0"}, "extensions": {}}, receive, send)  # fmt: skip
    assert answered[0]["status"] == 408


def test_a_connection_without_a_request_is_closed(running: Running) -> None:
    """A slow loris sends a header now and then, and never ends."""
    host, _, port = running.address.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as raw:
        raw.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        raw.settimeout(1.0)

        def closed() -> bool:
            try:
                raw.sendall(b"X-More: 1\r\n")
                return raw.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_for(closed, "the end of the connection")


def test_a_user_who_asks_too_often_has_to_wait() -> None:
    now = 0.0
    buckets = Buckets(rate=2.0, burst=3, clock=lambda: now)
    for _ in range(3):
        buckets.take("ann")
    with pytest.raises(Problem) as caught:
        buckets.take("ann")
    assert (caught.value.kind.status, caught.value.headers) == (429, {"Retry-After": "1"})
    buckets.take("bob")
    now = 0.5
    buckets.take("ann")
    with pytest.raises(Problem):
        buckets.take("ann")


async def test_the_limit_of_requests_holds_for_each_user(make_app: Callable[..., Celeriac]) -> None:
    app = make_app(web_rate=7)
    assert (api(app).site.buckets.rate, api(app).site.buckets.burst) == (7, 14)
    site = api(app, authenticate=lambda request: User(request.headers["x-user"], frozenset({"admin"})),
               limits=Limits(rate=0.001, burst=2))  # fmt: skip
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://localhost") as client:
        codes = [(await client.get(f"{API}/queues", headers={"X-User": user})).status_code for user in "aaab"]
    assert codes == [200, 200, 429, 200]


# --- Status URLs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        (lambda path: path, 200, ""),
        (lambda path: path.replace("/s/t", "/s/u"), 404, "unknown-id"),
        (lambda path: path[:-1], 404, "unknown-id"),
        (lambda path: path + "A", 404, "unknown-id"),
        (lambda path: "/s/task." + str(int(time.time()) + 99999) + "." + path.rpartition(".")[2], 404, "unknown-id"),
        (lambda path: "/s/task", 404, "unknown-id"),
        (lambda path: "/s/task..", 404, "unknown-id"),
        (lambda path: signed_path(SECRET, "task", int(time.time()) - 1, True), 410, "expired"),
        (lambda path: signed_path("another secret, which is as long as the first", "task", 2**33, True), 404,
         "unknown-id"),
    ],
)  # fmt: skip
def test_a_status_url_holds_until_its_expiry_for_its_task(
    locked: httpx.Client, change: Callable[[str], str], status: int, kind: str
) -> None:
    path = signed_path(SECRET, "task", int(time.time()) + 3600, True)
    answer = locked.get(change(path))
    if status == 200:
        assert (answer.status_code, answer.json()["state"]) == (200, "PENDING")
    else:
        problem(answer, status, kind)


def test_the_server_stops_although_streams_are_open(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        process, address = served.web()
        with httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False) as client:
            with client.stream("GET", f"{API}/events", params={"ids": "nobody"}) as answer:
                lines = answer.iter_lines()
                assert next(lines) == "retry: 2000"
                process.send_signal(signal.SIGTERM)
                list(lines)  # ends well: the stream was not cut off
                assert process.wait(PATIENCE) == 0
