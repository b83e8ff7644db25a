"""Endpoints: what an address needs, takes and gives. Routes and the OpenAPI document are made from them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from celeriac.documents import to_json
from celeriac.web.bodies import JSON
from celeriac.web.guard import SAFE
from celeriac.web.scopes import SEND, WORK, User
from celeriac.web.shapes import Nothing
from celeriac.web.site import API, Site

__all__ = ["Call", "Endpoint", "Endpoints", "Handler", "json_answer", "link"]


class Call(NamedTuple):
    """One request, checked: who makes it, and what it says."""

    request: Request
    user: User
    path: Mapping[str, str]
    query: Any
    body: Any
    data: bytes = b""  # the body as it came

    def may(self, scope: str) -> bool:
        """Return whether the user may do what a scope allows."""
        return self.user.may(scope)


Handler = Callable[[Site, Call], Awaitable[Response]]
Function = TypeVar("Function", bound=Handler)


class Endpoint(NamedTuple):
    """An address and a method."""

    method: str
    path: str
    handler: Handler
    scope: str | None  # None: for everyone
    summary: str
    query: type
    body: Any  # a Struct, or None
    lines: bool  # whether the body may be lines of JSON
    batch: bool  # whether the larger limit holds
    optional: bool  # whether the body may be left out
    answers: Mapping[int, Any]  # by status: a type, or the name of a media type
    problems: Sequence[str]
    audit: Callable[[Call], bool]  # whether a request is written down as an operator's action

    def is_action(self, call: Call) -> bool:
        """Return whether a request is an action of an operator."""
        return self.method not in SAFE and self.scope not in (None, SEND, WORK) and self.audit(call)


class Endpoints(list[Endpoint]):
    """The endpoints of a module."""

    def add(self, method: str, path: str, scope: str | None, answers: Mapping[int, Any], *, query: type = Nothing,
            body: Any = None, lines: bool = False, batch: bool = False, optional: bool = False,
            problems: Sequence[str] = (), under: str = API,
            audit: Callable[[Call], bool] = lambda call: True) -> Callable[[Function], Function]:  # fmt: skip
        """Return a decorator that makes a function the handler of an address.

        What changes something is audited, but for sending and running tasks, and where `audit` says no.
        """

        def decorate(function: Function) -> Function:
            summary = (function.__doc__ or "").partition("\n")[0].removesuffix(".")
            self.append(Endpoint(method, under + path, function, scope, summary, query, body, lines, batch, optional,
                                 answers, problems, audit))  # fmt: skip
            return function

        return decorate


def json_answer(document: Any, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    """Return a document as an answer."""
    return Response(to_json(document), status, {"Cache-Control": "no-store", **(headers or {})}, JSON)


def link(request: Request, path: str) -> str:
    """Return the address of a path of the site, under the prefix that the site is mounted at."""
    return f"{request.scope.get('root_path', '').rstrip('/')}{path}"
