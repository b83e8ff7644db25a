"""HTTP tasks: tasks that are endpoints of other programs. `app.http_task` makes one.

Importing this imports no HTTP client: programs that only call such a task need none. `calling.py` runs the attempts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from celeriac.errors import ImproperlyConfigured
from celeriac.http.driver import driver
from celeriac.http.styles import STYLES
from celeriac.model.clock import Duration, seconds
from celeriac.model.webhook_signatures import parse_secret
from celeriac.tasks.task import CoroutineTask

__all__ = ["Endpoint", "HttpTask", "function_of", "make_endpoint"]

URL: Final = re.compile(r"https?://[!-~]+", re.IGNORECASE)  # more is checked where it is taken apart


class Endpoint(msgspec.Struct, frozen=True):
    """Where an HTTP task is, and how it is spoken to."""

    url: str
    method: str
    style: str
    timeout: float  # seconds, for one request and its answer
    secrets: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"<Endpoint {self.method} {self.shown}>"

    @property
    def shown(self) -> str:
        """The URL as errors and logs show it: without its query."""
        return self.url.partition("?")[0]


class HttpTask(CoroutineTask[..., Any]):
    """A task that is an endpoint of another program. Made by `app.http_task`."""

    endpoint: Endpoint


def make_endpoint(name: str, url: str, secret: str | Sequence[str] | None, timeout: Duration, style: str,
                  method: str | None) -> Endpoint:  # fmt: skip
    """Return the endpoint that the arguments of `app.http_task` mean. Raises `ImproperlyConfigured`."""
    try:
        parts = urlsplit(url) if isinstance(url, str) and URL.fullmatch(url) else None
        if parts is None or not parts.hostname or parts.fragment or parts.username or parts.port == 0:
            raise ValueError(f"its URL must be http://host/path or https://host/path, in ASCII, not {url!r}.")
        if style not in STYLES:
            raise ValueError(f"its style must be one of {', '.join(STYLES)}, not {style!r}.")
        chosen = STYLES[style].methods[0] if method is None else str(method).upper()
        if chosen not in STYLES[style].methods:
            raise ValueError(f'with style="{style}" its method is {" or ".join(STYLES[style].methods)}, '
                             f"not {method!r}.")  # fmt: skip
        limit = seconds(timeout, "timeout")
        if not limit > 0:
            raise ValueError(f"its timeout must be more than 0 seconds, not {timeout!r}.")
        given = [secret] if isinstance(secret, str) else list(secret or ())
        if given and chosen == "GET":
            raise ValueError("a signature covers the body, and GET has none. Write method=\"POST\", or no secret.")
        return Endpoint(url, chosen, style, limit, tuple(map(_parsed, given)))
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"The HTTP task {name}: {error}") from None


def _parsed(secret: str) -> bytes:
    try:
        return parse_secret(secret)
    except ValueError as error:
        raise ValueError(f"its secret must be {error}") from None


def function_of(endpoint: Endpoint, module: str, name: str) -> Callable[..., Any]:
    """Return the function of the task of an endpoint. It makes an attempt."""

    async def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await driver("calling").call(self, endpoint, args, kwargs)

    async def call_by_name(self: Any, /, **kwargs: Any) -> Any:
        return await driver("calling").call(self, endpoint, (), kwargs)

    function = call if STYLES[endpoint.style].takes_args else call_by_name
    function.__module__, function.__name__, function.__qualname__ = module, name, name
    function.__doc__ = f"{endpoint.method} {endpoint.shown}"
    return function
