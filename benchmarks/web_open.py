"""The dashboard while pages are open: what that costs a worker, and how page and server keep their size."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.compare import describe
from benchmarks.figures import Bar, Report, number, paired
from benchmarks.footprint import Family
from benchmarks.server import serving
from benchmarks.stage import BenchmarkError, Stage

__all__ = ["browser", "drain"]

ISSUE = 20
PAGES = 10
TASKS, FEW_TASKS = 300_000, 4_000
ROUNDS = 9
CHILDREN = 2
LONGEST = 600.0  # seconds for a drain
START_SECONDS = 120.0  # for all pages to be open
MOST_LOSS = 3.0  # %
ROWS, FEW_ROWS = 100_000, 2_000
LISTS, FEW_LISTS = 20, 2  # pages of the list
UPDATES, FEW_UPDATES = 3_000, 40
FRAME_MS = 100.0
MOST_GROWTH_MB = 2.0


def drain(stage: Stage) -> Report:
    """A worker's drain with ten pages of the dashboard open, and without."""
    count = stage.amount(TASKS, FEW_TASKS)
    report = Report("web-open", f"SQLite: {count:,} no-op tasks, {CHILDREN} children, {PAGES} open pages", issue=ISSUE)
    report.columns = ("", "tasks per s", "worker's CPU, µs per task", "web's CPU, % of a core", "fragments per s")
    contenders = stage.contenders(["celeriac_open_pages"])
    if not contenders:
        raise BenchmarkError("The dashboard needs celeriac[web].")
    found: dict[int, list[dict[str, float]]] = {0: [], PAGES: []}
    for _ in range(stage.rounds(ROUNDS)):
        for pages, rounds in found.items():
            stage.say(f"web-open: {pages} pages")
            rounds.append(_drain(stage, contenders[0].name, count, pages))
    for pages, rounds in found.items():
        middle = {name: median(one[name] for one in rounds) for name in rounds[0]}
        report.rows.append((f"{pages} pages", number(middle["rate"]), number(middle["task_us"]),
                            number(middle["web_percent"]), number(middle["fragments"])))  # fmt: skip
        report.figures[f"{pages} pages"] = {"rounds": rounds}
    cpu, rate = ([[one[name] for one in rounds] for rounds in found.values()] for name in ("task_us", "rate"))
    report.bars.append(Bar("With the pages, a task costs the worker more, median of the rounds' ratios",
                           (paired(cpu[1], cpu[0]) - 1) * 100, MOST_LOSS, "% CPU"))  # fmt: skip
    report.bars.append(Bar("With the pages, the drain loses, median of the rounds' ratios",
                           (1 - paired(rate[1], rate[0])) * 100, MOST_LOSS, "%"))  # fmt: skip
    report.notes.append("Medians. A page fetches its fragments as `live.js` does. Worker, server and pages share the "
                        "machine: its CPU tells what they cost it, the rate also that they use its cores.")  # fmt: skip
    describe(report, contenders)
    return report


def _drain(stage: Stage, name: str, count: int, pages: int) -> dict[str, float]:
    with stage.scratch() as folder:
        stage.ask(folder, name, "fill", count)
        with serving(stage, folder, name) as (port, server), \
                stage.started(folder, name, "stay", port, pages), \
                stage.watching(folder, name, count, LONGEST) as wait:  # fmt: skip
            _opened(folder, pages)
            with stage.worker(folder, name, CHILDREN) as pid:
                wait()  # for the first completion
                worker, web = Family.of(pid), Family.of(server)
                before, fetched, begun = (sum(worker.cpu().values()), sum(web.cpu().values())), _told(folder), \
                    time.perf_counter()  # fmt: skip
                result = wait()
                seconds = time.perf_counter() - begun
                used, served = (sum(family.cpu().values()) - earlier
                                for family, earlier in zip((worker, web), before, strict=True))  # fmt: skip
                fragments = _told(folder)["fetched"] - fetched["fetched"]
    if not result["count"]:
        raise BenchmarkError("All tasks were completed before the first look: use more.")
    return {"rate": result["rate"], "task_us": used / result["count"] * 1e6, "web_percent": served / seconds * 100,
            "fragments": fragments / seconds}  # fmt: skip


def _told(folder: Path) -> dict[str, int]:
    """Return what the open pages have told."""
    try:
        found: dict[str, int] = json.loads((folder / "pages.json").read_text())
    except FileNotFoundError:
        return {"open": -1, "fetched": 0}
    return found


def _opened(folder: Path, pages: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while _told(folder)["open"] != pages:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"The pages did not open:\n{(folder / 'log').read_text()[-2000:]}")
        time.sleep(0.05)


def browser(stage: Stage) -> Report:
    """Chromium: a list of 100,000 rows, and a page that is open for thousands of updates."""
    rows, updates = stage.amount(ROWS, FEW_ROWS), stage.amount(UPDATES, FEW_UPDATES)
    report = Report("web-browser", f"Chromium: a list of {rows:,} rows; {updates:,} updates of a page", issue=ISSUE)
    report.columns = ("", "at first", "at the end")
    contenders = stage.contenders(["celeriac_dashboard"])
    if not contenders:
        raise BenchmarkError("The dashboard needs celeriac[web].")
    (one,) = contenders
    with stage.scratch() as folder:
        stage.ask(folder, one.name, "seed", rows)
        with serving(stage, folder, one.name) as (port, server):
            stage.say("web-browser: a long list")
            listed = stage.ask(folder, one.name, "scroll", port, stage.amount(LISTS, FEW_LISTS))
            stage.say(f"web-browser: {updates:,} updates")
            stayed = stage.ask(folder, one.name, "update", port, server, updates)
    _tell(report, "The list: ", listed["first"], listed["last"])
    report.rows.append(("The list: longest frame while it scrolls, ms", "", number(listed["frame_ms"])))
    report.rows.append(("The list: its next page, ms (median)", "", number(listed["page_ms"])))
    _tell(report, "Open page: ", stayed["first"], stayed["last"])
    report.figures |= {"list": listed, "open": stayed}
    grown = {name: stayed["last"][name] - stayed["first"][name] for name in ("heap_mb", "server_mb")}
    report.bars.append(Bar("Longest frame while the list scrolls", listed["frame_ms"], FRAME_MS, "ms"))
    report.bars.append(Bar("An open page's memory grows by", grown["heap_mb"], MOST_GROWTH_MB, "MB"))
    report.bars.append(Bar("The server's memory grows by", grown["server_mb"], MOST_GROWTH_MB * 2, "MB"))
    report.notes.append("Memory of the page after a garbage collection. `At first` is after a quarter of the updates. "
                        "There are no pauses between updates: each fetches each fragment of the page.")  # fmt: skip
    describe(report, contenders)
    return report


def _tell(report: Report, what: str, first: dict[str, Any], last: dict[str, Any]) -> None:
    names = {"heap_mb": "JavaScript's memory, MB", "nodes": "nodes", "listeners": "listeners",
             "server_mb": "the server's memory, MB", "fetched": "fragments fetched"}  # fmt: skip
    report.rows += [(what + title, number(first[name]), number(last[name]))
                    for name, title in names.items() if name in first]  # fmt: skip
