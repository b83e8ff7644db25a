"""Following tasks by server-sent events: each change of some tasks, until all have ended; or all that end and are so.

The data of an event is a CloudEvents document. A stream of some tasks by their ids stands on the result backend: the
end of each is told exactly once, as soon as it is known; a stream that is opened again begins with what has ended
meanwhile. Reports of progress are read at intervals, so that of several in a row the last is told; for more than `FEW`
tasks not at all. A stream by a filter stands on what workers tell (`watching.py`), and is cut at a rate.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from starlette.responses import Response

from celeriac.documents import view_document
from celeriac.inspector import TaskView
from celeriac.model.message import new_id
from celeriac.model.outcome import Outcome
from celeriac.web.endpoints import Call, Endpoints
from celeriac.web.problems import Problem
from celeriac.web.results import split_ids
from celeriac.web.shapes import EventsQuery
from celeriac.web.site import Site
from celeriac.web.streams import KEEP_ALIVE, RETRY, STILL_HERE, event_bytes, streamed
from celeriac.web.watching import watched

__all__ = ["ENDPOINTS"]

ENDPOINTS = Endpoints()
PAUSES: Final = (0.5, 2.0)  # seconds between two looks for progress
FEW: Final = 100


@ENDPOINTS.add("GET", "/events", "events:read", {200: "text/event-stream"}, query=EventsQuery, problems=("too-many",))
async def _events(site: Site, call: Call) -> Response:
    """Follow tasks by their `ids` until all have ended; or follow what ends, of a task, queue, state or root."""
    query: EventsQuery = call.query
    given = [name for name in ("task", "queue", "state", "root") if getattr(query, name) is not None]
    if (query.ids is None) is not bool(given):
        raise Problem("bad-query", "Give either ids, or some of task, queue, state and root; task=* means all tasks.",
                      parameter="ids")  # fmt: skip
    if query.ids is None:
        return await watched(site, call, {name: getattr(query, name) for name in given})
    ids = split_ids(site, query.ids)
    await site.read(site.inspector.find(ids[:1]))  # raises before the answer begins, if results cannot be read
    stream = _Stream(site, ids, call.may("results:traceback"))
    return streamed(site.streams, call.request, stream.events())


class _Stream:
    """One stream."""

    def __init__(self, site: Site, ids: list[str], traceback: bool) -> None:
        self._site = site
        self._pending = dict.fromkeys(ids)
        self._shown: dict[str, Outcome] = {}
        self._traceback = traceback

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the bytes of events and comments."""
        yield RETRY
        backend, pause, silent = self._site.app.backend, PAUSES[0], 0.0
        watches = len(self._pending) <= FEW
        for event in self._news(await backend.afetch(list(self._pending))):
            yield event
        while self._pending and not self._site.stopping.is_set():
            wait = pause if watches else KEEP_ALIVE
            found = await self._ended(wait)
            if not found and watches:
                found = await backend.afetch(list(self._pending))
            events = self._news(found)
            for event in events:
                yield event
            silent = 0.0 if events else silent + wait
            if silent >= KEEP_ALIVE:
                silent = 0.0
                yield STILL_HERE
            pause = PAUSES[0] if events else min(PAUSES[1], pause * 2)
        if not self._pending:
            yield b"event: end\ndata: {}\n\n"

    async def _ended(self, wait: float) -> dict[str, Outcome]:
        """Return final outcomes as soon as there is one; nothing after `wait` seconds, or if the server stops."""
        waiting = asyncio.ensure_future(self._site.app.backend.afetch(list(self._pending), wait))
        stopping = asyncio.ensure_future(self._site.stopping.wait())
        try:
            await asyncio.wait((waiting, stopping), return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else {}
        finally:
            for task in (waiting, stopping):
                task.cancel()
            await asyncio.gather(waiting, stopping, return_exceptions=True)

    def _news(self, found: dict[str, Outcome]) -> list[bytes]:
        events = []
        for id, outcome in found.items():
            if id not in self._pending or outcome == self._shown.get(id):
                continue
            self._shown[id] = outcome
            if outcome.ready:
                del self._pending[id], self._shown[id]
            events.append(self._event("task.ended" if outcome.ready else "task.changed", outcome))
        return events

    def _event(self, name: str, outcome: Outcome) -> bytes:
        app = self._site.app
        data = view_document(TaskView(outcome.id, outcome=outcome), app, self._traceback)
        return event_bytes(app, new_id(), name, outcome.id, outcome.done_at or app.clock.now(), data)
