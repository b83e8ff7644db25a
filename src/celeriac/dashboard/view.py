"""A view: one request of a page, a fragment or an action, checked. What pages are made from."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

import msgspec
from starlette.datastructures import ImmutableMultiDict, QueryParams
from starlette.requests import Request

from celeriac.ports.operations import QueueCounts
from celeriac.web.collecting import Collected
from celeriac.web.problems import Problem
from celeriac.web.scopes import User
from celeriac.web.site import Site

__all__ = ["FRAGMENT", "PAGE_SECONDS", "SESSION_SECONDS", "TURN_SECONDS", "Session", "View", "address", "local",
           "prefix_of", "segment"]  # fmt: skip

FRAGMENT: Final = "fragment"
"""The parameter that asks for one fragment of a page."""

PAGE_SECONDS: Final = 0.1
"""How long a page waits for workers that may not answer. Its fragments are fetched again, and wait longer."""

TURN_SECONDS: Final = 0.8
"""For how long open pages share what one of them has made the server read: a little less than from one look of the
pulse to the next."""

SESSION_SECONDS: Final = 12 * 3600
SAFE: Final = "/:@!$'()*,;=~"


class Session(msgspec.Struct, frozen=True):
    """A session. `token` is the name of the token that it was begun with; empty: none."""

    token: str
    until: int  # seconds since the epoch
    id: str
    is_new: bool = False  # the browser does not keep it yet

    @classmethod
    def new(cls, token: str = "", id: str = "") -> Session:
        """Return one that begins now."""
        return cls(token, int(time.time()) + SESSION_SECONDS, id or secrets.token_hex(16), is_new=True)


class View:
    """One request: who makes it, and what it asks for."""

    def __init__(self, site: Site, request: Request, user: User, session: Session, csrf: str) -> None:
        self.site = site
        self.app = site.app
        self.request = request
        self.user = user
        self.session = session
        self.csrf = csrf
        self.form: ImmutableMultiDict[str, str] = ImmutableMultiDict()  # that was posted
        self.path: Mapping[str, str] = request.path_params
        self.is_fragment = FRAGMENT in request.query_params  # an open page asks for parts of it, which it has already
        self.query = QueryParams([pair for pair in request.query_params.multi_items() if pair[0] != FRAGMENT])
        self.prefix = prefix_of(request)  # the path that the dashboard is mounted at; empty if at the root
        self.now = site.app.clock.now()
        self._collecting: asyncio.Task[Collected] | None = None

    def may(self, scope: str) -> bool:
        """Return whether the user may do what a scope allows."""
        return self.user.may(scope)

    def need(self, scope: str) -> None:
        """Raise a `Problem` if the user may not do what a scope allows."""
        if not self.may(scope):
            raise Problem("scope", f"{self.user.name} may not do this: it needs the scope {scope}.", needed=scope)

    @property
    def zone(self) -> ZoneInfo:
        """The time zone in which times are told: the app's."""
        return ZoneInfo(self.app.conf.timezone)

    @property
    def within(self) -> float | None:
        """How many seconds workers are waited for that may not answer; None: as long as whoever asks them does."""
        return None if self.is_fragment else PAGE_SECONDS

    async def collected(self) -> Collected:
        """Return what is known of the whole system."""
        if self._collecting is None:
            collector, within = self.site.collector, self.within
            asking = collector.collected() if within is None else collector.collected_soon(within)
            self._collecting = asyncio.create_task(asking)
        return await asyncio.shield(self._collecting)

    async def counts(self) -> list[QueueCounts]:
        """Count the messages of all queues: once in a turn, for all the fragments that open pages ask for in it."""
        return await self.site.counts(TURN_SECONDS if self.is_fragment else 0.0)

    @property
    def here(self) -> str:
        """The address of the page, with its query: where a form returns to."""
        return address(self._path, self.query.multi_items())

    @property
    def _path(self) -> str:
        raw = self.request.scope.get("raw_path")  # as the browser knows it
        return raw.decode("ascii", "replace") if raw else quote(self.request.scope["path"], safe=SAFE)

    def url(self, path: str, /, **query: Any) -> str:
        """Return the address of a quoted path of the dashboard. Parameters that are None or empty are left out."""
        given = [(name, value) for name, value in query.items() if value not in (None, "")]
        return address(f"{self.prefix}{path}", given)

    def with_query(self, **changed: Any) -> str:
        """Return the address of this page with these parameters changed; left out if None or empty."""
        query = {name: value for name, value in self.query.multi_items() if name not in changed}
        query |= {name: value for name, value in changed.items() if value not in (None, "")}
        return address(self._path, list(query.items()))

    def number(self, name: str, default: int, most: int) -> int:
        """Return a parameter that is a number, from 0 to `most`; the default if it is none."""
        given = self.query.get(name, "")
        return min(int(given), most) if given.isascii() and given.isdecimal() and len(given) < 12 else default

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return a parameter that is one of these; the first if it is none of them."""
        given = self.query.get(name, "")
        return given if given in choices else choices[0]


def prefix_of(request: Request) -> str:
    """Return the path that the dashboard is mounted at; empty if at the root."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def address(path: str, query: Sequence[tuple[str, Any]] = ()) -> str:
    """Return an address of a quoted path and a query."""
    return path + (f"?{urlencode(query)}" if query else "")


def segment(name: str) -> str:
    """Return a name as a part of a path.

    >>> segment("a/b?")
    'a%2Fb%3F'
    """
    return quote(name, safe="")


def local(request: Request, given: str) -> str:
    """Return an address that a client gave, if it is of the dashboard; that of its first page otherwise."""
    home = f"{prefix_of(request)}/"
    is_ours = given.startswith(home) and not given.startswith("//") and "\\" not in given and given.isprintable()
    return given if is_ours else home
