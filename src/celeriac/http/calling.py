"""An attempt of an HTTP task: one request, and questions for the end where the endpoint works on.

    arguments ─ styles.py ─► request ─ exchange.py ─► answer ─ answers.py ─► value, error, retry, or "ask later"

The function of an HTTP task (`task.py`) calls this in a coroutine child. The URL stands in the app's code: neither the
arguments of a call nor an answer can lead a request to another host.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import httpx2

from celeriac.errors import RemoteError
from celeriac.http.answers import Accepted, Answer, Failed, Returned, meaning
from celeriac.http.exchange import USER_AGENT, NoAnswer, exchange, shared_client
from celeriac.http.styles import STYLES, Call
from celeriac.http.task import Endpoint
from celeriac.model.message import new_id
from celeriac.model.webhook_signatures import header_id, signed_headers

__all__ = ["call"]

TRACE: Final = {
    "traceparent": re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
    "tracestate": re.compile(r"[ -~]{1,512}"),
}
"""Headers of a call that are also HTTP headers (W3C Trace Context), and the values that are passed on."""

PAUSES: Final = (1.0, 30.0)  # seconds between two questions: the first, and the longest of ours
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 600.0  # seconds; of an endpoint's choice
UNANSWERED: Final = 5  # questions in a row without an answer, after which the attempt has failed


async def call(task: Any, endpoint: Endpoint, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Make an attempt; return the value. Raises `RemoteError`, or what ends the attempt with a retry."""
    return await _Attempt(task, endpoint).run(args, kwargs)


class _Attempt:
    def __init__(self, task: Any, endpoint: Endpoint) -> None:
        self._task = task
        self._request = task.request
        self._endpoint = endpoint
        self._style = STYLES[endpoint.style]
        self._url = httpx2.URL(endpoint.url)
        self._id: str = self._request.id or new_id()  # a function that is called directly has none
        self._largest: int = task.app.conf.result_max_bytes

    async def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        request = self._request
        limit = request.time_limit
        deadline = None if limit is None or request.called_directly else request.started + limit
        sent = self._style.write(self._endpoint.method, Call(self._id, self._task.name, args, kwargs, request.attempt,
                                                             deadline, request.headers))  # fmt: skip
        url = self._url.copy_with(query=_joined(self._url.query, sent.query)) if sent.query else self._url
        headers = {} if sent.content_type is None else {"Content-Type": sent.content_type}
        found = await self._ask(self._endpoint.method, url, headers, sent.body)
        if isinstance(found, Accepted):
            found = await self._follow(found)
        if isinstance(found, Failed):
            self._fail(found)
        return found.value

    async def _follow(self, accepted: Accepted) -> Returned | Failed:
        """Ask for the end until it is there. Reports the progress meanwhile."""
        pause, unanswered, shown = PAUSES[0], 0, None
        place = self._place(accepted, None)
        found: Returned | Failed | Accepted = accepted
        while True:
            if isinstance(found, Accepted):
                unanswered = 0
                place = self._place(found, place)
                if found.progress is not None and found.progress != shown:
                    shown = found.progress
                    self._task.update_state("PROGRESS", shown)
            elif isinstance(found, Failed) and found.retry and not found.told and unanswered + 1 < UNANSWERED:
                unanswered += 1  # a task that runs for hours survives a restart of its server
            else:
                return found
            wanted = found.pause if isinstance(found, Accepted) else found.at_least or None
            await asyncio.sleep(pause if wanted is None else min(max(wanted, SHORTEST_PAUSE), LONGEST_PAUSE))
            pause = min(pause * 2, PAUSES[1])
            found = await self._ask("GET", place, {}, b"")

    def _place(self, accepted: Accepted, before: httpx2.URL | None) -> httpx2.URL:
        """Return where the end is asked for: a path of the same host."""
        if accepted.location is None:
            if before is None:
                raise RemoteError("InvalidResponse", f"{self._what('')} was answered 202 without Location: there is no "
                                  "place to ask for the end.")  # fmt: skip
            return before
        try:
            place = self._url.join(accepted.location)
        except httpx2.InvalidURL:
            place = None
        if place is None or _origin(place) != _origin(self._url) or place.userinfo != self._url.userinfo:
            raise RemoteError("InvalidResponse", f"{self._what('')} was answered 202 with a Location on another host: "
                              "the end is asked for at the task's own host alone.")  # fmt: skip
        return place

    async def _ask(self, method: str, url: httpx2.URL, headers: dict[str, str],
                   body: bytes) -> Returned | Failed | Accepted:  # fmt: skip
        what = self._what(method)
        try:
            answer = await self._exchange(method, url, {**headers, **self._headers(body)}, body)
        except NoAnswer as error:
            return Failed(RemoteError(error.kind, f"{what}: {error}."), retry=error.passing)
        return meaning(self._style, answer, what, self._task.app.clock.now())

    async def _exchange(self, method: str, url: httpx2.URL, headers: dict[str, str], body: bytes) -> Answer:
        client = shared_client()
        request = client.build_request(method, url, headers=headers, content=body or None)
        return await exchange(lambda made: client.send(made, stream=True), request, self._endpoint.timeout,
                              self._largest)  # fmt: skip

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "identity",
                   "Idempotency-Key": f'"{header_id(self._id)}"'}  # fmt: skip
        for name, form in TRACE.items():
            value = self._request.headers.get(name)
            if isinstance(value, str) and form.fullmatch(value):
                headers[name] = value
        if self._endpoint.secrets:
            headers |= signed_headers(self._id, self._task.app.clock.now(), body, self._endpoint.secrets)
        return headers

    def _what(self, method: str) -> str:
        return f"{self._task.name}: {method or self._endpoint.method} {self._endpoint.shown}"

    def _fail(self, failed: Failed) -> NoReturn:
        """End the attempt: with its error, or with a retry if one is left."""
        if not failed.retry:
            raise failed.error
        delay = failed.delay
        if delay is None and not self._request.called_directly:
            policy = self._task.retry_policy(self._request.message)
            delay = max(failed.at_least, policy.delay_after(self._request.attempt))
        retry: NoReturn = self._task.retry(exc=failed.error, countdown=delay)
        raise retry  # it was raised there


def _joined(query: bytes, more: str) -> bytes:
    return b"&".join(part for part in (query, more.encode()) if part)


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
