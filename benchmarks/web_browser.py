"""Chromium before the dashboard: what its pages cost a browser. Called by `benchmarks.driver`; needs Playwright."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]
from playwright.sync_api import CDPSession

from tests.dashboard.browsing import chromium

__all__ = ["scroll", "update"]

MB = 1e6
STEP = 10  # updates between two looks
COUNTED = ("JSHeapUsedSize", "Nodes", "JSEventListeners")
SCROLL = """async () => {
  let longest = 0, last = performance.now(), frames = 0
  const height = document.documentElement.scrollHeight
  while (frames++ < 60) {
    window.scrollTo(0, height * (1 - Math.abs(1 - frames / 30)))
    const now = await new Promise(requestAnimationFrame)
    longest = Math.max(longest, now - last)
    last = now
  }
  return longest
}"""
# A stream that this program speaks for, timers that are over at once, and a count of the fragments that were fetched.
INSTEAD = """
window.streams = []
window.fetched = 0
window.later = window.setTimeout
window.EventSource = class extends EventTarget {
  static OPEN = 1
  static CLOSED = 2
  constructor() { super(); this.readyState = 1; window.streams.push(this) }
  close() { this.readyState = 2 }
}
window.setTimeout = (work, time, ...more) => window.later(work, Math.min(time ?? 0, 1), ...more)
const get = window.fetch
window.fetch = async (...given) => {
  const asked = new URL(given[0], location).searchParams.getAll("fragment").length
  const response = await get(...given)
  const read = response.text.bind(response)
  response.text = async () => {
    const text = await read()
    window.later(() => { window.fetched += asked }, 2)
    return text
  }
  return response
}
"""
UPDATE = """async (times) => {
  const fragments = [...document.querySelectorAll("[data-topics]")].filter((one) => one.dataset.topics)
  const data = JSON.stringify([...new Set(fragments.flatMap((one) => one.dataset.topics.split(" ")))])
  for (let time = 0; time < times; time++) {
    const wanted = window.fetched + fragments.length
    window.streams.at(-1).dispatchEvent(new MessageEvent("changed", { data }))
    while (window.fetched < wanted) await new Promise((go) => window.later(go, 1))
    await new Promise((go) => window.later(go, 4))
  }
  return fragments.length
}"""


def scroll(port: int, pages: int) -> dict[str, Any]:
    """Scroll through so many pages of the list of tasks, one after the other."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"http://127.0.0.1:{port}/tasks")
        session = page.context.new_cdp_session(page)
        first, frames, times = _measured(session), list[float](), list[float]()
        for _ in range(pages):
            frames.append(page.evaluate(SCROLL))
            older = page.get_by_role("link", name="Older")
            if not older.count():
                break
            begun = time.perf_counter()
            older.first.click()
            page.wait_for_load_state()
            times.append((time.perf_counter() - begun) * 1e3)
        last = _measured(session)
    return {"first": first, "last": last, "frame_ms": median(frames), "frames": frames,
            "page_ms": median(times), "slowest_ms": max(times)}  # fmt: skip


def update(port: int, pid: int, updates: int, work: Callable[[], None]) -> dict[str, Any]:
    """Let the overview be updated so often, while `work` changes what it shows."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.add_init_script(INSTEAD)
        page.goto(f"http://127.0.0.1:{port}/")
        session, server = page.context.new_cdp_session(page), psutil.Process(pid)

        def look() -> dict[str, float]:
            memory = server.memory_info().rss / MB
            return {**_measured(session), "server_mb": memory, "fetched": page.evaluate("window.fetched")}

        first: dict[str, float] = {}
        looks = []
        for done in range(0, updates, STEP):
            work()
            fragments = page.evaluate(UPDATE, STEP)
            if not first and done >= updates // 4:
                first = look()
            if first and done % (updates // 6) < STEP:
                looks.append(look())
        last = look()
    return {"first": first, "last": last, "looks": looks, "fragments": fragments}


def _measured(session: CDPSession) -> dict[str, float]:
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    heap, nodes, listeners = (found[name] for name in COUNTED)
    return {"heap_mb": heap / MB, "nodes": nodes, "listeners": listeners}
