"""Serves the metrics of one worker over HTTP, for Prometheus: `celeriac worker --metrics 127.0.0.1:9540`.

It answers `GET /metrics` in the supervisor's event loop, where it only copies what was counted. The text is made in a
thread, once for all who ask at the same
time, and given again for some time, so that scrapes take at most a twentieth of one core.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from celeriac.__about__ import VERSION
from celeriac.app.app import Celeriac
from celeriac.errors import ImproperlyConfigured
from celeriac.metrics.counts import Attempts, Errors, add_attempts, add_counters
from celeriac.metrics.exposition import Text, text_of
from celeriac.metrics.samples import Samples
from celeriac.metrics.table import METRICS, by_name
from celeriac.model.history import Sums
from celeriac.ports.complete import in_thread
from celeriac.ports.history import Counted
from celeriac.worker.pools.pool import Pool
from celeriac.worker.receiver import Receiver
from celeriac.worker.settler import Settler
from celeriac.worker.statistics import Kind

__all__ = ["Measured", "Measurement", "MetricsServer", "measure"]

SHARE: Final = 20  # making the text takes at most one part in so many of the time
FRESH_SECONDS: Final = 1.0
REQUEST_SECONDS: Final = 5.0  # for a request to arrive, and for the answer to be taken
REQUEST_BYTES: Final = 8_192
CONNECTIONS: Final = 20  # at a time; further ones are closed
FORMATS: Final = 8  # that are remembered


class Measured(Protocol):
    """What is measured. Implemented by the supervisor."""

    app: Celeriac
    name: str
    pool: Pool
    receiver: Receiver
    settler: Settler


class Measurement(NamedTuple):
    """What a worker has counted. Nothing of it changes with the worker."""

    name: str
    tasks: set[str]
    queues: list[str]
    attempts: list[tuple[Kind, Sums]]
    counters: Mapping[Counted, int]
    capacity: Mapping[str, int]
    busy: Mapping[str, int]


class _Made(NamedTuple):
    text: Text
    until: float  # monotonic


class MetricsServer:
    """Answers scrapes."""

    def __init__(self, worker: Measured) -> None:
        self._worker = worker
        self._errors = Errors()
        self._made: dict[str, _Made] = {}  # by what the client accepts
        self._making = asyncio.Lock()
        self._connections = 0
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> str:
        """Listen; return the address. Raises `ImproperlyConfigured` if it is taken."""
        try:
            self._server = await asyncio.start_server(self._connected, host, port, limit=REQUEST_BYTES)
        except OSError as error:
            raise ImproperlyConfigured(f"Cannot listen on {host}:{port} for --metrics: {error.strerror or error}. "
                                       "Choose another port, or 0 for any.") from error  # fmt: skip
        found: socket.socket = self._server.sockets[0]
        host, port, *_ = found.getsockname()
        return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS:
                async with asyncio.timeout(REQUEST_SECONDS):
                    writer.write(await self._answer((await reader.readuntil(b"\r\n\r\n")).decode("latin-1")))
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # it did not send a request, or did not take the answer
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, request: str) -> bytes:
        """Return the answer to a request."""
        first, *lines = request.split("\r\n")
        method, _, rest = first.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if path != "/metrics":
            return _response("404 Not Found", b"The metrics are at /metrics.\n", method=method)
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", b"Send GET.\n", method=method)
        body, kind = await self._text(headers.get("accept", ""))
        return _response("200 OK", body, kind, method)

    async def _text(self, accept: str) -> Text:
        async with self._making:
            made = self._made.get(accept)
            if made is None or time.monotonic() >= made.until:
                begun = time.monotonic()
                text = await in_thread(_written, measure(self._worker), self._errors, accept)
                now = time.monotonic()
                if len(self._made) >= FORMATS:
                    self._made.clear()
                made = self._made[accept] = _Made(text, now + max(FRESH_SECONDS, (now - begun) * SHARE))
            return made.text


def measure(worker: Measured) -> Measurement:
    """Return what a worker has counted since it started: copies, and quickly."""
    recorder, app = worker.settler.recorder, worker.app
    return Measurement(
        worker.name, {*app.tasks, *app.builtin_tasks}, [*worker.receiver.queues], recorder.statistics.ever(),
        recorder.counters.ever, worker.pool.capacity(), worker.pool.busy(),
    )  # fmt: skip


def _written(found: Measurement, errors: Errors, accept: str) -> Text:
    samples, name = Samples(by_name([metric for metric in METRICS if metric.by_worker])), found.name
    add_attempts(samples, [Attempts(*kind, sums) for kind, sums in found.attempts], found.tasks, errors)
    add_counters(samples, found.counters, found.tasks, found.queues)
    samples.set("celeriac_worker_up", 1, name)
    samples.set("celeriac_worker_info", 1, name, socket.gethostname(), VERSION)
    for lane, slots in found.capacity.items():
        samples.set("celeriac_worker_slots", slots, name, lane)
    for lane, busy in found.busy.items():
        samples.set("celeriac_worker_slots_busy", busy, name, lane)
    return text_of(samples, accept)


def _response(status: str, body: bytes, kind: str = "text/plain; charset=utf-8", method: str = "GET") -> bytes:
    head = (f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n")  # fmt: skip
    return head.encode("latin-1") + (b"" if method == "HEAD" else body)
