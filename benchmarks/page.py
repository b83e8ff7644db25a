"""`python -m benchmarks.page FIGURES.json`: put a run's figures of Redis into `docs/performance.md`, and draw its plot.

Goes in: what `python -m benchmarks redis --json FIGURES.json` has written. Comes out: the part of the page between the
two marks, and `docs/performance-redis.svg`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plot import draw
from benchmarks.summary import MEASURES, summarise

__all__ = ["BEGIN", "END", "figures", "insert", "main"]

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN = "<!-- redis figures: made by python -m benchmarks.page -->"
END = "<!-- end of redis figures -->"


def main(arguments: list[str] | None = None) -> int:
    """Write the page and the plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description="Put a run's figures into the docs.")
    parser.add_argument("run", metavar="FIGURES.json", type=Path, help="of `python -m benchmarks redis --json`")
    parser.add_argument("--docs", metavar="DIR", type=Path, default=DOCS, help="with performance.md [default: docs]")
    options = parser.parse_args(arguments)
    run = json.loads(options.run.read_text(encoding="utf-8"))
    if run["quick"]:
        parser.error(f"{options.run} is of a quick run: its figures only show that it runs")
    page = options.docs / "performance.md"
    page.write_text(insert(page.read_text(encoding="utf-8"), figures(run)), encoding="utf-8")
    draw(run["reports"], options.docs / "performance-redis.svg")
    print(f"{page} and {options.docs / 'performance-redis.svg'} are of the run of {run['machine']['at']}.")
    return 0


def insert(page: str, text: str) -> str:
    """Return the page with this text between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page has not both marks, {BEGIN!r} and {END!r}.")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def figures(run: Mapping[str, Any]) -> str:
    """Return what stands between the marks: the machine, the table, the plot, the versions."""
    machine, reports = run["machine"], run["reports"]
    summary = summarise(reports)
    server = next((note.partition(",")[0] for report in reports for note in report["notes"]
                   if note.startswith("redis-server")), "redis-server")  # fmt: skip
    settings = {title: text for report in reports if report["name"] in MEASURES
                for title, text in report["settings"].items()}  # fmt: skip
    python, cpu = machine["python"], machine["cpu"]
    return "\n".join([
        f"One run of `python -m benchmarks redis` on {machine['at'][:10]}: {machine['cores']} cores ({cpu}), "
        f"{machine['system']}, {python}, `{server}`. *Fastest*: the peer that is best in that row.",
        "",
        _table(summary.columns, summary.rows),
        "",
        "![The same rates and times as bars](performance-redis.svg)",
        "",
        *(f"- **{title}**: {text}" for title, text in settings.items()),
    ])  # fmt: skip


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
