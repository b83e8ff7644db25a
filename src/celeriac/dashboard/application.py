"""The ASGI application: routes made from the pages, and what happens to each request before its page.

Host → user → scope → page or form. What any of them raises is shown as a page that says what to do. What is no page is
handed to the HTTP API (`celeriac.web`), which lies under the same prefix.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

from markupsafe import Markup
from starlette.applications import Starlette
from starlette.datastructures import ImmutableMultiDict
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Match, Route

from celeriac.app.app import Celeriac
from celeriac.dashboard import audit as audit_pages
from celeriac.dashboard import (
    bulk,
    dead,
    failures,
    overview,
    queues,
    schedule_form,
    schedules,
    signing_in,
    task,
    task_actions,
    tasks,
    workers,
    workflows,
)
from celeriac.dashboard.assets import asset_named
from celeriac.dashboard.figures import figures_of
from celeriac.dashboard.fragments import Fragments, topics_of
from celeriac.dashboard.pages import Action, Done, Page
from celeriac.dashboard.pulse import Pulse
from celeriac.dashboard.sessions import Sessions
from celeriac.dashboard.templating import compile_all, render
from celeriac.dashboard.view import FRAGMENT, Session, View, local, prefix_of
from celeriac.errors import CeleriacError
from celeriac.web import Limits, api, audit
from celeriac.web.bodies import content_type, read_body
from celeriac.web.guard import Authenticate, Guard, check_same_site
from celeriac.web.problems import Problem, problem_of
from celeriac.web.scopes import User
from celeriac.web.site import API
from celeriac.web.streams import streamed

__all__ = ["MODULES", "Dashboard", "dashboard"]

log = logging.getLogger("celeriac.web")

MODULES: Final = (
    overview,
    tasks,
    task,
    task_actions,
    queues,
    workers,
    failures,
    dead,
    schedule_form,
    schedules,
    workflows,
    audit_pages,
    bulk,
)
"""The modules of pages, each with its `PAGES`."""

PAGES: Final[Sequence[Page]] = tuple(page for module in MODULES for page in module.PAGES)
ACTIONS: Final[Sequence[Action]] = tuple(action for module in MODULES for action in module.PAGES.actions)
NAVIGATION: Final = sorted((page for page in PAGES if page.entry is not None), key=lambda page: page.entry or ())

FORM: Final = "application/x-www-form-urlencoded"
OWN_FIELDS: Final = ("csrf", "back")  # of every form
MOST_FIELDS: Final = 5_000


def _scopes_by_topic() -> dict[str, set[frozenset[str]]]:
    """Return by topic the sets of scopes of which a user needs one to see something about it."""
    found: dict[str, set[frozenset[str]]] = {}
    for page in PAGES:
        for fragment in page.fragments.values():
            for topic in fragment.topics:
                needed = frozenset({page.scope, fragment.scope or page.scope})
                found.setdefault(topic.partition(":")[0], set()).add(needed)
    return found


SCOPES: Final = _scopes_by_topic()
BEGIN_SECONDS: Final = 2.0
MOST_TOPICS: Final = 20
NOBODY: Final = User("nobody")
FOR_EVER: Final = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-store",
}


def dashboard(app: Celeriac, *, authenticate: Authenticate | None = None, limits: Limits | None = None) -> Dashboard:
    """Return the dashboard of an app, for any ASGI server, or to be mounted in any ASGI application under any prefix.

        site.mount("/celeriac", dashboard(app))

    It has the HTTP API under its own paths, and `authenticate` and `limits` are those of `celeriac.web.api`. Users
    whom `authenticate` does not know sign in with a token (`celeriac web token add`).
    """
    return Dashboard(app, authenticate, limits)


class Dashboard:
    """The dashboard of an app, with its HTTP API."""

    def __init__(self, app: Celeriac, authenticate: Authenticate | None, limits: Limits | None) -> None:
        self.api = api(app, authenticate=authenticate, limits=limits)
        self.site = self.api.site
        self.pulse = self.site.pulse = Pulse(self.site)
        self.sessions = Sessions(app, self.guard, self.site.buckets)
        self._beginning: asyncio.Future[Any] | None = None  # may go on while there are requests
        self._fragments = Fragments(self.pulse)
        routes = [
            Route("/assets/{name}", self._asset),
            Route("/live", self._live),
            *(Route(path, self._entrance(handler), methods=[method]) for method, path, handler in signing_in.ROUTES),
            *(Route(action.path, self._acting(action), methods=["POST"]) for action in ACTIONS),
            *(Route(page.path, self._showing(page)) for page in PAGES),
        ]
        self._pages = Starlette(routes=routes)
        self._pages.router.redirect_slashes = False
        self._pages.router.default = self._other

    @property
    def guard(self) -> Guard:
        """Who may make requests."""
        return self.api.guard

    async def begin(self) -> None:
        """Compile the templates, open the adapters, and read what the first page shows, before somebody waits for it.

        What takes longer than `BEGIN_SECONDS` goes on, and pages that need it wait for it. What fails is told by them.
        """
        compile_all()
        reading: list[Awaitable[Any]] = [self.site.collector.collected_soon(0.0)]
        if (figures := figures_of(self.site)) is not None:
            reading.append(figures.period(overview.SHORT))
        self._beginning = asyncio.gather(*reading, return_exceptions=True)
        await asyncio.wait([self._beginning], timeout=BEGIN_SECONDS)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request."""
        await self._pages(scope, receive, send)

    def stop(self) -> None:
        """End all streams and waits, so that the server can stop."""
        self.api.stop()

    async def finish(self) -> None:
        """After `stop`, return when what was done for remote workers is complete."""
        await self.api.finish()

    def link(self, address: str) -> str:
        """Return a link that begins a session of an administrator, once, at the address where this is served."""
        return f"{address}/sign-in?once={self.sessions.once()}"

    # --- Requests -------------------------------------------------------------------------------------

    async def _other(self, scope: Any, receive: Any, send: Any) -> None:
        """Hand a request to the API, or say that there is no such page."""
        if scope["type"] != "http":
            await self.api(scope, receive, send)
            return
        request = Request(scope, receive)
        path = scope["path"].removeprefix(prefix_of(request))
        if path.startswith(API) or any(route.matches(scope)[0] is not Match.NONE for route in self.api.routes):
            await self.api(scope, receive, send)
        elif "text/html" not in request.headers.get("accept", "") and path:
            await self.api(scope, receive, send)  # a program, which is told in its form
        elif not path:
            await RedirectResponse(f"{prefix_of(request)}/", 308)(scope, receive, send)
        else:
            response = await self._guarded(request, self._nothing)
            await response(scope, receive, send)

    async def _nothing(self, request: Request) -> Response:
        raise Problem("not-found", "There is no page at this address. The navigation leads to all pages.")

    def _showing(self, page: Page) -> Any:
        async def show(request: Request) -> Response:
            return await self._guarded(request, lambda request: self._show(request, page))

        return show

    def _acting(self, action: Action) -> Any:
        async def act(request: Request) -> Response:
            return await self._guarded(request, lambda request: self._act(request, action))

        return act

    def _entrance(self, handler: Any) -> Any:
        async def enter(request: Request) -> Response:
            return await self._guarded(request, lambda request: handler(self.sessions, request))

        return enter

    async def _guarded(self, request: Request, handle: Any) -> Response:
        """Return a response with the headers that all have; what was raised as a page."""
        try:
            response: Response = await handle(request)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            problem = problem_of(error)
            if problem.kind.name == "internal":
                log.exception("%s %s", request.method, request.url.path)
            response = await self._refuse(request, problem)
        response.headers.update(HEADERS)
        return response

    async def _refuse(self, request: Request, problem: Problem) -> Response:
        """Return the page that tells of a problem; the page to sign in, if that solves it."""
        if problem.kind.name == "unauthenticated":
            by_script = FRAGMENT in request.query_params or request.url.path.endswith("/live")
            if not by_script and request.method in ("GET", "HEAD") and self.guard.tokens.all():
                return signing_in.redirect(request)
        try:
            view = await self._view(request)
        except Exception as error:  # noqa: BLE001 - what was wrong at first is what is told
            log.debug("No user is known for a page of errors: %s", error)
            view = View(self.site, request, NOBODY, Session.new(), "")
        if FRAGMENT in request.query_params:
            html = render("fault.html", view, problem=problem)
        else:
            html = self._page(view, "error.html", problem.kind.title, "", problem=problem)
        return HTMLResponse(html, problem.kind.status, problem.headers)

    async def _view(self, request: Request) -> View:
        user, session = await self.sessions.user(request)
        return View(self.site, request, user, session, self.sessions.csrf(session))

    def _page(self, view: View, template: str, title: str, under: str, **context: Any) -> Markup:
        entries = [page for page in NAVIGATION if view.may(page.scope)]
        return render(template, view, navigation=entries, title=title, under=under,
                      said=self.sessions.said(view.request), theme=signing_in.theme_of(view.request),
                      is_open=self.guard.is_open, app_name=self.site.app.main or "celeriac",
                      **{"topics": (), **context})  # fmt: skip

    def _kept(self, view: View, response: Response) -> Response:
        """Let the browser keep the session, if it is new."""
        if view.session.is_new:
            self.sessions.keep(view.request, response, view.session)
        return response

    # --- Pages ----------------------------------------------------------------------------------------

    async def _show(self, request: Request, page: Page) -> Response:
        view = await self._view(request)
        view.need(page.scope)
        if wanted := request.query_params.getlist(FRAGMENT):
            return self._kept(view, HTMLResponse(await self._fragments.changed(view, page, wanted)))
        context = await page.show(view)
        fragments = await self._fragments.all(view, page)
        topics = sorted({topic for name, one in page.fragments.items() if fragments[name]
                         for topic in topics_of(one, view)})  # fmt: skip
        html = self._page(view, page.template, **{"title": page.title, "under": page.under, "page": page, **context,
                                                  "fragments": fragments, "topics": topics})  # fmt: skip
        response = self._kept(view, HTMLResponse(html))
        if self.sessions.said(request) is not None:
            self.sessions.unsay(request, response)
        return response

    # --- Actions --------------------------------------------------------------------------------------

    async def _act(self, request: Request, action: Action) -> Response:
        check_same_site(request)
        if content_type(request) != FORM:
            raise Problem("wrong-content-type", f"Send the form as {FORM}.")
        view = await self._view(request)
        data = await read_body(request, self.site.limits.body, self.site.limits.body_seconds)
        view.form = form = _form_of(data)
        back = local(request, form.get("back", ""))
        try:
            self.sessions.check(view.session, form.get("csrf", ""))
            view.need(action.scope)
            done = await self._do(view, action)
        except (CeleriacError, Problem) as error:
            done = Done(problem_of(error).detail, kind="fault")
        self.site.changed()
        self.pulse.nudge()
        response = self._kept(view, RedirectResponse(done.to or back, 303))
        self.sessions.say(request, response, done.kind, done.message)
        return response

    async def _do(self, view: View, action: Action) -> Done:
        """Do it, and write it down."""
        fields: dict[str, list[str]] = {}
        for field, value in view.form.multi_items():
            if field not in OWN_FIELDS:
                fields.setdefault(field, []).append(value)
        body = {field: values if len(values) > 1 else values[0] for field, values in fields.items()}
        about = next(iter(view.path.values()), "")
        name = f"POST {action.path}"
        try:
            done = await action.act(view)
        except Exception as error:
            if action.audit and problem_of(error).kind.status >= 500:
                await audit.write(self.site, view.user.name, action.summary, name, about, body, error)
            raise
        done = Done(done) if isinstance(done, str) else done
        if done.kind != "fault":  # otherwise nothing was done
            if action.audit:
                await audit.write(self.site, view.user.name, action.summary, name, about, body)
            log.info("%s: %s %s", view.user.name, name, about)
        return done

    # --- Assets and streams ---------------------------------------------------------------------------

    async def _asset(self, request: Request) -> Response:
        asset = asset_named(request.path_params["name"])
        if asset is None:
            return Response("There is no such file.", 404)
        return Response(asset.body, headers=FOR_EVER, media_type=asset.kind)

    async def _live(self, request: Request) -> Response:
        return await self._guarded(request, self._stream)

    async def _stream(self, request: Request) -> Response:
        user, _ = await self.sessions.user(request)
        if request.method == "HEAD":
            return Response(status_code=204)
        topics = request.query_params.getlist("topic")[:MOST_TOPICS]
        for topic in topics:
            if not self.pulse.known(topic):
                raise Problem("bad-query", f"There is no topic {topic!r}.", parameter="topic")
            if not any(all(map(user.may, scopes)) for scopes in SCOPES[topic.partition(":")[0]]):
                raise Problem("scope", f"{user.name} may see no page that is about {topic!r}.")
        return streamed(self.site.streams, request, self.pulse.events(topics))


def _form_of(data: bytes) -> ImmutableMultiDict[str, str]:
    try:
        fields = parse_qsl(data.decode(errors="replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Problem("bad-request", f"The form has more than {MOST_FIELDS:,} fields.") from None
    return ImmutableMultiDict(fields)
