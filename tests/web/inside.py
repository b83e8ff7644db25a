"""Clients of an HTTP API in this process, without a server between them."""

from __future__ import annotations

import httpx
from starlette.requests import Request

from celeriac import Celeriac
from celeriac.web import Api, Limits, User, api
from tests.patience import PATIENCE
from tests.web.served import check_shape

__all__ = ["client_of", "site_of"]


def site_of(app: Celeriac) -> Api:
    """Return an API whose users say who they are, and what they may: `X-User: ann tasks:read dead:write`."""

    def authenticate(request: Request) -> User:
        name, *scopes = request.headers.get("x-user", "ann admin").split()
        return User(name, frozenset(scopes))

    return api(app, authenticate=authenticate, limits=Limits(rate=1e9, burst=10**9))


def client_of(site: Api, user: str = "ann admin") -> httpx.AsyncClient:
    """Return a client. It checks that answers have the form that is declared."""

    async def check(response: httpx.Response) -> None:
        await response.aread()
        check_shape(response)

    transport = httpx.ASGITransport(site)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost/api/v1", headers={"X-User": user},
                             timeout=PATIENCE, event_hooks={"response": [check]})  # fmt: skip
