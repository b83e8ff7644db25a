"""The three jobs of the demonstration: `Index`, `Crawl` and `Kill`.

Each sends tasks and collects their outcomes. `story.py` runs them concurrently in one event loop; `report.py` prints
what they found.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from celeriac import AsyncResult, group, states
from celeriac.demo.processes import DemoError
from celeriac.demo.show import Bar
from celeriac.demo.site import START
from celeriac.demo.tasks import FileIndex, Page, Pairs, app, fetch_page, index_file, pair_words
from celeriac.model.outcome import Outcome

__all__ = ["Crawl", "Index", "Job", "Kill"]

GATHER_SECONDS = 0.03  # pause between two fetches, so that results arrive in batches
POLL_SECONDS = 0.02
KILL_AT = 0.25  # the fraction of the task's work after which its child is killed
LONG = 600.0  # seconds; longer than the time limit in `story.py`


class Job:
    """Tasks that were sent, and their outcomes."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.sent = 0
        self.sent_at = 0.0
        self.outcomes: list[Outcome] = []
        self.children: set[int] = set()
        self.redelivered = 0

    @property
    def lost(self) -> int:
        """How many tasks have no outcome."""
        return self.sent - len(self.outcomes)

    @property
    def retried(self) -> int:
        """The number of retries."""
        return sum(outcome.attempt - 1 for outcome in self.outcomes)

    def count(self, state: str) -> int:
        """Return how many tasks ended in a state."""
        return sum(outcome.state == state for outcome in self.outcomes)

    def failures(self, kind: str) -> int:
        """Return how many tasks failed with an exception of this class."""
        return sum(outcome.failure is not None and outcome.failure.type == kind for outcome in self.outcomes)

    def _begin(self, number: int) -> None:
        self.sent += number
        self.sent_at = self.sent_at or time.time()

    def _take(self, outcome: Outcome | None, value: FileIndex | Pairs | Page | None) -> None:
        if outcome is not None:
            self.outcomes.append(outcome)
        if value is not None:
            self.children.add(value.pid)
            self.redelivered += value.delivery > 1


class Index(Job):
    """An index of the standard library: one plain task per file; results are merged as they arrive."""

    def __init__(self, bar: Bar) -> None:
        super().__init__(index_file.name)
        self.half_way = asyncio.Event()
        self.lines = 0
        self.definitions = 0
        self.words: Counter[str] = Counter()
        self._bar = bar

    async def run(self, paths: Sequence[Path]) -> None:
        """Index the files."""
        self._begin(len(paths))
        self._bar.update(0, len(paths))
        results = await group(index_file.s(str(path)) for path in paths).adelay()
        async for result in results.aas_completed():
            found = result.get() if result.successful() else None
            self._take(result.outcome, found)
            if found is not None:
                self.lines += found.lines
                self.definitions += found.definitions
                self.words.update(found.words)
            self._bar.update(len(self.outcomes))
            if len(self.outcomes) * 2 >= len(paths):
                self.half_way.set()
        self.half_way.set()


class Crawl(Job):
    """A crawl of the site: one coroutine task per page; each new link of a page starts another."""

    def __init__(self, bar: Bar, base: str) -> None:
        super().__init__(fetch_page.name)
        self.seen: set[str] = set()
        self._bar = bar
        self._base = base
        self._waiting: dict[str, AsyncResult[Page]] = {}

    async def run(self) -> None:
        """Fetch all pages that can be reached by links."""
        await self._follow([START])
        async for outcome, page in self._arrivals():
            self._take(outcome, page)
            if page is not None:
                await self._follow(page.links)
            self._bar.update(len(self.outcomes), self.sent)

    async def _follow(self, links: Sequence[str]) -> None:
        new = [link for link in dict.fromkeys(links) if link not in self.seen]
        self.seen.update(new)
        if new:
            self._begin(len(new))
            results = await fetch_page.adelay_many([(self._base + link,) for link in new])
            self._waiting.update({result.id: result for result in results})

    async def _arrivals(self) -> AsyncIterator[tuple[Outcome, Page | None]]:
        """Yield outcomes until no task is pending; more tasks may be sent in the meantime."""
        while self._waiting:
            ended = await app.backend.afetch(list(self._waiting), wait=LONG)
            for key, outcome in ended.items():
                result = self._waiting.pop(key)
                yield outcome, await result.aget() if outcome.state == states.SUCCESS else None
            await asyncio.sleep(GATHER_SECONDS)


class Kill(Job):
    """A long plain task whose child is killed while it runs, and which must be run again automatically."""

    def __init__(self, bar: Bar) -> None:
        super().__init__(pair_words.name)
        self.victim = 0  # the pid of the killed child
        self.killed_at = 0.0
        self.killed_after = ""  # the task's progress at that time
        self.back_after = 0.0  # seconds from the kill until the task was seen running again
        self.pairs: Pairs | None = None
        self._bar = bar

    async def run(self, paths: Sequence[Path], half_way: asyncio.Event) -> None:
        """Wait until the index is half-way, send the task, kill its child, and wait for the result."""
        await half_way.wait()
        self._begin(1)
        result = await pair_words.aapply_async(([str(path) for path in paths],), priority=9)
        while not result.ready():
            self._observe(result.info)
            await asyncio.sleep(POLL_SECONDS)
        outcome = result.outcome
        if result.successful():
            self.pairs = await result.aget()
            self._seen_running(self.pairs.pid)
        self._take(outcome, self.pairs)
        self._bar.update(len(paths))
        if not self.victim:
            raise DemoError("The task ended before its child could be killed. Run the demonstration again.")

    def _observe(self, progress: Any) -> None:
        """Handle a progress report of the task: kill its child once the task has done enough work."""
        if not isinstance(progress, dict) or "pid" not in progress:
            return
        self._bar.update(int(progress["done"]), int(progress["total"]))
        self._seen_running(progress["pid"])
        if not self.victim and progress["done"] >= progress["total"] * KILL_AT:
            self.victim = progress["pid"]
            self.killed_at = time.time()
            self.killed_after = f"{progress['done']} of {progress['total']} files"
            os.kill(self.victim, signal.SIGKILL)
            self._bar.say(f"Killed child {self.victim} on purpose, when its task had done {self.killed_after}.")

    def _seen_running(self, pid: int) -> None:
        if self.victim and pid != self.victim and not self.back_after:
            self.back_after = time.time() - self.killed_at
            self._bar.say(f"Child {pid} has started the task again, {self.back_after:.2f} s later.")
