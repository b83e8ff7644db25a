"""The dashboard with much data: how long each page takes."""

from __future__ import annotations

from benchmarks.compare import describe
from benchmarks.figures import Bar, Report, number
from benchmarks.server import serving
from benchmarks.stage import BenchmarkError, Stage

__all__ = ["pages"]

ISSUE = 20
ROWS, FEW = 1_000_000, 5_000
TIMES = 3
LATEST_MS = 300.0


def pages(stage: Stage) -> Report:
    """Milliseconds of each page of the dashboard with 1,000,000 messages and 1,000,000 attempts."""
    rows = stage.amount(ROWS, FEW)
    report = Report("web-pages", f"Pages of the dashboard, with {rows:,} messages and {rows:,} attempts", issue=ISSUE)
    report.columns = ("page", "least ms", "most ms")
    contenders = stage.contenders(["celeriac_dashboard"])
    if not contenders:
        raise BenchmarkError("The dashboard needs celeriac[web].")
    (one,) = contenders
    with stage.scratch() as folder:
        stage.say(f"web-pages: {rows:,} rows")
        stage.ask(folder, one.name, "seed", rows)
        with serving(stage, folder, one.name) as port:
            found = stage.ask(folder, one.name, "pages", port, TIMES)["pages"]
    for path, seconds in found.items():
        report.rows.append((path, number(min(seconds) * 1e3), number(max(seconds) * 1e3)))
        report.figures[path] = {"ms": [second * 1e3 for second in seconds]}
    slowest = max(found, key=lambda path: max(found[path]))
    report.bars.append(Bar(f"The slowest page, {slowest}", max(found[slowest]) * 1e3, LATEST_MS, "ms"))
    report.notes.append(f"Each page {TIMES} times, whole, without its assets. (first): the first page of the server.")
    describe(report, contenders)
    return report
