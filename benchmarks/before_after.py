"""Compares two versions of Celeriac: `python -m benchmarks.before_after --before A.json … --after B.json …`.

The files are those of `python -m benchmarks --json`, run in a clone of each version. Run each at least twice, in the
order before, after, after, before, so that a machine that becomes slower affects both. A figure is worse if the best of
its runs is worse than *all* runs before, and that by more than two runs of one version differ.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.figures import number

__all__ = ["main"]

RATES = frozenset({"best", "rate"})  # more is better; of everything else that is compared, less is
COSTS = frozenset({"median_ms", "seconds", "cpu_percent", "rss_mb", "uss_mb", "group", "chord"})
Figure = tuple[str, str, str]  # benchmark, contender, name


class Comparison(NamedTuple):
    """A figure before and after, each from several runs."""

    figure: Figure
    before: Sequence[float]
    after: Sequence[float]

    @property
    def change(self) -> float:
        """How much better the best run is than it was: 0.1 is a tenth better, whichever way is better."""
        before, after = self._best(self.before), self._best(self.after)
        return after / before - 1 if self.figure[2] in RATES else before / after - 1

    @property
    def noise(self) -> float:
        """By how much two runs of the same version differ at most."""
        return max(max(runs) / min(runs) - 1 for runs in (self.before, self.after))

    @property
    def is_worse(self) -> bool:
        """Whether it is worse by more than noise."""
        return -self.change > self.noise

    def _best(self, runs: Sequence[float]) -> float:
        return max(runs) if self.figure[2] in RATES else min(runs)


def main(arguments: list[str] | None = None) -> int:
    """Print a row for each figure that both versions have. The exit code is 0: timing is never a test."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before_after", description="Compare two versions.")
    parser.add_argument("--before", metavar="FILE", type=Path, nargs="+", required=True, help="runs of the old version")
    parser.add_argument("--after", metavar="FILE", type=Path, nargs="+", required=True, help="runs of the new version")
    options = parser.parse_args(arguments)
    table = Table("benchmark", "figure", "before", "after", "better by", "noise", "")
    for one in compared([_read(path) for path in options.before], [_read(path) for path in options.after]):
        name, contender, what = one.figure
        table.add_row(name, f"{contender}: {what}", " ".join(map(number, one.before)), " ".join(map(number, one.after)),
                      f"{one.change:+.0%}", f"{one.noise:.0%}", "[red]worse[/]" if one.is_worse else "")  # fmt: skip
    Console(width=160).print(table)
    return 0


def compared(before: Sequence[Mapping[Figure, float]], after: Sequence[Mapping[Figure, float]]) -> Iterator[Comparison]:
    """Yield the figures that all runs have."""
    for figure in before[0]:
        if all(figure in run for run in (*before, *after)):
            yield Comparison(figure, [run[figure] for run in before], [run[figure] for run in after])


def _read(path: Path) -> dict[Figure, float]:
    reports: list[dict[str, Any]] = json.loads(path.read_text())["reports"]
    return {
        (report["name"], contender, what): value
        for report in reports
        for contender, figures in report["figures"].items()
        if isinstance(figures, dict)
        for what, value in figures.items()
        if what in RATES | COSTS and value
    }


if __name__ == "__main__":
    raise SystemExit(main())
