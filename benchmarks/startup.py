"""Measures start-up: `import celeriac` compared with bare Python, and `celeriac --help`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.compare import describe
from benchmarks.figures import Bar, Report, number
from benchmarks.stage import BenchmarkError, Stage, environment

__all__ = ["start_up"]

CONTENDERS = ("celeriac_sqlite", "huey_sqlite")
IMPORT_MS, HELP_MS = 80.0, 250.0


def start_up(stage: Stage) -> Report:
    """Start-up: `import celeriac` compared with bare Python, `celeriac --help`."""
    report = Report("start-up", "Start-up: wall time in milliseconds")
    contenders = stage.contenders(CONTENDERS)
    commands = {"bare python": [sys.executable, "-c", "pass"]}
    commands |= {f"import {one.module}": [sys.executable, "-c", f"import {one.module}"] for one in contenders}
    script = Path(sys.executable).with_name("celeriac")
    commands["celeriac --help"] = [str(script)] if script.exists() else [sys.executable, "-m", "celeriac"]
    commands["celeriac --help"].append("--help")

    times: dict[str, list[float]] = {what: [] for what in commands}
    rounds = stage.amount(15, 2)
    with stage.scratch() as folder:
        for turn in range(-1, rounds):  # the first round warms the caches
            stage.say(f"start-up: round {max(turn + 1, 0)} of {rounds}")
            for what, command in commands.items():
                taken = _wall(command, folder) * 1e3
                if turn >= 0:
                    times[what].append(taken)

    middle = {what: median(values) for what, values in times.items()}
    bare = middle["bare python"]
    report.columns = ("", "median", "best", "over bare Python")
    for what, value in middle.items():
        over = "" if what == "bare python" else number(value - bare)
        report.rows.append((what, number(value), number(min(times[what])), over))
        report.figures[what] = {"median_ms": value, "rounds_ms": times[what]}
    report.bars.append(Bar("import celeriac, over bare Python", middle["import celeriac"] - bare, IMPORT_MS, "ms"))
    report.bars.append(Bar("celeriac --help", middle["celeriac --help"], HELP_MS, "ms"))
    report.notes.append(f"Median of {rounds} fresh processes each, alternating; code is compiled and caches are warm.")
    describe(report, contenders)
    return report


def _wall(command: list[str], folder: Path) -> float:
    variables = environment(folder)
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # the warm-up compiles a checkout, as pip does at installation
    start = perf_counter()
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    taken = perf_counter() - start
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command)} failed:\n{done.stderr}")
    return taken
