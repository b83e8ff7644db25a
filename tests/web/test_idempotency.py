"""A request with an Idempotency-Key is handled once, whatever is repeated or killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from celeriac import Celeriac
from celeriac.model.message import new_id
from celeriac.ports.claims import claim_store
from celeriac.web import User, api
from tests.patience import PATIENCE, wait_for
from tests.redis_server import RedisServer
from tests.web.conftest import Running
from tests.web.killed_server import POINTS
from tests.web.served import Served, serving
from tests.web.test_tasks import API, problem

BODY = {"task": "shop.note", "args": ["once"]}


def headers(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def test_a_repeated_request_gives_the_first_answer_and_sends_nothing(client: httpx.Client, running: Running) -> None:
    key, text = str(uuid.uuid4()), f"note {uuid.uuid4()}"
    body = {"task": "shop.note", "args": [text]}
    first = client.post(f"{API}/tasks", json=body, headers=headers(f'"{key}"'))
    client.get(f"{API}/tasks/{first.json()['id']}/result", params={"wait": 60})
    for shown in (f'"{key}"', key):
        again = client.post(f"{API}/tasks", json=body, headers=headers(shown))
        assert (again.status_code, again.json()) == (202, first.json())
    otherwise = f'{{"args": ["{text}"],\n "task": "shop.note"}}'.encode()
    waited = client.post(f"{API}/tasks", params={"wait": 60}, content=otherwise,
                         headers={**headers(key), "Content-Type": "application/json"})  # fmt: skip
    assert (waited.status_code, waited.json()["id"], waited.json()["ready"]) == (200, first.json()["id"], True)
    other = client.post(f"{API}/tasks", json=body, headers=headers(str(uuid.uuid4())))
    client.get(f"{API}/tasks/{other.json()['id']}/result", params={"wait": 60})
    assert (running.served.folder / "notes").read_text().splitlines().count(text) == 2


def test_a_key_belongs_to_one_request(client: httpx.Client) -> None:
    key = headers(str(uuid.uuid4()))
    assert client.post(f"{API}/tasks", json=BODY, headers=key).status_code == 202
    problem(client.post(f"{API}/tasks", json={**BODY, "args": ["twice"]}, headers=key), 422, "key-reused")
    problem(client.post(f"{API}/tasks/batch", json={"task": "shop.note", "calls": [{"args": ["x"]}]}, headers=key),
            422, "key-reused")  # fmt: skip
    for wrong in ("x" * 256, '""', ""):
        problem(client.post(f"{API}/tasks", json=BODY, headers=headers(wrong)), 400, "bad-request")


def test_a_workflow_takes_no_key(client: httpx.Client) -> None:
    body = {"group": [{"task": "shop.add", "args": [1]}]}
    problem(client.post(f"{API}/workflows", json=body, headers=headers("k")), 400, "bad-request")


def test_a_batch_is_sent_once(client: httpx.Client) -> None:
    key = headers(str(uuid.uuid4()))
    body = {"task": "shop.add", "calls": [{"args": [n]} for n in range(10)]}
    first = client.post(f"{API}/tasks/batch", json=body, headers=key).json()
    assert client.post(f"{API}/tasks/batch", json=body, headers=key).json() == first
    assert len(set(first["ids"])) == 10


@asynccontextmanager
async def clients_of(app: Celeriac, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    site = api(app, authenticate=lambda request: User(request.headers.get("x-user", "ann"), frozenset({"admin"})))
    transport = httpx.ASGITransport(site, **more)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest.fixture(params=["memory", "sqlite", "redis", "sql"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, make_app: Callable[..., Celeriac]) -> Celeriac:
    """An app that can be asked for its waiting messages, on each store of claims."""
    url = {"memory": f"memory://{new_id()}", "sqlite": f"sqlite:///{tmp_path}/shop.db"}.get(request.param)
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        url = server.url
    more = {"result_backend": f"db+sqlite:///{tmp_path}/results.db"} if request.param == "sql" else {}
    app = make_app("shop", **({"broker_url": url} if url else {}), **more)

    @app.task(name="shop.note")
    def note(text: str) -> None: ...

    return app


async def test_a_claim_is_taken_once_and_expires(shop: Celeriac) -> None:
    store, now, key = claim_store(shop.backend), shop.clock.now(), new_id()
    assert await store.claim(key, b"look", 0.0, now) is None
    assert await store.claim(key, b"first", 0.2, now) is None
    assert await store.claim(key, b"second", 60.0, now) == b"first"
    assert await store.claim(key, b"", 0.0, now) == b"first"
    assert await store.claim(f"{key}2", b"\x00\xff", 60.0, now) is None
    assert await store.claim(f"{key}2", b"x", 60.0, now) == b"\x00\xff"

    async def taken() -> bytes | None:
        return await store.claim(key, b"third", 60.0, shop.clock.now())

    for _ in range(1000):
        if (held := await taken()) is None:
            break
        assert held == b"first"
        await asyncio.sleep(0.01)
    assert await store.claim(key, b"fourth", 60.0, shop.clock.now()) == b"third"


async def test_users_have_keys_of_their_own(shop: Celeriac) -> None:
    async with clients_of(shop) as client:
        ids = [
            (await client.post(f"{API}/tasks", json=BODY, headers={**headers("k"), "X-User": user})).json()["id"]
            for user in ("ann", "bob", "ann")
        ]
    assert ids[0] == ids[2] != ids[1]
    assert {message.id for message in await shop.broker.operations().peek("default", 10)} == set(ids)


async def test_while_a_request_is_handled_its_repetition_is_refused(
    shop: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, publish = asyncio.Event(), asyncio.Event(), shop.apublish

    async def slow(messages: Any) -> bool:
        begun.set()
        await go.wait()
        return await publish(messages)

    monkeypatch.setattr(shop, "apublish", slow)
    async with clients_of(shop) as client:
        first = asyncio.ensure_future(client.post(f"{API}/tasks", json=BODY, headers=headers("k")))
        await begun.wait()
        problem(await client.post(f"{API}/tasks", json=BODY, headers=headers("k")), 409, "outstanding")
        go.set()
        assert (await first).status_code == 202


async def test_a_repetition_tells_the_first_time_that_a_task_is_due(shop: Celeriac) -> None:
    body = {**BODY, "options": {"countdown": 3600}}
    async with clients_of(shop) as client:
        first = await client.post(f"{API}/tasks", json=body, headers=headers("k"))
        await asyncio.sleep(0.01)
        assert (await client.post(f"{API}/tasks", json=body, headers=headers("k"))).json() == first.json()


async def test_a_claim_that_another_version_wrote_is_no_fault_of_the_server(shop: Celeriac) -> None:
    await claim_store(shop.backend).claim("http:ann:k", b"\xc1", 60.0, shop.clock.now())
    async with clients_of(shop) as client:
        problem(await client.post(f"{API}/tasks", json=BODY, headers=headers("k")), 422, "key-reused")


async def test_a_request_that_failed_between_claim_and_publish_is_finished_by_its_repetition(
    shop: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(messages: Any) -> bool:
        raise KeyError("killed here")

    async with clients_of(shop, raise_app_exceptions=False) as client:
        with monkeypatch.context() as patched:
            patched.setattr(shop, "apublish", fail)
            assert (await client.post(f"{API}/tasks", json=BODY, headers=headers("k"))).status_code == 500
        assert await shop.broker.operations().peek("default", 10) == []
        first = await client.post(f"{API}/tasks", json=BODY, headers=headers("k"))
        again = await client.post(f"{API}/tasks", json=BODY, headers=headers("k"))
    assert first.json() == again.json()
    assert [message.id for message in await shop.broker.operations().peek("default", 10)] == [first.json()["id"]]


@contextmanager
def killed_server(folder: Path, **settings: str) -> Iterator[str]:
    """Run a server that requests can kill, and that is there again at once (`killed_server.py`); yield its address."""
    served = Served(folder, **settings)
    root = str(Path(__file__).parent.parent.parent)
    command = [sys.executable, "-m", "tests.web.killed_server", str(folder)]
    with subprocess.Popen(command, cwd=root, env=served.environment, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            assert process.wait(PATIENCE) == 0


@pytest.fixture(params=["sqlite", "redis"])
def killed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    url = f"sqlite:///{tmp_path}/celeriac.db"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        url = server.url
    with killed_server(tmp_path, broker_url=url) as address:
        yield address


def test_each_key_is_one_task_though_the_server_is_killed_at_each_request(
    killed: str, pytestconfig: pytest.Config
) -> None:
    """SIGKILL between any two steps, exactly; the client repeats the request until it is answered.

    `make chaos` kills the server 200 times between the claim and the publishing.
    """
    kills = dict.fromkeys(POINTS, 6)
    if pytestconfig.getoption("--chaos"):
        kills |= {"after the claim": 200, "after publishing": 50}
    keys = {f"{point} {number}": point for point, count in kills.items() for number in range(count)}
    ids: dict[str, str] = {}
    for key, point in keys.items():
        body = {"task": "shop.note", "args": [key], "options": {"queue": "idle"}}
        with pytest.raises(httpx.HTTPError):
            post(killed, body, key, PATIENCE, {"X-Kill": point})
        ids[key] = post(killed, body, key, PATIENCE)
        assert post(killed, body, key, PATIENCE) == ids[key]
    waiting: list[Any] = []
    while len(waiting) % 200 == 0:
        page = httpx.get(f"{killed}{API}/queues/idle/messages", params={"limit": 200, "offset": len(waiting)},
                         trust_env=False, timeout=PATIENCE).json()  # fmt: skip
        if not page:
            break
        waiting += page
    assert Counter(message["args"][0] for message in waiting) == dict.fromkeys(keys, 1)
    assert {message["args"][0]: message["id"] for message in waiting} == ids


def test_each_key_is_one_task_though_the_server_is_killed_at_any_moment(tmp_path: Path) -> None:
    """SIGKILL from outside, some milliseconds after a request; the client repeats each request until it is answered."""
    with serving(tmp_path) as served:
        ids: dict[str, str] = {}
        keys = [f"key-{number}" for number in range(20)]
        process, address = served.web()
        for number, key in enumerate(keys):
            if process.poll() is not None:
                process, address = served.web()
            body = {"task": "shop.note", "args": [key], "options": {"queue": "idle"}}
            try:
                timeout = 0.002 * (number % 5 + 1) if number % 5 == 4 else 60
                ids[key] = post(address, body, key, timeout)
            except httpx.HTTPError:
                pass
            if number % 5 == 4:
                process.kill()
                process.wait()
        _, address = served.web()
        for key in keys:
            found = post(address, {"task": "shop.note", "args": [key], "options": {"queue": "idle"}}, key, 60)
            assert ids.setdefault(key, found) == found
        waiting = httpx.get(f"{address}{API}/queues/idle/messages", params={"limit": 200}, trust_env=False).json()
        counted = Counter(message["args"][0] for message in waiting)
        assert counted == dict.fromkeys(keys, 1)
        assert {message["id"] for message in waiting} == set(ids.values())


def post(address: str, body: Any, key: str, timeout: float, more: Mapping[str, str] = {}) -> str:
    answer = httpx.post(f"{address}{API}/tasks", json=body, headers={**headers(key), **more}, timeout=timeout,
                        trust_env=False)  # fmt: skip
    if answer.status_code == 409:
        wait_for(lambda: True)
        return post(address, body, key, timeout)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])
