"""The guard: who may make a request.

- Tokens (`web_tokens`, `web_token_file`) come as `Authorization: Bearer`. An `authenticate` of the caller's own comes
  first, and knows the sessions of its application.
- With neither, everybody is an administrator, and only this machine is served: the client's address and the Host header
  must be loopback ones, and no proxy may have passed the request on. The Host header gives away a page that points a
  name of its own at 127.0.0.1 (DNS rebinding).
- A browser adds cookies, and reaches 127.0.0.1, for pages of anybody. So a request that changes something without a
  bearer token must not come from a page of another site (CSRF).
"""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from celeriac.app.app import Celeriac
from celeriac.web.limits import Buckets
from celeriac.web.problems import Problem
from celeriac.web.scopes import ALL, User
from celeriac.web.tokens import Tokens

__all__ = ["SAFE", "Authenticate", "Guard", "check_same_site", "is_loopback"]

Authenticate = Callable[[Request], "User | Awaitable[User | None] | None"]
"""Returns who makes a request, or None. It may be a coroutine function."""

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="celeriac"'}


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: an address such as 127.0.0.1, or `localhost`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Finds out who makes a request, and refuses it if nobody may."""

    def __init__(self, app: Celeriac, tokens: Tokens, authenticate: Authenticate | None, hosts: Sequence[str],
                 buckets: Buckets) -> None:  # fmt: skip
        self._app = app
        self.tokens = tokens
        self._authenticate = authenticate
        self._hosts = frozenset(host.lower() for host in hosts)
        self._buckets = buckets

    @property
    def is_open(self) -> bool:
        """Whether there is nothing to tell users by, so that only this machine is served."""
        return self._authenticate is None and not self.tokens.are_used

    def check_host(self, request: Request) -> None:
        """Refuse a request for a host that is not served. Raises a `Problem`."""
        if not self._hosts and not self.is_open:
            return
        host = _host(request)
        if host not in self._hosts and host not in LOCAL:
            raise Problem("forbidden", f"The host {host!r} is not served. Name it in `web_allowed_hosts` (or with "
                          "`celeriac web --allow-host`).")  # fmt: skip

    async def user(self, request: Request, unsafe: bool) -> User:
        """Return who makes a request. Raises a `Problem`."""
        self.check_host(request)
        user = await self._find(request, unsafe or request.method not in SAFE)
        name, lease = user.name, request.path_params.get("lease")
        if lease is not None:  # each worker has buckets of its own: one that settles much can still renew
            name = f"{name} {lease[:40]} {request.url.path.rpartition('/')[2][:10]}"
        self._buckets.take(name)
        return user

    async def _find(self, request: Request, unsafe: bool) -> User:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._authenticate is None and not self.is_open:
            user = self.tokens.user(token.strip(), self._app.clock.now())
            if user is None:
                raise Problem("unauthenticated", "The token is unknown, or has expired. `celeriac web token add` makes "
                              "one.", headers={"WWW-Authenticate": 'Bearer realm="celeriac", error="invalid_token"'},
                              )  # fmt: skip
            return user
        if self.is_open:
            self._check_local(request)
            found: User | None = User("local", frozenset({ALL}))
        else:
            found = await self._ask(request)
            if found is None and scheme.lower() == "bearer":
                found = self.tokens.user(token.strip(), self._app.clock.now())
                if found is not None:
                    return found
        if found is None:
            raise Problem("unauthenticated", "Send a token: Authorization: Bearer clr_…. `celeriac web token add` "
                          "makes one.", headers=CHALLENGE)  # fmt: skip
        by_header = scheme.lower() == "bearer" and "cookie" not in request.headers and not self.is_open
        if unsafe and not by_header:
            check_same_site(request)
        return found

    async def _ask(self, request: Request) -> User | None:
        if self._authenticate is None:
            return None
        found = self._authenticate(request)
        return await found if inspect.isawaitable(found) else found

    def _check_local(self, request: Request) -> None:
        client = request.client.host if request.client is not None else ""
        passed_on = next((name for name in FORWARDED if name in request.headers), None)
        if not is_loopback(client) or passed_on is not None:
            raise Problem("unauthenticated", "There are no tokens, so only requests from this machine are served. "
                          "`celeriac web token add` makes a token.", headers=CHALLENGE)  # fmt: skip


def _host(request: Request) -> str:
    """Return the host that the client asked for, without its port."""
    given = request.headers.get("host", "")
    try:
        return (urlsplit(f"//{given}").hostname or "").lower()
    except ValueError:
        return given


def check_same_site(request: Request) -> None:
    """Refuse what a browser sends for a page of another site. Raises a `Problem`."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        allowed = site in ("same-origin", "none")
    elif origin is not None:
        allowed = urlsplit(origin).netloc == request.headers.get("host", "")
    else:  # not a browser of today; one of yesterday would send its cookies
        allowed = "cookie" not in request.headers
    if not allowed:
        raise Problem("forbidden", "A page of another site must not do this: send a token as Authorization: Bearer.")
