"""The API in other people's ASGI applications."""

from __future__ import annotations

from collections.abc import Callable

import fastapi
import httpx

from celeriac import Celeriac
from celeriac.testing import running_worker
from celeriac.web import User, api
from tests.web.test_tasks import API, problem


async def test_it_is_mounted_in_fastapi(app: Celeriac) -> None:
    @app.task(name="shop.double")
    def double(x: int) -> int:
        return 2 * x

    site = fastapi.FastAPI()
    site.mount("/celeriac", api(app, authenticate=lambda request: User("ann", frozenset({"operator", "tasks:send"}))))
    with running_worker(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://shop.example") as client:
            answer = await client.post(f"/celeriac{API}/tasks?wait=60", json={"task": "shop.double", "args": [21]})
            assert (answer.status_code, answer.json()["result"]) == (200, 42)
            problem(await client.get("/celeriac/nothing"), 404, "not-found")
            problem(await client.post("/celeriac/compat/apply/shop.double/?y=1"), 422, "bad-arguments")


async def test_tasks_run_at_once_where_the_app_is_eager(make_app: Callable[..., Celeriac]) -> None:
    app = make_app(task_always_eager=True)

    @app.task(name="shop.double")
    def double(x: int) -> int:
        return 2 * x

    site = api(app, authenticate=lambda request: User("ann", frozenset({"admin"})))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://localhost") as client:
        answer = await client.post(f"{API}/tasks", json={"task": "shop.double", "args": [21]})
        assert (answer.status_code, answer.json()["state"], answer.json()["result"]) == (200, "SUCCESS", 42)
        chain = {"chain": [{"task": "shop.double", "args": [1]}, {"task": "shop.double"}]}
        assert (await client.post(f"{API}/workflows", json=chain)).status_code == 202


async def test_a_fault_of_the_server_is_a_problem_without_details(app: Celeriac) -> None:
    async def authenticate(request: object) -> User:
        raise RuntimeError("the password is tea")

    transport = httpx.ASGITransport(api(app, authenticate=authenticate), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get(f"{API}/queues")
        assert "tea" not in answer.text
        problem(answer, 500, "internal")
