"""The OpenAPI document: it is valid, it names every address, and the server does what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import hypothesis
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from celeriac import Celeriac
from celeriac.testing import running_worker
from celeriac.web import Limits, User, api
from celeriac.web.application import ENDPOINTS
from tests.web.test_tasks import API

EXAMPLES = 5  # requests for each address, which take some 15 seconds in all


@pytest.fixture
def shop(make_app: Callable[..., Celeriac]) -> Iterator[Celeriac]:
    app = make_app("shop", task_queues=["mail"], web_secret="s" * 32)

    @app.task(name="shop.add")
    def add(x: int, y: int = 2) -> int:
        """Add numbers."""
        return x + y

    with running_worker(app):
        yield app


TOKEN = {"Authorization": "Bearer the-token"}
ANN = User("ann", frozenset({"admin"}))


def site(app: Celeriac) -> Starlette:
    def authenticate(request: Request) -> User | None:
        return ANN if request.headers.get("authorization") == TOKEN["Authorization"] else None

    return api(app, authenticate=authenticate, limits=Limits(rate=1e9, burst=10**9))


async def test_the_document_names_every_address_under_its_prefix(shop: Celeriac) -> None:
    mounted = Starlette(routes=[Mount("/inner/celeriac", site(shop))])
    transport = httpx.ASGITransport(mounted)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=TOKEN) as client:
        document = (await client.get(f"/inner/celeriac{API}/openapi.json")).json()
        assert document["servers"] == [{"url": "/inner/celeriac"}]
        sent = await client.post(f"/inner/celeriac{API}/tasks", json={"task": "shop.add", "args": [1]})
        assert sent.headers["location"].startswith(f"/inner/celeriac{API}/tasks/")
        assert (await client.get(sent.headers["location"], params={"wait": 60})).json()["result"] == 3
        assert (await client.get(sent.json()["links"]["result"])).json() == 3
    described = {(method.upper(), path) for path, found in document["paths"].items() for method in found}
    assert described == {(endpoint.method, endpoint.path.replace(":path", "")) for endpoint in ENDPOINTS}
    assert document["openapi"] == "3.1.0"
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    ids = [operation["operationId"] for found in document["paths"].values() for operation in found.values()]
    assert len(ids) == len(set(ids))


def test_the_server_does_what_the_document_says(shop: Celeriac) -> None:
    """schemathesis makes requests from the document, and checks each answer against it."""
    found = schemathesis.openapi.from_asgi(f"{API}/openapi.json", site(shop))
    found = found.exclude(path=f"{API}/events").exclude(path_regex="/compat/api/task/apply")
    called: set[str] = set()

    for result in found.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
                             suppress_health_check=list(HealthCheck), phases=[Phase.generate])  # fmt: skip
        @hypothesis.given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            called.add(case.operation.label)
            for name in {"wait", "timeout"} & {*(case.query or {})}:
                case.query[name] = min(0.1, case.query[name]) if isinstance(case.query[name], float) else 0
            # Not whether all that fits the schema is accepted: the arguments of a task have types of their own.
            case.call_and_validate(headers=TOKEN, excluded_checks=[positive_data_acceptance])

        check()
    assert len(called) == len(ENDPOINTS) - 2
