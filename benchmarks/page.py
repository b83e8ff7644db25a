"""`python -m benchmarks.page FIGURES.json`: put a run's figures into `docs/performance.md`, and draw its plots.

Reads the file that `python -m benchmarks redis rabbitmq --json FIGURES.json` has written (one of the two is enough).
Writes, for each server in it, the part of the page between the server's marks, and `docs/performance-SERVER.svg`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plot import draw
from benchmarks.summary import SERVERS, summarise

__all__ = ["figures", "insert", "main", "marks"]

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main(arguments: list[str] | None = None) -> int:
    """Write the page and the plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description="Put a run's figures into the docs.")
    parser.add_argument("run", metavar="FIGURES.json", type=Path, help="of `python -m benchmarks --json`")
    parser.add_argument("--docs", metavar="DIR", type=Path, default=DOCS, help="with performance.md [default: docs]")
    options = parser.parse_args(arguments)
    run = json.loads(options.run.read_text(encoding="utf-8"))
    if run["quick"]:
        parser.error(f"{options.run} has the figures of a quick run, which mean nothing: run without --quick")
    measured = [name for name, server in SERVERS.items() if server.reports(run["reports"])]
    if not measured:
        parser.error(f"{options.run} has no figures of {' or '.join(SERVERS)}")
    page = options.docs / "performance.md"
    for name in measured:
        plot = options.docs / f"performance-{name}.svg"
        page.write_text(insert(page.read_text(encoding="utf-8"), name, figures(run, name)), encoding="utf-8")
        draw(run["reports"], SERVERS[name], plot)
        print(f"{page} and {plot} now show the run of {run['machine']['at']}.")
    return 0


def marks(name: str) -> tuple[str, str]:
    """Return the lines before and after a server's figures."""
    return f"<!-- {name} figures: made by python -m benchmarks.page -->", f"<!-- end of {name} figures -->"


def insert(page: str, name: str, text: str) -> str:
    """Return the page with this text between a server's marks. Raises `ValueError` if a mark is missing."""
    first, last = marks(name)
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"The page lacks one of the marks {first!r} and {last!r}: restore it.")
    return f"{before}{first}\n{text}\n{last}{after}"


def figures(run: Mapping[str, Any], name: str) -> str:
    """Return the text between a server's marks: the machine, the table, the plot, the versions."""
    machine, server = run["machine"], SERVERS[name]
    reports = server.reports(run["reports"])
    summary = summarise(reports, server)
    program = next((note.partition(",")[0] for report in reports for note in report["notes"]
                    if note.startswith(server.program)), server.program)  # fmt: skip
    settings = {title: text for report in reports for title, text in report["settings"].items()}
    python, cpu = machine["python"], machine["cpu"]
    return "\n".join([
        f"One run of `python -m benchmarks {name}` on {machine['at'][:10]}: {machine['cores']} cores ({cpu}), "
        f"{machine['system']}, {python}, `{program}`. *Fastest*: the best peer of the row.",
        "",
        _table(summary.columns, summary.rows),
        "",
        f"![The same rates and times as bars](performance-{name}.svg)",
        "",
        *(f"- **{title}**: {text}" for title, text in settings.items()),
    ])  # fmt: skip


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
