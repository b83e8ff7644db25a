"""The pulse: looks once a second at the whole system, for all open pages of this process, and tells what has changed.

It looks at what `web/collecting.py` collects, which metrics share. Workers tell failures by themselves, at once
(`web/watching.py`). With no page open nothing is looked at. A stream carries topics, never data: pages fetch the
fragments that are about them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Final, TypeAlias

import msgspec

from celeriac import states
from celeriac.dashboard.roster import roster_of
from celeriac.dashboard.trends import Trends
from celeriac.dashboard.workflow_states import look
from celeriac.documents import to_json
from celeriac.errors import BackendError, BrokerError
from celeriac.inspector.audit import AUDITED
from celeriac.model.filters import Filter
from celeriac.model.history import Attempt
from celeriac.web.bulk import bulk_action
from celeriac.web.collecting import Collected
from celeriac.web.problems import Problem
from celeriac.web.site import Site
from celeriac.web.streams import RETRY, notice_bytes

__all__ = ["MARKS", "Mark", "Pulse"]

log = logging.getLogger("celeriac.web")

LOOK_SECONDS: Final = 1.0
GATHER_SECONDS: Final = 0.15  # in which changes are gathered into one event
BEAT_SECONDS: Final = 5.0  # between events that say that the stream is alive
LATER: Final = 3.0  # after a change: what pages showed of it may have been read before
OFTEN: Final = 10.0  # rates change with time alone
MOST_FAILURES: Final = 100
FAILURES: Final = Filter(states=(states.FAILURE,))

Mark: TypeAlias = "Callable[[Site, Collected, str], Awaitable[Any]]"
"""Returns what a topic looks like now: plain data. When it differs from before, the topic has changed."""


async def _queues(site: Site, collected: Collected, _: str) -> Any:
    waited = {queue: int(seconds) for queue, seconds in collected.latencies.items()}
    return collected.queues, waited, [(one.name, one.queues) for one in (collected.workers or {}).values()]


async def _workers(site: Site, collected: Collected, _: str) -> Any:
    seen = await roster_of(site).look()
    return [(one.label, one.state, one.load, [task.id for task in one.active]) for one in seen]


async def _tasks(site: Site, collected: Collected, _: str) -> Any:
    return sum(one.sums.n for one in collected.counts.attempts) if collected.counts is not None else None


async def _failures(site: Site, collected: Collected, _: str) -> Any:
    if collected.counts is None:
        return None
    failed = sum(one.sums.n for one in collected.counts.attempts if one.state in (states.FAILURE, states.RETRY))
    return failed, collected.counts.signatures


async def _schedules(site: Site, collected: Collected, _: str) -> Any:
    return [(one.name, one.revision) for one in collected.schedules or ()]


async def _audit(site: Site, collected: Collected, _: str) -> Any:
    return [] if site.app.history is None else await site.read(site.app.history.events(AUDITED, 0.0, 1))


async def _bulk(site: Site, collected: Collected, about: str) -> Any:
    if not about:
        return [job.document() for job in site.jobs.values()]
    try:
        return await bulk_action(site, about)
    except Problem:
        return None


async def _task(site: Site, collected: Collected, id: str) -> Any:
    view = (await site.read(site.inspector.find([id])))[id]
    outcome, message = view.outcome, view.message
    known = [view.place, message and (message.attempt, message.due_at),
             outcome and (outcome.state, outcome.attempt, outcome.done_at, outcome.value)]  # fmt: skip
    if message is None or view.place == "dead":
        return known
    others = [one for one in collected.queues or () if one.queue == message.queue]
    return known, others, list(collected.workers or ()), [load.busy for load in collected.load.values()]


async def _workflow(site: Site, collected: Collected, about: str) -> Any:
    try:
        looked = await look(site, about)
    except Problem:
        return None
    return looked.counts


MARKS: Final[dict[str, Mark]] = {
    "queues": _queues,
    "workers": _workers,
    "tasks": _tasks,
    "task": _task,
    "failures": _failures,
    "schedules": _schedules,
    "audit": _audit,
    "bulk": _bulk,
    "workflow": _workflow,
}
"""All topics. One about a single thing has its name after a colon (`task:01…`), which is handed to its mark."""


class _Page:
    """An open page: the topics that it is about, and those that have changed."""

    def __init__(self, topics: Iterable[str]) -> None:
        self.topics = frozenset(topics)
        self.is_new = True  # something may have changed since it was made
        self.woken = asyncio.Event()
        self._changed: set[str] = set()

    def tell(self, topics: Iterable[str]) -> None:
        """Wake the page soon, if it is about one of them: others may change at the same time."""
        is_first = not self._changed
        self._changed |= self.topics.intersection(topics)
        if is_first and self._changed:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self.woken.set)

    def changed(self) -> list[str]:
        """Return the topics that have changed since the last call."""
        changed, self._changed = self._changed, set()
        self.woken.clear()
        return sorted(changed)


class Pulse:
    """Tells open pages what has changed."""

    def __init__(self, site: Site) -> None:
        self.failures: deque[Attempt] = deque(maxlen=MOST_FAILURES)  # the latest that workers told, oldest first
        self.trends = Trends()
        self.version = 0  # what was shown before it changed is old
        self._site = site
        self._pages: set[_Page] = set()
        self._seen: dict[str, bytes] = {}
        self._again: dict[str, float] = {}  # when pages look again at a topic that has not changed (monotonic)
        self._work: tuple[asyncio.Task[None], ...] = ()  # while there are pages

    def known(self, topic: str) -> bool:
        """Return whether there is such a topic."""
        return topic.partition(":")[0] in MARKS

    def nudge(self, *topics: str) -> None:
        """Tell pages at once that something has changed: this process did it."""
        self.version += 1
        for page in self._pages:
            page.tell(topics)

    async def events(self, topics: Iterable[str]) -> AsyncIterator[bytes]:
        """Yield the bytes of events for one page, until its client goes or the server stops."""
        page = _Page(topics)
        self._join(page)
        try:
            yield RETRY + notice_bytes("beat", {})
            async for event in self._told(page):
                yield event
        finally:
            self._leave(page)

    async def _told(self, page: _Page) -> AsyncIterator[bytes]:
        while not self._site.stopping.is_set():
            try:
                async with asyncio.timeout(BEAT_SECONDS):
                    await page.woken.wait()
            except TimeoutError:
                yield notice_bytes("beat", {})
                continue
            if changed := page.changed():
                yield notice_bytes("changed", changed)

    # --- Looking --------------------------------------------------------------------------------------

    def _join(self, page: _Page) -> None:
        self._pages.add(page)
        if not self._work:
            self._seen.clear()
            self._work = (asyncio.create_task(self._look_on()), asyncio.create_task(self._end_all()))

    def _leave(self, page: _Page) -> None:
        self._pages.discard(page)
        if not self._pages:
            for task in self._work:
                task.cancel()
            self._work = ()

    async def _end_all(self) -> None:
        """Wake all pages when the server stops, which ends them."""
        await self._site.stopping.wait()
        for page in self._pages:
            page.woken.set()

    async def _look_on(self) -> None:
        listening = asyncio.ensure_future(self._site.feeds.join(FAILURES, self))
        try:
            while True:
                new = [page for page in self._pages if page.is_new]
                try:
                    if (changed := await self._look()) or new:
                        self.nudge(*changed)
                    for page in new:
                        page.is_new = False
                        page.tell(page.topics)
                except (BrokerError, BackendError) as error:
                    log.warning("Cannot see what has changed: %s", error)
                except Exception:
                    log.exception("Cannot see what has changed")
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
            self._site.feeds.leave(FAILURES, self)

    async def _look(self) -> list[str]:
        """Return the topics that have changed since the last look, or whose pages are to look again."""
        collected = await self._site.collector.collected()
        self.trends.add(collected.now, collected.queues or ())
        topics, now = set().union(*(page.topics for page in self._pages)), time.monotonic()
        changed = [topic for topic, at in self._again.items() if now >= at and topic in topics]
        self._again = {topic: self._again.get(topic, 0.0) if topic not in changed else now + OFTEN for topic in topics}
        for topic in topics:
            name, _, about = topic.partition(":")
            try:
                found = to_json([collected.up, msgspec.to_builtins(await MARKS[name](self._site, collected, about))])
            except (BrokerError, BackendError):
                found = b""
            if self._seen.get(topic, found) != found:
                changed.append(topic)
                self._again[topic] = now + LATER
            self._seen[topic] = found
        for gone in self._seen.keys() - topics:
            del self._seen[gone]
        return changed

    # --- What workers tell: a `Hearer` ----------------------------------------------------------------

    def add(self, attempts: list[Attempt], dropped: int) -> None:
        """Take what has failed."""
        self.failures += attempts
        self.nudge("failures", "tasks")

    def miss(self) -> None:
        """Learn that something may be missing: the next look finds it."""
