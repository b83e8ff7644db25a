"""`python -m benchmarks [NAME …] [--quick] [--json FILE]`; a name is that of a benchmark or of a group.

The exit code is 0 whatever the figures are, because a timing is not a test; 1 if a benchmark could not be measured.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import machine
from benchmarks.catalogue import BENCHMARKS, GROUPS, named
from benchmarks.environments import REQUIREMENTS
from benchmarks.figures import Report
from benchmarks.stage import BenchmarkError, Stage
from benchmarks.summary import SERVERS, Server, summarise

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the named benchmarks, or all; print their reports, and write them to a file if asked."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in BENCHMARKS and name not in GROUPS]:
        parser.error(f"there is no benchmark {unknown[0]!r}; choose from {', '.join([*GROUPS, *BENCHMARKS])}")
    if options.folder is not None and not Path(options.folder).is_dir():
        parser.error(f"--folder: there is no folder {options.folder}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # unwinds, so processes are stopped
    console = Console(width=None if sys.stdout.isatty() else 120)
    facts = machine.facts(options.folder)
    _print_facts(console, facts, options.quick)
    stage = Stage(options.quick, options.folder, peers=[name for name in options.peers.split(",") if name])
    reports: list[Report] = []
    failed = False
    with stage.end:
        for name in named(options.names):
            try:
                with _progress(console, stage, name):
                    report = BENCHMARKS[name](stage)
            except (BenchmarkError, psutil.Error, subprocess.TimeoutExpired) as error:
                console.print(f"[red]{name} could not be measured.[/] ", str(error), highlight=False)
                failed = True
                continue
            _print_report(console, report)
            reports.append(report)
    for contender, module in stage.missing.items():
        own = contender in REQUIREMENTS
        how = "python -m benchmarks.environments" if own else "pip install 'celeriac[bench]'"
        console.print(f"Skipped: {contender}, because {module} is not installed ({how}).")
    _print_contenders(console, reports)
    for server in SERVERS.values():
        _print_summary(console, [asdict(report) for report in reports], server)
    if len(reports) > 1:
        _print_bars(console, reports)
    if options.json is not None:
        _write(options.json, facts, options.quick, reports)
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmark Celeriac and its peers.")
    names = ", ".join([*GROUPS, *BENCHMARKS])
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"one of {names} [default: all]")
    parser.add_argument("--quick", action="store_true", help="one round with little work, to check that it runs")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write all figures to this file")
    parser.add_argument("--peers", metavar="A,B", default="", help="compare only with these files of benchmarks/peers/")
    parser.add_argument("--folder", metavar="DIR", help="measure on this folder's disk [default: the temporary folder]")
    return parser


@contextmanager
def _progress(console: Console, stage: Stage, name: str) -> Iterator[None]:
    """Show the stage's current step, and its progress if known."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=None)
        stage.say = lambda text: progress.update(task, description=text, total=None, completed=0)
        stage.show = lambda share: progress.update(task, total=1.0, completed=share)
        yield


def _print_facts(console: Console, facts: dict[str, Any], quick: bool) -> None:
    text = "; ".join(f"{name} {value}" for name, value in facts.items() if name != "executable")
    console.print(text, highlight=False)
    if facts["load"] > machine.BUSY:
        console.print(f"[yellow]This machine is busy (load {facts['load']}): the figures are unreliable.[/]")
    if quick:
        console.print("[yellow]Quick run: one round with little work. The figures only show that it runs.[/]")


def _print_report(console: Console, report: Report) -> None:
    table = Table(title=report.title, title_style="bold", title_justify="left")
    for place, column in enumerate(report.columns):
        table.add_column(column, justify="right" if place else "left")
    for row in report.rows:
        table.add_row(*row)
    console.print()
    console.print(table)
    for bar in report.bars:
        console.print(f"  {_verdict(bar.met)}  {bar}", highlight=False)
    for note in report.notes:
        console.print(f"  {note}", style="dim", highlight=False)


def _print_contenders(console: Console, reports: list[Report]) -> None:
    contenders = {title: settings for report in reports for title, settings in report.settings.items()}
    table = Table(title="Contenders", title_style="bold", title_justify="left", show_header=False)
    for title, settings in contenders.items():
        table.add_row(title, settings)
    console.print()
    console.print(table)


def _print_summary(console: Console, reports: list[dict[str, Any]], server: Server) -> None:
    summary = summarise(reports, server)
    if len(summary.rows) < 2:
        return
    table = Table(title=f"On {server.title}: all contenders", title_style="bold", title_justify="left")
    for place, column in enumerate(summary.columns):
        table.add_column(column, justify="right" if place else "left")
    for row in summary.rows:
        table.add_row(*row)
    console.print()
    console.print(table)


def _print_bars(console: Console, reports: list[Report]) -> None:
    table = Table(title="Bars", title_style="bold", title_justify="left")
    for column in ("benchmark", "figure", "value", "bar", "issue", ""):
        table.add_column(column, justify="right" if column in ("value", "bar") else "left")
    for report in reports:
        for bar in report.bars:
            value = f"{bar.value:.2f} {bar.unit}"
            table.add_row(report.name, bar.what, value, bar.aim, str(report.issue), _verdict(bar.met))
    console.print()
    console.print(table)


def _verdict(met: bool) -> str:
    return "[green]met[/]" if met else "[red]missed[/]"


def _write(path: Path, facts: dict[str, Any], quick: bool, reports: list[Report]) -> None:
    data = [{**asdict(report), "bars": [{**asdict(bar), "met": bar.met} for bar in report.bars]} for report in reports]
    path.write_text(json.dumps({"machine": facts, "quick": quick, "reports": data}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
