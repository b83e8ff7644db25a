"""Signing in and out, and the theme: the forms that need no scope."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from celeriac.dashboard.sessions import Sessions
from celeriac.dashboard.templating import ENVIRONMENT
from celeriac.dashboard.view import Session, local, prefix_of
from celeriac.web.bodies import read_body
from celeriac.web.guard import check_same_site
from celeriac.web.problems import Problem

__all__ = ["ROUTES", "redirect", "theme_of"]

LARGEST: Final = 10_000  # bytes of a form
SECONDS: Final = 10.0
THEMES: Final = ("auto", "light", "dark")
YEAR: Final = 365 * 86_400
THEME: Final = "celeriac-theme"


def redirect(request: Request) -> Response:
    """Return the way to the page to sign in, which then leads back here."""
    back = quote(request.url.path + (f"?{request.url.query}" if request.url.query else ""), safe="/")
    return RedirectResponse(f"{prefix_of(request)}/sign-in?back={back}", 303)


def theme_of(request: Request) -> str:
    """Return the theme that was chosen in this browser."""
    found = request.cookies.get(THEME, "")
    return found if found in THEMES else THEMES[0]


async def _page(sessions: Sessions, request: Request) -> Response:
    """Show the form for a token; begin a session for a one-time link."""
    word = request.query_params.get("once")
    if word is not None:
        sessions.guard.check_host(request)
        session = sessions.begin_once(word)
        if session is not None:
            return _begun(sessions, request, session, "")
        return _form(sessions, request, "This link was used before, or has expired. Start `celeriac web --open` again, "
                     "or sign in with a token.", "")  # fmt: skip
    return _form(sessions, request, "", request.query_params.get("back", ""))


async def _sign_in(sessions: Sessions, request: Request) -> Response:
    """Begin a session for a token."""
    check_same_site(request)
    form = await _fields(request)
    try:
        session = sessions.begin(request, form.get("token", ""))
    except Problem as problem:
        if problem.kind.name != "unauthenticated":
            raise
        return _form(sessions, request, problem.detail, form.get("back", ""), 401)
    return _begun(sessions, request, session, form.get("back", ""))


async def _sign_out(sessions: Sessions, request: Request) -> Response:
    """End the session."""
    check_same_site(request)
    found = sessions.find(request)
    if found is not None:
        sessions.check(found, (await _fields(request)).get("csrf", ""))
        sessions.end(found)
    response = RedirectResponse(f"{prefix_of(request)}/sign-in", 303)
    sessions.forget(request, response)
    return response


async def _theme(sessions: Sessions, request: Request) -> Response:
    """Keep the theme that was chosen, in the browser."""
    check_same_site(request)
    form = await _fields(request)
    response = RedirectResponse(local(request, form.get("back", "")), 303)
    theme = form.get("theme", "")
    if theme in THEMES:
        response.set_cookie(THEME, theme, max_age=YEAR, path=prefix_of(request) or "/", samesite="lax")
    return response


ROUTES: Final[tuple[tuple[str, str, Any], ...]] = (
    ("GET", "/sign-in", _page),
    ("POST", "/sign-in", _sign_in),
    ("POST", "/sign-out", _sign_out),
    ("POST", "/theme", _theme),
)


def _begun(sessions: Sessions, request: Request, session: Session, back: str) -> Response:
    response = RedirectResponse(local(request, back), 303)
    sessions.keep(request, response, session)
    return response


def _form(sessions: Sessions, request: Request, fault: str, back: str, status: int = 200) -> Response:
    html = ENVIRONMENT.get_template("sign_in.html").render(
        prefix=prefix_of(request), fault=fault, back=local(request, back), theme=theme_of(request),
        is_open=sessions.guard.is_open, has_tokens=bool(sessions.guard.tokens.all()),
    )  # fmt: skip
    return HTMLResponse(html, status)


async def _fields(request: Request) -> dict[str, str]:
    data = await read_body(request, LARGEST, SECONDS)
    return dict(parse_qsl(data.decode(errors="replace")))
