"""The form of streams of server-sent events: bytes of events and comments, and the answer that carries them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from celeriac.app.app import Celeriac
from celeriac.documents import instant, to_json
from celeriac.web.limits import Streams
from celeriac.web.problems import Problem, answer

__all__ = ["KEEP_ALIVE", "RETRY", "STILL_HERE", "event_bytes", "notice_bytes", "streamed"]

KEEP_ALIVE: Final = 15.0  # seconds between comments that keep proxies from closing the stream
RETRY: Final = b"retry: 2000\n\n"
STILL_HERE: Final = b": still here\n\n"
HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def streamed(streams: Streams, request: Request, events: AsyncIterator[bytes]) -> Response:
    """Return the answer that carries a stream, or tells that too many are open when it begins."""
    return _Streamed(streams, request, events)


class _Streamed(StreamingResponse):
    def __init__(self, streams: Streams, request: Request, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, HTTPStatus.OK, HEADERS, "text/event-stream")
        self._streams = streams
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._streams.begin()
        except Problem as problem:
            await answer(self._request, problem)(scope, receive, send)
            return
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.end()


def event_bytes(app: Celeriac, id: str, name: str, subject: str, at: float, data: Any) -> bytes:
    """Return an event as bytes. Its data is a CloudEvents document."""
    event = {
        "specversion": "1.0",
        "id": id,
        "source": f"/celeriac/{app.main or ''}",
        "type": f"celeriac.{name}",
        "subject": subject,
        "time": instant(at),
        "datacontenttype": "application/json",
        "data": data,
    }
    return f"id: {id}\nevent: {name}\ndata: ".encode() + to_json(event) + b"\n\n"


def notice_bytes(name: str, data: Any) -> bytes:
    """Return an event about the stream itself: it has no id, so that a client resumes from the one before."""
    return f"event: {name}\ndata: ".encode() + to_json(data) + b"\n\n"
