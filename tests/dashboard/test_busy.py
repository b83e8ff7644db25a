"""The overview while 5,000 tasks end in a second, in two tabs: it stays responsive, and does not grow."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, expect

from celeriac import Celeriac
from celeriac.model.history import SLOT, Attempt, Batch, Key, Sums
from celeriac.model.message import new_id
from tests import patience
from tests.dashboard.browsing import opened
from tests.dashboard.places import Place, served_place
from tests.patience import FOR_EVER, in_time, wait_for

RATE: Final = 5000  # tasks per second
COUNT: Final = """() => {
  const begun = performance.now()
  const seen = window.seen = { changes: 0, gap: 0, fetched: 0, drawn: begun, begun }
  new MutationObserver((list) => { seen.changes += list.length })
    .observe(document, { subtree: true, childList: true, attributes: true, characterData: true })
  const frame = (now) => {
    seen.gap = Math.max(seen.gap, now - seen.drawn)
    seen.drawn = now
    requestAnimationFrame(frame)
  }
  requestAnimationFrame(frame)
  new PerformanceObserver((list) => {
    seen.fetched += list.getEntries().filter((one) => one.initiatorType === "fetch").length
  }).observe({ type: "resource" })
}"""
SEEN: Final = "() => ({ ...seen, seconds: (performance.now() - seen.begun) / 1000 })"
FORGET_GAP: Final = "() => { seen.gap = 0 }"
GAP: Final = "() => Math.max(seen.gap, performance.now() - seen.drawn) / 1000"


class Flood:
    """Writes into the history what a worker writes that ends 5,000 tasks in a second, once in a second."""

    def __init__(self, folder: Path) -> None:
        self.app = Celeriac("shop", broker_url=f"sqlite:///{folder}/celeriac.db", environ={})
        self.written = 0
        self._sums: dict[Key, Sums] = {}
        self._more = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.app.close()

    def wait(self, batches: int) -> None:
        """Return when so many more batches were written."""
        with self._more:
            until = self.written + batches
            assert self._more.wait_for(lambda: self.written >= until or not self._thread.is_alive(), FOR_EVER)
            assert self.written >= until, "the flood has stopped"

    def _run(self) -> None:
        last = self.app.clock.now()
        for second in range(60):  # the minute before
            self._add(last - second, 1.0)
        while not self._ended.is_set():
            now = self.app.clock.now()
            self._add(now, now - last)
            last = now
            failed = [self._failed(now) for _ in range(20)]
            batch = Batch(lease="flood", sums=dict(self._sums), attempts=failed)
            assert self.app.history is not None
            asyncio.run(self.app.history.record(batch, now))
            with self._more:
                self.written += 1
                self._more.notify_all()
            self._ended.wait(1.0)

    def _add(self, at: float, seconds: float) -> None:
        for state, rate in (("SUCCESS", RATE - 50), ("FAILURE", 50)):
            count = int(rate * seconds)
            error = "ValueError" if state == "FAILURE" else ""
            key = Key(SLOT, int(at) // SLOT * SLOT, "", "shop.checkout", "default", state, error, "")
            sums = self._sums.setdefault(key, Sums())
            sums.n += count
            sums.runtime.add([0.01] * count)
            sums.wait.add([0.02] * count)

    def _failed(self, now: float) -> Attempt:
        return Attempt(id=new_id(), task="shop.checkout", queue="default", state="FAILURE", attempt=1, worker="flood",
                       sent_at=now, started_at=now, done_at=now, runtime=0.01, wait=0.02, error="ValueError",
                       message="the basket is empty", traceback="", signature="f100d")  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with served_place(tmp_path, rows=60, schedules=1) as made:
        yield made


def fetched(page: Page) -> int:
    """Return how many fragments a page has fetched since it counts."""
    return int(page.evaluate(SEEN)["fetched"])


def gap(page: Page, flood: Flood) -> float:
    """Return the longest time between two pictures that a page draws in some seconds of the flood, in seconds."""
    page.evaluate(FORGET_GAP)
    flood.wait(3)
    return float(page.evaluate(GAP))


def held(page: Page) -> dict[str, float]:
    """Return how many nodes and listeners a page keeps, also those that are not seen."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    for _ in range(2):
        session.send("HeapProfiler.collectGarbage")
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return {name: found[name] for name in ("Nodes", "JSEventListeners")}


@pytest.mark.timeout(FOR_EVER)
def test_an_open_overview_is_responsive_and_does_not_grow(place: Place, browser: Browser) -> None:
    with Flood(place.folder) as flood, opened(browser) as watched:
        pages = [watched.page, watched.page.context.new_page()]
        for page in pages:
            page.goto(place.address)
            expect(page.locator("#pulse")).to_have_text("Live")
            expect(page.locator("main")).to_contain_text(re.compile(r"[2-9],\d{3}/s"))
        for page in pages:
            page.evaluate(COUNT)
        for page in pages:
            wait_for(lambda page=page: fetched(page) >= 6, "the page shows the flood")
        before = [held(page) for page in pages]
        for page in pages:
            page.evaluate(COUNT)
        pages[-1].bring_to_front()
        flood.wait(60 if patience.exact else 5)
        for page in pages:
            wait_for(lambda page=page: fetched(page) > 0, "the page follows")
        told = [page.evaluate(SEEN) for page in pages]
        # A fragment that has just come has nodes that go at once; what grows does not shrink.
        after = [
            wait_for(lambda page=page, old=old: (new := held(page))["Nodes"] < 1.3 * old["Nodes"] and new, "few nodes")
            for page, old in zip(pages, before, strict=True)
        ]
        print(told, before, after)
        for seen, old, new in zip(told, before, after, strict=True):
            assert seen["fetched"] / seen["seconds"] < 5  # four fragments each 0.9 s, two each 5 s; most in one request
            assert seen["changes"] / seen["seconds"] < 200
            assert new["JSEventListeners"] <= old["JSEventListeners"] + 2
        front = pages[-1]  # browsers draw the tab behind once in a second
        assert in_time(told[-1]["gap"] / 1000, 0.25) or not patience.exact
        # On a busy machine, Chromium itself may stand still: a page that is slow by its own fault is so all the time.
        wait_for(lambda: in_time(gap(front, flood), 0.25), "a responsive page")
