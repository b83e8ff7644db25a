"""Leases over HTTP: what a worker in any language is given, what it may say of it, and what becomes of that."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import msgspec
import pytest
from msgspec.structs import replace
from starlette.requests import Request

from celeriac import Celeriac, chord
from celeriac.errors import RemoteError, TaskExpired, TaskRevoked, TimeLimitExceeded, WorkerLost
from celeriac.testing import running_worker
from celeriac.web import Limits, User, api
from celeriac.web.application import Api
from tests.clock import FakeClock
from tests.patience import PATIENCE, eventually, in_time, wait_for
from tests.web.conftest import Running
from tests.web.served import serving
from tests.web.test_tasks import API

WAIT = 60.0  # seconds, the longest


class Remote:
    """A client of leases, and the lease that it has."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.path = ""
        self.holds: list[str] = []

    async def enter(self, **fields: Any) -> Remote:
        said = {"name": "elsewhere", "queues": ["mail"], "tasks": ["shop.*"], **fields}
        answer = await self.client.post(f"{API}/leases", json=said)
        assert answer.status_code == 201, answer.text
        self.path = f"{API}/leases/{answer.json()['lease']}"
        return self

    async def post(self, what: str, body: Any, **query: Any) -> dict[str, Any]:
        answer = await self.client.post(f"{self.path}/{what}", json=body, params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def receive(self, limit: int = 1, wait: float = 0.0) -> list[dict[str, Any]]:
        answer = await self.post("receive", {"holds": self.holds}, limit=limit, wait=wait)
        self.holds += [delivery["token"] for delivery in answer["deliveries"]]
        found: list[dict[str, Any]] = answer["deliveries"]
        return found

    async def one(self) -> dict[str, Any]:
        """Receive the one message that comes."""
        deliveries = await self.receive(wait=WAIT)
        assert len(deliveries) == 1
        return deliveries[0]

    async def settle(self, delivery: dict[str, Any] | str, state: str, **fields: Any) -> bool:
        token = delivery if isinstance(delivery, str) else delivery["token"]
        ended = {"token": token, "state": state, **fields}
        (one,) = (await self.post("settle", {"settlements": [ended]}))["settlements"]
        assert one["token"] == token
        if token in self.holds and state != "PROGRESS":
            self.holds.remove(token)
        accepted: bool = one["accepted"]
        return accepted

    async def renew(self) -> dict[str, Any]:
        return await self.post("renew", {"holds": self.holds})


ALL = User("ann", frozenset({"admin"}))


@asynccontextmanager
async def served(app: Celeriac, user: User = ALL, **limits: Any) -> AsyncIterator[Remote]:
    def authenticate(request: Request) -> User:
        return user

    site = api(app, authenticate=authenticate, limits=Limits(rate=1e9, burst=10**9, **limits))
    async with client_of(site) as client:
        yield Remote(client)
        site.stop()
        await site.finish()


def client_of(site: Api) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://localhost", timeout=PATIENCE)


@pytest.fixture
def shop(make_app: Callable[..., Celeriac]) -> Celeriac:
    return shop_of(make_app)


def shop_of(make_app: Callable[..., Celeriac], **settings: Any) -> Celeriac:
    app = make_app("shop", task_queues=["mail", "default", "other"], **settings)

    @app.task(name="shop.add", queue="mail", max_retries=1, default_retry_delay=0.01)
    def add(x: int, y: int = 2) -> int:
        raise NotImplementedError

    @app.task(name="shop.total", queue="mail")
    async def total(values: list[int]) -> int:
        raise NotImplementedError

    @app.task(name="shop.seldom", queue="mail", rate_limit="10/m")
    def seldom() -> None:
        raise NotImplementedError

    @app.task(name="here.note")
    def note(failed_id: str) -> str:
        return failed_id

    return app


@asynccontextmanager
async def entered(app: Celeriac) -> AsyncIterator[Remote]:
    async with served(app) as found:
        yield await found.enter()


def add(app: Celeriac, *args: Any, **options: Any) -> Any:
    return app.tasks["shop.add"].apply_async(args or (1,), options.pop("kwargs", {}), **options)


# --- What it gets -------------------------------------------------------------------------------------


async def test_a_task_is_received_with_all_that_is_needed_to_run_it_and_its_value_arrives(
    shop: Celeriac
) -> None:
    async with entered(shop) as remote:
        result = add(shop, 1, kwargs={"y": 40}, headers={"tenant": "acme"}, priority=7, time_limit=9)
        found = await remote.one()
        expected = {"id": result.id, "task": "shop.add", "args": [1], "kwargs": {"y": 40}, "queue": "mail",
                    "priority": 7, "attempt": 1, "max_retries": 1, "deliveries": 1, "time_limit": 9.0,
                    "soft_time_limit": None, "headers": {"tenant": "acme"}, "failed": None}  # fmt: skip
        assert {name: found[name] for name in expected} == expected
        assert await remote.settle(found, "SUCCESS", result=41, runtime=0.001)
        assert await result.aget(timeout=PATIENCE) == 41
        outcome = shop.backend.fetch([result.id])[result.id]
        assert (outcome.worker, outcome.runtime) == ("elsewhere", 0.001)


async def test_coroutine_tasks_and_plain_ones_come_alike_up_to_the_limit(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        for _ in range(3):
            add(shop)
            shop.tasks["shop.total"].delay([1])
        counts = [len(await remote.receive(limit)) for limit in (1, 2, 2, 5)]
        assert counts == [1, 2, 2, 1]
        assert len(set(remote.holds)) == 6


async def test_a_receive_that_waits_ends_with_the_first_task(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        waiting = asyncio.ensure_future(remote.receive(wait=WAIT))
        await asyncio.sleep(0.1)
        add(shop)
        assert len(await waiting) == 1
        assert await remote.receive(wait=0.05) == []


async def test_values_that_json_does_not_know_keep_their_tags(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        id = UUID(int=7)
        result = shop.send_task("shop.x", (id,), queue="mail")
        found = await remote.one()
        assert found["args"] == [{"$uuid": str(id)}]
        assert await remote.settle(found, "SUCCESS", result={"id": found["args"][0], "schema": {"$ref": "#/a"}})
        assert await result.aget(timeout=PATIENCE) == {"id": id, "schema": {"$ref": "#/a"}}


async def test_arguments_that_are_not_json_are_sent_as_json(
    make_app: Callable[..., Celeriac], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = shop_of(make_app, accept_content=["json", "pickle"])
    async with served(app) as client:
        remote = await client.enter()
        add(app, 5, serializer="pickle")
        assert (await remote.one())["args"] == [5]


async def test_arguments_of_an_untrusted_content_type_fail_the_task(
    make_app: Callable[..., Celeriac],
) -> None:
    app = shop_of(make_app)
    async with served(app) as client:
        remote = await client.enter()
        template = app.message_template("shop.add").message((1,), {}, {})
        app.broker.publish([replace(template, content_type="application/x-python-serialize", body=b"\x80junk")])
        assert await remote.receive() == []
        outcome = app.backend.fetch([template.id], wait=PATIENCE)[template.id]
        assert outcome.state == "FAILURE"
        assert outcome.failure is not None
        assert outcome.failure.type == "DecodeError"


# --- How it ends --------------------------------------------------------------------------------------


async def test_an_error_in_another_language_is_a_remote_error(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        result = add(shop)
        error = {"type": "TypeError", "message": "x is undefined", "traceback": "at add (shop.mjs:1)"}
        assert await remote.settle(await remote.one(), "FAILURE", error=error)
        with pytest.raises(RemoteError, match="x is undefined") as raised:
            await result.aget(timeout=PATIENCE)
        assert raised.value.type == "TypeError"
        assert "shop.mjs" in raised.value.traceback


async def test_a_retry_is_the_next_attempt_until_there_is_none_left(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        result = add(shop)
        for attempt in (1, 2):
            found = await remote.one()
            assert (found["attempt"], found["deliveries"]) == (attempt, 1)
            assert await remote.settle(found, "RETRY", error={"type": "Busy", "message": "later"})
        with pytest.raises(RemoteError, match="later"):
            await result.aget(timeout=PATIENCE)


async def test_a_retry_of_a_task_that_only_the_worker_knows_has_the_default_policy(
    shop: Celeriac
) -> None:
    async with entered(shop) as remote:
        shop.send_task("shop.unheard", (1,), queue="mail")
        found = await remote.one()
        assert found["max_retries"] == 3
        assert await remote.settle(found, "RETRY", delay=0.01)
        assert (await remote.one())["attempt"] == 2


async def test_a_returned_task_comes_again_uncounted_and_a_lost_one_counted(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        add(shop)
        seen = []
        for state in ("RETURN", "LOST", "RETURN", "LOST", "LOST"):
            found = await remote.one()
            seen.append(found["deliveries"])
            assert await remote.settle(found, state)
        assert seen == [1, 1, 2, 2, 3]
        (letter,) = await shop.broker.operations().dead(None, 10)
        assert "its process died, 3 times" in letter.reason


async def test_a_returned_task_may_be_given_a_delay(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        add(shop)
        assert await remote.settle(await remote.one(), "RETURN", delay=3600)
        assert await remote.receive() == []
        assert len(await shop.broker.operations().scheduled("mail", 10)) == 1


async def test_a_rejected_task_is_a_dead_letter_or_comes_again(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        result = add(shop)
        assert await remote.settle(await remote.one(), "REJECTED", requeue=True)
        assert await remote.settle(await remote.one(), "REJECTED", error={"type": "Odd", "message": "not this"})
        (letter,) = await shop.broker.operations().dead(None, 10)
        assert (letter.message.id, letter.reason) == (result.id, "not this")


async def test_other_endings_are_what_they_are_called(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        ignored, revoked, late = add(shop), add(shop), add(shop, time_limit=3)
        for state in ("IGNORED", "REVOKED", "TIMEOUT"):
            assert await remote.settle(await remote.one(), state)
        assert shop.backend.fetch([ignored.id])[ignored.id].state == "IGNORED"
        with pytest.raises(TaskRevoked):
            await revoked.aget(timeout=PATIENCE)
        with pytest.raises(TimeLimitExceeded, match="3 s"):
            await late.aget(timeout=PATIENCE)


async def test_progress_is_shown_and_ends_nothing(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        result = add(shop)
        found = await remote.one()
        assert await remote.settle(found, "PROGRESS", result={"done": 1})
        await eventually(lambda: result.state == "PROGRESS", "the progress")
        assert result.info == {"done": 1}
        assert await remote.settle(found, "SUCCESS", result=1)
        assert not await remote.settle("nonsense", "PROGRESS")


async def test_a_value_that_is_too_large_fails_the_task(make_app: Callable[..., Celeriac]) -> None:
    app = shop_of(make_app, result_max_bytes=1000)
    async with served(app) as client:
        remote = await client.enter()
        result = add(app)
        assert await remote.settle(await remote.one(), "SUCCESS", result="x" * 2000)
        with pytest.raises(Exception, match="result_max_bytes"):
            await result.aget(timeout=PATIENCE)


async def test_a_large_value_is_compressed_as_that_of_any_worker(make_app: Callable[..., Celeriac]) -> None:
    app = shop_of(make_app, result_compression="gzip")
    async with served(app) as client:
        remote = await client.enter()
        result = add(app)
        assert await remote.settle(await remote.one(), "SUCCESS", result="x" * 20_000)
        assert app.backend.fetch([result.id])[result.id].compression == "zlib"
        assert await result.aget(timeout=PATIENCE) == "x" * 20_000


async def test_a_chord_of_remote_tasks_continues_and_so_does_a_link(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        add_, total = shop.tasks["shop.add"], shop.tasks["shop.total"]
        body = chord([add_.s(1), add_.s(2)], total.s()).delay()
        for found in await remote.receive(2, wait=WAIT):
            assert await remote.settle(found, "SUCCESS", result=found["args"][0] * 10)
        joined = await remote.one()
        assert joined["args"] == [[10, 20]]
        assert await remote.settle(joined, "SUCCESS", result=30)
        assert await body.aget(timeout=PATIENCE) == 30
        add(shop, link=add_.s(7))
        assert await remote.settle(await remote.one(), "SUCCESS", result=5)
        assert (await remote.one())["args"] == [5, 7]


async def test_an_error_callback_is_told_what_failed(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        result = add(shop, link_error=shop.tasks["shop.total"].s())
        assert await remote.settle(await remote.one(), "FAILURE", error={"type": "Odd", "message": "no"})
        found = await remote.one()
        assert found["args"] == [result.id]
        assert found["failed"]["error"] == {"type": "Odd", "module": "builtins", "message": "no"}
        assert found["failed"]["id"] == result.id


async def test_the_history_counts_what_remote_workers_run(make_app: Callable[..., Celeriac]) -> None:
    app = shop_of(make_app)
    async with served(app) as client:
        remote = await client.enter()
        for state in ("SUCCESS", "FAILURE"):
            add(app)
            assert await remote.settle(await remote.one(), state)
    assert app.history is not None
    totals = await app.history.totals(by=("task", "state"))
    assert sorted((point.task, point.state, point.sums.n) for point in totals) == [
        ("shop.add", "FAILURE", 1), ("shop.add", "SUCCESS", 1),
    ]  # fmt: skip


# --- What must not run --------------------------------------------------------------------------------


async def test_revoked_and_expired_tasks_end_without_being_delivered(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        revoked, expired = add(shop), add(shop, expires=0.01)
        await shop.control.arevoke(revoked.id)
        await asyncio.sleep(0.05)
        assert await remote.receive(2) == []
        with pytest.raises(TaskRevoked):
            await revoked.aget(timeout=PATIENCE)
        with pytest.raises(TaskExpired):
            await expired.aget(timeout=PATIENCE)


async def test_a_task_that_the_worker_did_not_name_goes_back_for_others(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        shop.send_task("other.thing", queue="mail")
        assert await remote.receive() == []
        (message,) = await shop.broker.operations().scheduled("mail", 10)
        assert message.unknown_since is not None
        other = await Remote(remote.client).enter(tasks=["other.*"])
        assert (await other.one())["deliveries"] == 1


async def test_celeriacs_own_tasks_are_left_to_workers_in_python(shop: Celeriac) -> None:
    async with served(shop) as client:
        remote = await client.enter(tasks=["*"])
        template = shop.message_template("shop.add").message((1,), {}, {})
        shop.broker.publish([replace(template, task=next(iter(shop.builtin_tasks)))])
        assert await remote.receive() == []
        assert len(await shop.broker.operations().scheduled("mail", 10)) == 1


async def test_a_rate_limit_holds_for_a_remote_worker(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        for _ in range(4):
            shop.tasks["shop.seldom"].delay()
        assert len(await remote.receive(4)) == 1
        assert len(await shop.broker.operations().scheduled("mail", 10)) == 3


async def test_a_task_that_is_terminated_is_named_in_the_next_heartbeat(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        result, other = add(shop), add(shop)
        found = {one["id"]: one["token"] for one in await remote.receive(2)}
        await shop.control.arevoke(result.id, terminate=True)

        async def terminated() -> list[str]:
            tokens: list[str] = (await remote.renew())["terminate"]
            return tokens

        deadline = time.monotonic() + PATIENCE
        while not (tokens := await terminated()) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert tokens == [found[result.id]]
        assert await remote.settle(found[result.id], "REVOKED")
        assert await remote.settle(found[other.id], "SUCCESS")


async def test_a_task_past_its_hard_time_limit_is_named_in_the_next_heartbeat(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        add(shop, time_limit=0.05)
        found = await remote.one()
        assert (await remote.renew())["lost"] == []
        await asyncio.sleep(0.1)
        assert (await remote.renew())["overdue"] == [found["token"]]


async def test_an_order_to_shut_down_reaches_remote_workers(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        assert (await remote.renew())["stop"] is False
        (gateway,) = [name for name in await names(shop) if "-web@" in name]
        await shop.control.send("shutdown", destination=[gateway])
        deadline = time.monotonic() + PATIENCE
        while not (await remote.renew())["stop"] and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert (await remote.renew())["stop"] is True


async def names(app: Celeriac) -> list[str]:
    found: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < 2 and time.monotonic() < deadline:  # the gateway enters by itself
        found = [worker.name for worker in await app.broker.operations().workers()]
        await asyncio.sleep(0.01)
    return found


async def test_a_remote_worker_is_listed_by_its_name(shop: Celeriac) -> None:
    async with entered(shop):
        assert "elsewhere" in await names(shop)


# --- What it holds ------------------------------------------------------------------------------------


async def test_what_an_answer_had_that_was_lost_comes_with_the_next_and_counts_once(
    shop: Celeriac
) -> None:
    async with entered(shop) as remote:
        add(shop)
        lost = await remote.one()
        remote.holds.clear()  # as it has never got that
        found = await remote.one()
        assert (found["id"], found["deliveries"]) == (lost["id"], 1)
        assert found["token"] != lost["token"]
        assert not await remote.settle(lost, "SUCCESS", result=1)
        assert await remote.settle(found, "SUCCESS", result=2)


async def test_a_second_receive_ends_the_first_and_gets_the_task(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        first = asyncio.ensure_future(remote.post("receive", {"holds": []}, wait=WAIT))
        await asyncio.sleep(0.1)
        second = asyncio.ensure_future(remote.post("receive", {"holds": []}, wait=WAIT))
        assert (await first) == {"deliveries": [], "lost": []}
        add(shop)
        assert len((await second)["deliveries"]) == 1


async def test_a_settlement_may_be_repeated(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        result = add(shop)
        found = await remote.one()
        assert [await remote.settle(found, "SUCCESS", result=value) for value in (1, 2)] == [True, True]
        assert await result.aget(timeout=PATIENCE) == 1


async def test_a_heartbeat_keeps_a_lease_and_without_it_others_take_over(
    make_app: Callable[..., Celeriac],
) -> None:
    clock = FakeClock()
    app = shop_of(make_app, clock=clock)
    async with served(app) as client:
        remote = await client.enter(lease_seconds=10)
        other = await Remote(client.client).enter(name="other", lease_seconds=3600)
        result = add(app)
        found = await remote.one()
        for _ in range(3):
            clock.advance(8)
            assert (await remote.renew())["lost"] == []
        clock.advance(11)
        again = await other.one()  # the gateway has swept
        assert (again["id"], again["deliveries"]) == (result.id, 2)
        assert (await remote.renew())["lost"] == [found["token"]]
        assert not await remote.settle(found, "SUCCESS", result="late")
        assert await other.settle(again, "SUCCESS", result="in time")
        assert await result.aget(timeout=PATIENCE) == "in time"


async def test_what_two_servers_are_told_of_one_lease_is_one_thing(shop: Celeriac) -> None:
    """A balancer sends requests to any of them."""
    async with served(shop) as one, served(shop) as two:
        await one.enter()
        two.path = one.path
        result, other = add(shop), add(shop)
        first = await one.one()
        two.holds = list(one.holds)
        assert (await two.renew()) == {"lost": [], "terminate": [], "overdue": [], "stop": False}
        second = await two.one()
        assert await two.settle(first, "SUCCESS", result=1)
        one.holds = [second["token"]]
        assert (await one.renew())["lost"] == []
        assert await one.settle(second, "SUCCESS", result=2)
        assert await one.settle(first, "SUCCESS", result=3), "it was settled, and it is this worker's"
        assert [await end.aget(timeout=PATIENCE) for end in (result, other)] == [1, 2]
        assert await one.receive(5) == []


async def test_a_lease_that_ends_returns_what_it_holds_but_for_what_may_run_once(
    shop: Celeriac
) -> None:
    async with entered(shop) as remote:
        again, once = add(shop), add(shop, acks_late=False)
        assert len(await remote.receive(2)) == 2
        assert (await remote.client.delete(remote.path)).status_code == 204
        other = await Remote(remote.client).enter()
        found = await other.one()
        assert (found["id"], found["deliveries"]) == (again.id, 1)
        with pytest.raises(WorkerLost):
            await once.aget(timeout=PATIENCE)


async def test_what_does_not_fit_into_one_answer_comes_in_the_next(make_app: Callable[..., Celeriac]) -> None:
    app = shop_of(make_app)
    async with served(app, batch=10_000) as client:
        remote = await client.enter()
        for number in range(3):
            add(app, "x" * 6000, number)
        sizes = []
        for _ in range(3):
            deliveries = await remote.receive(10, wait=WAIT)
            sizes += [len(deliveries)]
            for delivery in deliveries:
                assert delivery["deliveries"] == 1
                assert await remote.settle(delivery, "SUCCESS")
        assert sizes == [1, 1, 1]


async def test_a_worker_of_celeriacs_own_goes_on_with_what_a_remote_one_returned(shop: Celeriac) -> None:
    async with served(shop) as client:
        remote = await client.enter(queues=["default"], tasks=["here.*"])
        result = shop.tasks["here.note"].delay("x")
        assert await remote.settle(await remote.one(), "RETURN")
        with running_worker(shop):
            assert await asyncio.to_thread(result.get, PATIENCE) == "x"


# --- Who may ------------------------------------------------------------------------------------------


async def test_a_token_may_be_limited_to_queues(shop: Celeriac) -> None:
    async with served(shop, User("bob", frozenset({"leases:work:mail*"}))) as remote:
        await remote.enter()
        said = {"name": "bob", "queues": ["mail", "other"], "tasks": ["*"]}
        answer = await remote.client.post(f"{API}/leases", json=said)
        assert (answer.status_code, answer.json()["needed"]) == (403, "leases:work:other")
        assert (await remote.client.get(f"{API}/queues")).status_code == 403
    async with served(shop, User("eve", frozenset({"tasks:send"}))) as client:
        for what in ("receive", "renew"):  # with a lease of somebody else
            answer = await client.client.post(f"{remote.path}/{what}", json={"holds": []})
            assert (answer.status_code, answer.json()["needed"]) == (403, "leases:work")
    async with served(shop, User("zoe", frozenset({"leases:work:other"}))) as client:
        answer = await client.client.post(f"{remote.path}/receive", json={"holds": []})
        assert (answer.status_code, answer.json()["needed"]) == (403, "leases:work:mail")


async def test_a_worker_settles_nothing_of_a_queue_that_it_may_not_receive_from(shop: Celeriac) -> None:
    async with served(shop) as client:
        other = await client.enter(queues=["other"])
        add(shop, queue="other")
        found = await other.one()
        mail = await Remote(client.client).enter()
        assert not await mail.settle(found, "SUCCESS", result="mine")
        assert not await mail.settle(found["token"].replace("~other~", "~mail~"), "SUCCESS", result="mine")
        assert await other.settle(found, "SUCCESS", result="theirs")


async def test_a_worker_that_asks_too_often_can_still_renew(shop: Celeriac) -> None:
    def authenticate(request: Request) -> User:
        return ALL

    site = api(shop, authenticate=authenticate, limits=Limits(rate=0.001, burst=2))
    async with client_of(site) as client:
        remote = await Remote(client).enter()
        statuses = [(await client.post(f"{remote.path}/receive", json={"holds": []})).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert (await remote.renew())["lost"] == []
        site.stop()
        await site.finish()


@pytest.mark.parametrize("lease", ["x", "x.y", "a.b.c", "é", "0" * 7000, "0." + "A" * 500,
                                   "0." + urlsafe_b64encode(b"junk").decode()])  # fmt: skip
async def test_a_lease_that_was_not_granted_is_unknown(shop: Celeriac, lease: str) -> None:
    async with entered(shop) as remote:
        answer = await remote.client.post(f"{API}/leases/{lease}/receive", json={"holds": []})
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:celeriac:problem:unknown-lease")


async def test_tokens_that_were_not_given_are_lost_and_stale(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        remote.holds = ["", "x", "1:2~mail~x", "~~", "~~~", "1:2~mail~%00", "é~é~é"][1:]
        assert sorted((await remote.renew())["lost"]) == sorted(remote.holds)
        for token in list(remote.holds):
            assert not await remote.settle(token, "SUCCESS")


@pytest.mark.parametrize(
    ("what", "body", "pointer"),
    [
        ("receive", {}, ""),
        ("receive", {"holds": [1]}, "/holds/0"),
        ("settle", {"settlements": []}, "/settlements"),
        ("settle", {"settlements": [{"token": "x", "state": "DONE"}]}, "/settlements/0/state"),
        ("settle", {"settlements": [{"token": "x", "state": "SUCCESS", "value": 1}]}, "/settlements/0/value"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused_with_the_place(
    shop: Celeriac, what: str, body: Any, pointer: str
) -> None:
    async with entered(shop) as remote:
        answer = await remote.client.post(f"{remote.path}/{what}", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


async def test_a_queue_that_there_is_not_and_too_many_names_are_refused(shop: Celeriac) -> None:
    async with entered(shop) as remote:
        said = {"name": "x", "queues": ["mial"], "tasks": ["*"]}
        answer = await remote.client.post(f"{API}/leases", json=said)
        assert (answer.status_code, answer.json()["nearest"]) == (404, "mail")
        said = {"name": "x", "queues": ["mail"], "tasks": [f"{number * 7919**40:x}" for number in range(1, 200)]}
        answer = await remote.client.post(f"{API}/leases", json=said)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/tasks")


# --- Clients that go away -----------------------------------------------------------------------------


def request_of(path: str, body: Any) -> bytes:
    text = msgspec.json.encode(body)
    head = (f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json",
            f"Content-Length: {len(text)}")  # fmt: skip
    return "\r\n".join([*head, "", ""]).encode() + text


def test_a_client_that_goes_away_while_it_waits_takes_nothing_with_it(client: httpx.Client, running: Running) -> None:
    said = {"name": "gone", "queues": ["spare"], "tasks": ["*"]}
    gone, stays = (client.post(f"{API}/leases", json=said).json()["links"]["receive"] for _ in range(2))
    address = urlsplit(running.address)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(request_of(f"{gone}?wait=60", {"holds": []}))
        wait_for(lambda: waits(client, "gone"), "the worker being listed")
        time.sleep(0.2)  # it may or may not wait already: both must hold
    sent = client.post(f"{API}/tasks", json={"task": "shop.add", "args": [1], "options": {"queue": "spare"}}).json()
    (found,) = client.post(stays, json={"holds": []}, params={"wait": 60}).json()["deliveries"]
    assert (found["id"], found["deliveries"]) == (sent["id"], 1)
    settle = stays.replace("/receive", "/settle")
    ended = {"token": found["token"], "state": "SUCCESS", "result": 5}
    assert client.post(settle, json={"settlements": [ended]}).json()["settlements"][0]["accepted"]
    assert client.get(f"{API}/tasks/{sent['id']}", params={"wait": 60}).json()["result"] == 5
    for lease in (gone, stays):  # others count workers
        assert client.delete(lease.removesuffix("/receive")).is_success


def waits(client: httpx.Client, name: str) -> bool:
    return name in [worker["name"] for worker in client.get(f"{API}/workers").json()]


def test_the_server_stops_although_remote_workers_wait(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        process, address = served.web()
        with httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False) as client:
            said = {"name": "x", "queues": ["spare"], "tasks": ["*"]}
            lease = client.post(f"{API}/leases", json=said).json()["links"]["receive"]
            answers: list[httpx.Response] = []
            waiting = threading.Thread(
                target=lambda: answers.append(client.post(lease, json={"holds": []}, params={"wait": 60}))
            )
            waiting.start()
            wait_for(lambda: waits(client, "x"), "the worker being listed")
            begun = time.monotonic()
            process.terminate()
            assert process.wait(PATIENCE) == 0
            waiting.join()
            assert in_time(time.monotonic() - begun, 5)
            assert [answer.json() for answer in answers] in ([], [{"deliveries": [], "lost": []}])
