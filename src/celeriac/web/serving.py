"""Serves the HTTP API, with the dashboard or alone, by uvicorn. `celeriac web` calls `serve`."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from celeriac.errors import ImproperlyConfigured
from celeriac.web.guard import Guard, is_loopback

__all__ = ["Served", "serve"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
HEADER_SECONDS: Final = 15.0  # within which a request must have arrived, but for its body
STOP_SECONDS: Final = 5  # for requests that are being handled when the server is stopped
CONNECTIONS: Final = 1000


class Served(Protocol):
    """What is served: an ASGI application that can be stopped."""

    @property
    def guard(self) -> Guard:
        """Who may make requests."""

    async def begin(self) -> None:
        """Prepare for the first request, in bounded time."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request."""

    def stop(self) -> None:
        """End all streams and waits."""

    async def finish(self) -> None:
        """Return when what was done for others is complete."""


def serve(site: Served, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve an application until the process is told to stop. `ready` is called with the address, once it is served.

    Raises `ImproperlyConfigured` if others than this machine could use it without a token, or if the address is taken.
    """
    if site.guard.is_open and not is_loopback(host):
        raise ImproperlyConfigured(
            f"{host} can be reached from other machines, and there are no tokens: anybody could send tasks and stop "
            "workers. Make a token (`celeriac web token add NAME --scope …`), or leave --host out."
        )
    listening = _bound(host, port)
    config = uvicorn.Config(
        site, http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=STOP_SECONDS, proxy_headers=False,
    )  # fmt: skip
    with listening:
        asyncio.run(_Server(config, site, lambda: ready(_address(listening))).serve([listening]))


class _Server(uvicorn.Server):
    """Prepares before it listens, and ends streams and waits before it waits for them."""

    def __init__(self, config: uvicorn.Config, site: Served, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._site = site
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at signals. (uvicorn would end the process with them, once it has stopped.)"""
        before = {number: signal.signal(number, self.handle_exit) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._site.begin()
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._site.stop()
        await super().shutdown(sockets)
        await self._site.finish()


class _Protocol(H11Protocol):
    """Closes a connection on which no request arrives in time. (uvicorn limits only the time between two requests.)"""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._is_waiting():
            self._unwatch()
        elif self._timer is None:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self._late)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self._is_waiting() and not self.transport.is_closing():
            self.transport.close()

    def _is_waiting(self) -> bool:
        """Return whether the headers of a request have not arrived yet."""
        return self.conn.their_state is h11.IDLE


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM,
                                                                flags=socket.AI_PASSIVE)[0]  # fmt: skip
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except BaseException:
            found.close()
            raise
    except OSError as error:
        raise ImproperlyConfigured(f"Cannot listen on {host}:{port}: {error.strerror or error}. Choose another --port, "
                                   "or 0 for any.") from error  # fmt: skip
    return found


def _address(listening: socket.socket) -> str:
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
