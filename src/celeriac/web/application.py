"""The ASGI application: routes made from the endpoints, and what happens to each request before its handler.

Host → address → user → rate → scope → query → body → handler. What any of them raises is answered as a problem.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from celeriac.app.app import Celeriac
from celeriac.web import (
    audit,
    bulk,
    compat,
    events,
    health,
    history,
    leases,
    metrics,
    queues,
    results,
    status,
    task_actions,
    task_types,
    tasks,
    workers,
    workflows,
)
from celeriac.web.bodies import JSON, NDJSON, content_type, converted, decoded, query_of, read_body, read_lines
from celeriac.web.endpoints import Call, Endpoint, json_answer
from celeriac.web.guard import SAFE, Authenticate, Guard
from celeriac.web.limits import Limits
from celeriac.web.openapi import openapi
from celeriac.web.problems import Problem, answer, problem_of
from celeriac.web.scopes import SEND, WORK, User
from celeriac.web.shapes import AnyQuery, Flow
from celeriac.web.site import API, Site
from celeriac.web.tokens import TokenFile, Tokens
from celeriac.web.watching import Feeds

__all__ = ["ENDPOINTS", "Api", "api", "token_file"]

log = logging.getLogger("celeriac.web")

ENDPOINTS: Sequence[Endpoint] = (
    *tasks.ENDPOINTS, *results.ENDPOINTS, *task_actions.ENDPOINTS, *workflows.ENDPOINTS, *task_types.ENDPOINTS,
    *history.ENDPOINTS, *bulk.ENDPOINTS, *queues.ENDPOINTS, *workers.ENDPOINTS, *leases.ENDPOINTS, *events.ENDPOINTS,
    *audit.ENDPOINTS, *status.ENDPOINTS, *health.ENDPOINTS, *metrics.ENDPOINTS, *compat.ENDPOINTS,
)  # fmt: skip
"""All endpoints. Of those that fit a path, the first answers."""

TASK = f"{API}/tasks/{{id}}"

NOBODY = User("nobody")
NO_BODY = frozenset({"", JSON})
SNIFFING = {"X-Content-Type-Options": "nosniff"}


class _TaskId(StringConvertor):
    """The id of a task in a path: callers choose ids, which may have slashes. Servers decode %2F before we see it."""

    regex = ".+"


register_url_convertor("celeriac_task_id", _TaskId())


def api(app: Celeriac, *, authenticate: Authenticate | None = None, limits: Limits | None = None) -> Api:
    """Return the HTTP API of an app, for any ASGI server, or to be mounted in any ASGI application under any prefix.

        site.mount("/celeriac", api(app))

    Tokens (`celeriac web token add`) say who may do what. `authenticate(request)` does so for users that your own
    application knows: it returns a `User` with scopes, or None. Without both, only this machine is served. `limits`
    are those of the settings, if they are left out.
    """
    rate = app.conf.web_rate
    return Api(app, authenticate, limits or Limits(rate=rate, burst=2 * rate))


def token_file(app: Celeriac) -> TokenFile:
    """Return the file with the tokens of an app."""
    return TokenFile(app.conf.web_token_file or app.beside("celeriac.tokens"))


class Api(Starlette):
    """The HTTP API of an app."""

    def __init__(self, app: Celeriac, authenticate: Authenticate | None, limits: Limits) -> None:
        self.site = Site(app, limits)
        self.guard = Guard(app, Tokens(app.conf.web_tokens, token_file(app)), authenticate, app.conf.web_allowed_hosts,
                           self.site.buckets)  # fmt: skip
        self.site.feeds = Feeds(self.site)
        self._document: dict[str, Any] | None = None
        routes = [Route(f"{API}/openapi.json", self._openapi)]
        by_path: dict[str, dict[str, Endpoint]] = {}
        for endpoint in ENDPOINTS:
            by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
        for path, found in sorted(by_path.items(), key=lambda item: item[0] == TASK):  # it fits what is below it, too
            routes.append(Route(path.replace(TASK, f"{API}/tasks/{{id:celeriac_task_id}}"), self._handler(found),
                                methods=list(found)))  # fmt: skip
        handlers: dict[Any, Any] = {HTTPException: self._refuse, Exception: self._refuse}
        super().__init__(routes=routes, exception_handlers=handlers)
        self.router.redirect_slashes = False

    async def begin(self) -> None:
        """Prepare for the first request: nothing has to be."""

    def stop(self) -> None:
        """End all streams and waits, so that the server can stop."""
        self.site.stopping.set()

    async def finish(self) -> None:
        """After `stop`, return when what was done for remote workers is complete."""
        if self.site.gateway is not None:
            await self.site.gateway.finished()

    # --- Requests -------------------------------------------------------------------------------------

    def _handler(self, endpoints: dict[str, Endpoint]) -> Any:
        async def handle(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" and "HEAD" not in endpoints else request.method
            begun, code = time.monotonic(), HTTPStatus.INTERNAL_SERVER_ERROR.value
            try:
                response = await self._handle(request, endpoints[method])
                code = response.status_code
                return response
            finally:
                seconds = time.monotonic() - begun
                self.site.requests.add(endpoints[method].path, method, code, seconds)

        return handle

    async def _handle(self, request: Request, endpoint: Endpoint) -> Response:
        try:
            call = await self._checked(request, endpoint)
            try:
                response = await endpoint.handler(self.site, call)
            except Exception as error:
                if endpoint.is_action(call) and problem_of(error).kind.status >= 500:
                    await audit.note(self.site, call, endpoint, error)
                raise
            if endpoint.is_action(call):
                await audit.note(self.site, call, endpoint)
            if (request.method not in SAFE or endpoint.scope == SEND) and endpoint.scope != WORK:  # they ask often
                log.info("%s: %s %s", call.user.name, request.method, request.url.path)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            problem = problem_of(error)
            if problem.kind.name == "internal":
                raise
            if problem.kind.status > 500:
                log.warning("%s %s: %s", request.method, request.url.path, problem.detail)
            response = answer(request, problem)
        response.headers.update(SNIFFING)
        if endpoint.path.startswith("/s/"):
            response.headers.update(status.cors(self.site, request))
        return response

    async def _checked(self, request: Request, endpoint: Endpoint) -> Call:
        """Return what a request asks for. Raises a `Problem` if it may not, or is not well formed."""
        if endpoint.scope is None:
            user = NOBODY
        else:
            user = await self.guard.user(request, unsafe=endpoint.scope == SEND)
            if not user.may(endpoint.scope):
                raise Problem("scope", f"{user.name} lacks the scope {endpoint.scope}.", needed=endpoint.scope)
        query = AnyQuery() if endpoint.query is AnyQuery else query_of(request, endpoint.query)
        data, body = await self._body(request, endpoint)
        return Call(request, user, request.path_params, query, body, data)

    async def _body(self, request: Request, endpoint: Endpoint) -> tuple[bytes, Any]:
        if endpoint.body is None:
            return b"", None
        limits = self.site.limits
        limit = limits.batch if endpoint.batch else max(limits.body, self.site.app.conf.message_max_bytes)
        kind = content_type(request)
        if isinstance(endpoint.body, str):  # the handler reads it
            return await read_body(request, limit, limits.body_seconds), None
        if endpoint.lines and kind == NDJSON:
            data = await read_body(request, limit, limits.body_seconds)
            return data, read_lines(data, limits.calls)
        data = b""
        if kind in NO_BODY and (kind or endpoint.optional):
            data = await read_body(request, limit, limits.body_seconds)
        if endpoint.optional and not data and not kind:
            return b"", endpoint.body()
        if kind != JSON:
            raise Problem("wrong-content-type", f"The body has the content type {kind!r}: send {JSON}"
                          f"{f' or {NDJSON}' if endpoint.lines else ''}.")  # fmt: skip
        if endpoint.optional and not data:
            return b"", endpoint.body()
        value = decoded(data)
        return data, value if endpoint.body is Flow else converted(value, endpoint.body)

    # --- Answers --------------------------------------------------------------------------------------

    async def _refuse(self, request: Request, error: Exception) -> Response:
        """Answer for a path or method that there is not, and for a fault of the server."""
        response = answer(request, problem_of(error))
        response.headers.update(SNIFFING)
        return response

    async def _openapi(self, request: Request) -> Response:
        if self._document is None:
            self._document = openapi(ENDPOINTS)
        prefix = request.scope.get("root_path", "").rstrip("/")
        return json_answer({**self._document, "servers": [{"url": prefix or "/"}]})
