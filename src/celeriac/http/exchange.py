"""One request and its answer, within a time and a size. `calling.py` and `delivery.py` call this.

HTTP tasks share a pool of connections in each event loop. It is made by the first request, so after the fork, and
closed when the loop ends: coroutine children, `asyncio.run` and the thread pool cancel what is left on their loops.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

import httpx2

from celeriac.__about__ import VERSION
from celeriac.http.answers import Answer

__all__ = ["USER_AGENT", "NoAnswer", "Send", "exchange", "shared_client", "tls"]

USER_AGENT: Final = f"celeriac/{VERSION}"
ANSWERS: Final = (200, 202)  # whose bodies count
EXCERPT: Final = 4096  # bytes of another's
IDLE: Final = 100  # connections that are kept open; a coroutine child runs as many tasks at a time
IDLE_SECONDS: Final = 5.0  # for which; common servers close theirs then

Send = Callable[[httpx2.Request], Awaitable[httpx2.Response]]


class NoAnswer(Exception):
    """There was no answer, or none that can be taken. `passing`: a repetition may help."""

    def __init__(self, kind: str, why: str, passing: bool = True) -> None:
        super().__init__(why)
        self.kind = kind
        self.passing = passing


async def exchange(send: Send, request: httpx2.Request, timeout: float, largest: int | None) -> Answer:
    """Return the answer to a request. Raises `NoAnswer`.

    All of it takes at most `timeout` seconds, however slowly it comes. A body of more than `largest` bytes is refused;
    with None it is not read. It is not decompressed, since a small one may become a large one. Of an error's body only
    the beginning is read.
    """
    token = _is_ours.set(True)
    try:
        async with asyncio.timeout(timeout):
            response = await send(request)
            try:
                body = b"" if largest is None else await _body(response, largest)
            finally:
                await response.aclose()
    except TimeoutError:
        raise NoAnswer("Timeout", f"there was no answer within {timeout:g} s") from None
    except (httpx2.TransportError, httpx2.StreamError, OSError) as error:
        raise NoAnswer(type(error).__name__, str(error) or "the connection failed") from error
    finally:
        _is_ours.reset(token)
    return Answer(response.status_code, _headers(response.headers), body)


async def _body(response: httpx2.Response, largest: int) -> bytes:
    is_plain = response.headers.get("content-encoding", "identity").lower() == "identity"
    if response.status_code not in ANSWERS:
        return (await _read(response, EXCERPT))[:EXCERPT] if is_plain else b""
    if not is_plain:
        raise NoAnswer("InvalidResponse", "the answer is compressed, although that was not asked for", passing=False)
    body = b"" if int(_declared(response.headers)) > largest else await _read(response, largest)
    if max(len(body), int(_declared(response.headers))) > largest:
        raise NoAnswer("ResponseTooLarge", f"the answer has more than {largest:,} bytes", passing=False)
    return body


async def _read(response: httpx2.Response, enough: int) -> bytes:
    """Return the body, or its beginning: somewhat more than `enough` bytes."""
    parts, size = [], 0
    async for part in response.aiter_raw():
        parts.append(part)
        size += len(part)
        if size > enough:
            break
    return b"".join(parts)


def _declared(headers: Mapping[str, str]) -> str:
    length = headers.get("content-length", "")
    return length[:18] if length.isascii() and length.isdecimal() else "0"


def _headers(headers: httpx2.Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@cache
def tls() -> ssl.SSLContext:
    """Return the context for TLS, made once in a process: it reads all certificates."""
    return httpx2.create_ssl_context()


# --- The log ------------------------------------------------------------------------------------------

_is_ours: ContextVar[bool] = ContextVar("celeriac_http", default=False)


def _is_not_ours(record: logging.LogRecord) -> bool:
    return not _is_ours.get()


# The client logs each URL, and the query of one may have arguments. What a task's own code sends is logged as before.
logging.getLogger("httpx2").addFilter(_is_not_ours)


# --- The pool of a loop -------------------------------------------------------------------------------


class _Kept(NamedTuple):
    client: httpx2.AsyncClient
    keeper: asyncio.Task[None]  # which closes it; nothing else holds it


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, _Kept] = WeakKeyDictionary()


def shared_client() -> httpx2.AsyncClient:
    """Return the client of the running loop. It keeps no cookies and follows no redirects."""
    loop = asyncio.get_running_loop()
    kept = _clients.get(loop)
    if kept is None:
        client = httpx2.AsyncClient(
            verify=tls(),
            timeout=None,  # `exchange` has one for the whole
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=IDLE, keepalive_expiry=IDLE_SECONDS),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            follow_redirects=False,
        )
        kept = _clients[loop] = _Kept(client, loop.create_task(_keep(loop, client)))
    return kept.client


async def _keep(loop: asyncio.AbstractEventLoop, client: httpx2.AsyncClient) -> None:
    """Close a client when its loop ends, which cancels this."""
    try:
        await loop.create_future()
    finally:
        _clients.pop(loop, None)
        await client.aclose()
