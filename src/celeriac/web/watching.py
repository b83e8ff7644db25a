"""Streams of what ends, by a filter: workers are asked to tell (`model/watching.py`), and a stream is cut at a rate.

All streams of one server with the same filter share a feed: one channel, one watch that is repeated every 10 s. When
the last of them ends, so does the watch. A client that comes back with `Last-Event-ID` is first told what the history
has kept since, once workers have written it; where that is not all, it is told of the gap. An event is told at least
once: ids tell repetitions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from typing import Final, Protocol, cast
from urllib.parse import quote, unquote

from msgspec.structs import replace
from starlette.responses import Response

from celeriac.documents import attempt_document, instant
from celeriac.errors import BrokerError
from celeriac.model.filters import Filter
from celeriac.model.history import AGES, SLOT, Attempt
from celeriac.model.message import new_id
from celeriac.model.repeated_warnings import RepeatedWarnings
from celeriac.model.watching import CHANNELS, MOST_VALUES, read_told
from celeriac.ports.broker import MISSED
from celeriac.ports.history import Position, cursor_of, position_of
from celeriac.web.endpoints import Call
from celeriac.web.history import filter_of
from celeriac.web.problems import Problem
from celeriac.web.site import Site
from celeriac.web.streams import KEEP_ALIVE, RETRY, STILL_HERE, event_bytes, notice_bytes, streamed

__all__ = ["Feeds", "Hearer", "event_id", "watched"]

log = logging.getLogger("celeriac.web")

RATE: Final = 50.0  # events per second of one stream
REPEAT_SECONDS: Final = 10.0  # a watch is repeated, and …
WATCH_SECONDS: Final = 30.0  # … expires after this
DROPPED_SECONDS: Final = 1.0  # between two events that say how many were left out
LISTEN_AGAIN_SECONDS: Final = 1.0
MOST_WAITING: Final = 1000  # events of one stream whose client reads slowly
MOST_MISSED: Final = 1000  # events that a client is told that comes back
OVERLAP: Final = 1.0  # seconds: the events of several workers do not come in the order of their times
LAST: Final = "last-event-id"


async def watched(site: Site, call: Call, given: Mapping[str, str]) -> Response:
    """Answer with a stream of what ends, and has one of these names, states and roots."""
    values = {name: tuple(filter(None, (part.strip() for part in text.split(",")))) for name, text in given.items()}
    for name, some in values.items():
        if not 0 < len(some) <= MOST_VALUES:
            raise Problem("bad-query", f"{name}: 1 to {MOST_VALUES} values between commas, not {len(some):,}.",
                          parameter=name)  # fmt: skip
    states = filter_of(site, "state:" + ",".join(values["state"]), "state").states if "state" in values else ()
    chosen = Filter(tasks=values.get("task", ()), queues=values.get("queue", ()), states=states,
                    roots=values.get("root", ()))  # fmt: skip
    last = _last(call.request.headers.get(LAST, ""))
    await site.read(site.inspector.workers())  # raises before the answer begins, if the broker is away
    return streamed(site.streams, call.request, _Stream(site, chosen, last).events())


def _last(text: str) -> Position | None:
    if not text:
        return None
    try:
        at, attempt, id = text.split("/", 2)
        return position_of(f"{at}/{attempt}/{unquote(id)}")
    except ValueError:
        raise Problem("bad-request", "Last-Event-ID is not the id of an event of such a stream.") from None


def event_id(attempt: Attempt) -> str:
    """Return the id of an event: the same in all streams, and a position in the history."""
    return cursor_of(Position(attempt.done_at, quote(attempt.id, safe=""), attempt.attempt or 0))


class Hearer(Protocol):
    """What a feed tells: a stream."""

    def add(self, attempts: list[Attempt], dropped: int) -> None:
        """Take what has ended, and how many others there were."""

    def miss(self) -> None:
        """Learn that something may be missing."""


class _Stream:
    """One stream."""

    def __init__(self, site: Site, chosen: Filter, last: Position | None) -> None:
        self._site = site
        self._filter = chosen
        self._last = last
        self._waiting: deque[Attempt] = deque()
        self._dropped = 0
        self._has_gap = False
        self._has_news = asyncio.Event()
        self._left = RATE
        self._filled_at = time.monotonic()
        self._told: set[str] = set()  # those that the history had

    # --- What the feed calls --------------------------------------------------------------------------

    def add(self, attempts: list[Attempt], dropped: int) -> None:
        """Tell soon of what has ended."""
        room = max(0, MOST_WAITING - len(self._waiting))
        self._waiting += attempts[:room]
        self._dropped += dropped + max(0, len(attempts) - room)
        self._has_news.set()

    def miss(self) -> None:
        """Tell soon that something may be missing."""
        self._has_gap = True
        self._has_news.set()

    # --- The stream -----------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the bytes of events and comments."""
        yield RETRY
        try:
            feed = await self._site.feeds.join(self._filter, self)
            yield notice_bytes("watching", {"workers": feed.workers})
            if self._last is not None:
                async for event in self._missed(self._last):
                    yield event
            async for event in self._live():
                yield event
        finally:
            self._site.feeds.leave(self._filter, self)

    async def _live(self) -> AsyncIterator[bytes]:
        told_at = spoken_at = time.monotonic()
        while not self._site.stopping.is_set():
            if self._has_gap:
                self._has_gap = False
                yield notice_bytes("gap", {"since": instant(self._site.app.clock.now())})
            while self._waiting:
                attempt = self._waiting.popleft()
                if event_id(attempt) in self._told:
                    continue
                if not self._has_room():
                    self._dropped += 1
                    continue
                yield self._event(attempt)
                spoken_at = time.monotonic()
            now = time.monotonic()
            if self._dropped and now - told_at >= DROPPED_SECONDS:
                dropped, self._dropped, told_at, spoken_at = self._dropped, 0, now, now
                yield notice_bytes("dropped", {"dropped": dropped})
            if now - spoken_at >= KEEP_ALIVE:
                spoken_at = now
                yield STILL_HERE
            await self._news(DROPPED_SECONDS if self._dropped else KEEP_ALIVE)

    async def _news(self, seconds: float) -> None:
        waiting = [asyncio.ensure_future(self._has_news.wait()), asyncio.ensure_future(self._site.stopping.wait())]
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        self._has_news.clear()

    def _has_room(self) -> bool:
        now = time.monotonic()
        self._left = min(RATE, self._left + (now - self._filled_at) * RATE)
        self._filled_at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def _event(self, attempt: Attempt) -> bytes:
        return event_bytes(self._site.app, event_id(attempt), "attempt.ended", attempt.id, attempt.done_at,
                           attempt_document(attempt))  # fmt: skip

    # --- What was missed ------------------------------------------------------------------------------

    async def _missed(self, last: Position) -> AsyncIterator[bytes]:
        """Yield what the history has kept since an event, and a gap if that is not all."""
        is_written = await self._site.feeds.written()
        rows, is_all = await self._kept(last)
        if not (is_written and is_all):
            yield notice_bytes("gap", {"since": instant(last.at)})
        for row in rows:
            self._told.add(event_id(row))
            yield self._event(row)

    async def _kept(self, last: Position) -> tuple[list[Attempt], bool]:
        """Return what the history has kept since an event, the oldest first, and whether that is all there was.

        It is all if as many attempts were kept as were counted. Counts do not tell roots, so those are told apart last.
        """
        history, now = self._site.app.history, self._site.app.clock.now()
        if history is None or last.at < now - AGES[SLOT]:
            return [], False
        first = int(last.at) // SLOT * SLOT
        chosen = replace(self._filter, roots=())
        counted = await self._site.read(history.series(first, now, SLOT, chosen, ()))
        page = await self._site.read(history.search(replace(chosen, since=float(first)), MOST_MISSED))
        is_all = page.next is None and len(page.rows) >= sum(point.sums.n for point in counted)
        since = last.at - OVERLAP
        rows = [row for row in page.rows[::-1] if row.done_at >= since and self._filter.matches(row)]
        return [row for row in rows if Position(row.done_at, row.id, row.attempt or 0) != last], is_all


# --- Feeds --------------------------------------------------------------------------------------------


class Feeds:
    """The feeds of a server, by their filters."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._feeds: dict[Filter, _Feed] = {}
        self._current: asyncio.Future[bool] | None = None  # what workers have been asked to write
        self._next: asyncio.Future[bool] | None = None  # … and will be asked next

    async def join(self, chosen: Filter, stream: Hearer) -> _Feed:
        """Let a stream have what a filter means, from when this returns."""
        feed = self._feeds.get(chosen)
        if feed is None:
            feed = self._feeds[chosen] = _Feed(self._site, chosen)
        feed.streams.append(stream)
        await feed.watching.wait()
        return feed

    def leave(self, chosen: Filter, stream: Hearer) -> None:
        """End what a stream has; the feed, too, if it was the last."""
        feed = self._feeds.get(chosen)
        if feed is None or stream not in feed.streams:
            return
        feed.streams.remove(stream)
        if not feed.streams:
            del self._feeds[chosen]
            feed.stop()

    async def written(self) -> bool:
        """Have workers write into the history what has ended; return whether all of them did.

        Those who call while workers are asked share what is asked next, because that may have come too early for them.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(self._write(self._current))
        return await asyncio.shield(self._next)

    async def _write(self, before: asyncio.Future[bool] | None) -> bool:
        if before is not None:
            await asyncio.wait([before])
        self._current, self._next = self._next, None
        try:
            answers = await self._site.inspector.order("write_history")
        except BrokerError as error:
            log.warning("Cannot ask workers to write the history: %s", error)
            return False
        return not (answers.errors or answers.silent)


class _Feed:
    """What workers tell about a filter, for all streams that have it."""

    def __init__(self, site: Site, chosen: Filter) -> None:
        self.streams: list[Hearer] = []
        self.watching = asyncio.Event()  # set once workers tell
        self.workers = 0  # that have said so
        self._site = site
        self._channel = f"{CHANNELS}{new_id()}"
        self._watch = {"channel": self._channel, "rate": RATE, "tasks": chosen.tasks, "queues": chosen.queues,
                       "states": chosen.states, "roots": chosen.roots}  # fmt: skip
        self._task = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        """End it, and the watch."""
        self._task.cancel()

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._listen()
                except BrokerError as error:
                    log.warning("Cannot hear what ends: %s", error)
                except Exception:
                    log.exception("Cannot hear what ends")
                self.watching.set()  # its streams are told of the gap, and do not wait
                for stream in self.streams:
                    stream.miss()
                await asyncio.sleep(LISTEN_AGAIN_SECONDS)
        finally:
            with suppress(BrokerError):  # then it expires
                await self._site.app.control.send("watch", {**self._watch, "seconds": 0.0})

    async def _listen(self) -> None:
        broker, warnings = self._site.app.broker, RepeatedWarnings(log)
        # Listen before asking, so that nothing is missed.
        payloads = cast(AsyncGenerator[bytes, None], await broker.listen(self._channel))
        async with aclosing(payloads):
            repeating = asyncio.ensure_future(self._repeat())
            try:
                async for payload in payloads:
                    if payload is MISSED:
                        for stream in self.streams:
                            stream.miss()
                        continue
                    try:
                        told = read_told(broker.codec.open("history", payload, self._channel))
                    except ValueError as error:
                        warnings.warn("What a worker tells cannot be read, and is ignored: %s", error)
                        continue
                    for stream in self.streams:
                        stream.add(told.attempts, told.dropped)
            finally:
                repeating.cancel()
                await asyncio.gather(repeating, return_exceptions=True)

    async def _repeat(self) -> None:
        """Ask workers to tell, and ask again before that expires: workers that have started since hear it then."""
        watch = {**self._watch, "seconds": WATCH_SECONDS}
        while True:
            try:
                if self.watching.is_set():
                    await self._site.app.control.send("watch", watch)
                else:
                    self.workers = len((await self._site.inspector.order("watch", watch)).values)
                    self.watching.set()
            except BrokerError as error:
                log.warning("Cannot ask workers to tell what ends: %s", error)
                for stream in self.streams:
                    stream.miss()
                await asyncio.sleep(LISTEN_AGAIN_SECONDS)
                continue
            await asyncio.sleep(REPEAT_SECONDS)
