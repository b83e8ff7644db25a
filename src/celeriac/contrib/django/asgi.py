"""The HTTP API under Django's ASGI application, for the users of Django's sessions.

    application = with_api(get_asgi_application(), "/celeriac")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import aget_user
from django.db import close_old_connections
from django.http import HttpRequest
from starlette.requests import Request
from starlette.routing import Mount, Router

from celeriac.app.app import Celeriac
from celeriac.tasks.current_app import current_app
from celeriac.web import User, api

__all__ = ["scopes_of", "with_api"]


def scopes_of(user: Any) -> Iterable[str]:
    """Return what a user of Django may do with the API: superusers everything, staff look, others nothing."""
    if user.is_active and user.is_superuser:
        return ["admin"]
    if user.is_active and user.is_staff:
        return ["viewer"]
    return []


def with_api(application: Any, prefix: str = "/celeriac", *, app: Celeriac | None = None,
             scopes: Callable[[Any], Iterable[str]] = scopes_of, site: Callable[..., Any] = api) -> Router:  # fmt: skip
    """Return an ASGI application that answers below a prefix with Celeriac's HTTP API, and elsewhere with Django.

    `site` makes what is there, as `celeriac.web.api` does: called with the app, and with `authenticate`.

    Users are those of Django's sessions, and may do what `scopes(user)` says, in scopes or roles; without any, they
    are as good as unknown. Tokens of `celeriac web token add` work too.
    """

    async def authenticate(request: Request) -> User | None:
        key = request.cookies.get(settings.SESSION_COOKIE_NAME)
        if key is None:
            return None
        asked = HttpRequest()
        asked.session = import_module(settings.SESSION_ENGINE).SessionStore(key)
        try:
            user = await aget_user(asked)
            held = frozenset(await sync_to_async(scopes)(user)) if user.is_authenticated else frozenset()
        finally:
            await sync_to_async(close_old_connections)()
        return User(user.get_username(), held) if held else None

    mounted: Any = site(app or current_app(), authenticate=authenticate)
    return Router([Mount(prefix.rstrip("/"), app=mounted)], default=application)
