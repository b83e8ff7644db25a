"""Plots a run on one server: one panel per measure that has peers, one bar per contender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import number
from benchmarks.summary import Measure, Server

__all__ = ["draw"]

OURS_COLOUR, PEER_COLOUR, INK = "#0b7285", "#adb5bd", "#343a40"
WIDTH, ROW_HEIGHT = 8.0, 0.21  # inches


def draw(reports: Sequence[Mapping[str, Any]], server: Server, path: Path) -> None:
    """Write the plot as SVG, with text as text elements; the same run gives the same file."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and needed only here
    from matplotlib.figure import Figure  # noqa: PLC0415

    mine = [report for report in server.reports(reports) if len(report["figures"]) > 1]
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 8,
                "font.family": "sans-serif", "text.color": INK, "axes.labelcolor": INK,
                "xtick.color": INK, "ytick.color": INK}  # fmt: skip
    with mpl.rc_context(settings):
        rows = (len(mine) + 1) // 2
        most = max(len(report["figures"]) for report in mine)
        figure = Figure(figsize=(WIDTH, rows * (most * ROW_HEIGHT + 0.6)), layout="constrained", facecolor="white")
        panels = figure.subplots(rows, 2, squeeze=False).flatten()
        for panel, report in zip(panels, mine, strict=False):
            _panel(panel, server.measures[report["name"]], report)
        for panel in panels[len(mine) :]:
            panel.set_visible(False)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(panel: Any, measure: Measure, report: Mapping[str, Any]) -> None:
    figures = list(report["figures"].values())
    values = [measure.figure(each) for each in figures]
    places = range(len(figures))
    colours = [OURS_COLOUR, *[PEER_COLOUR] * (len(figures) - 1)]
    panel.barh(places, values, color=colours, height=0.7)
    for place, value in zip(places, values, strict=True):
        panel.text(value, place, f" {number(value)}", va="center", fontsize=7)
    panel.set_yticks(places, [each["title"] for each in figures])
    panel.invert_yaxis()
    panel.set_xticks([])
    panel.set_xlim(0, max(values) * 1.18)
    panel.set_title(f"{measure.title} ({measure.unit}; {'more' if measure.unit == '/s' else 'less'} is better)",
                    loc="left", fontsize=8.5)  # fmt: skip
    for side in ("top", "right", "bottom"):
        panel.spines[side].set_visible(False)
    panel.tick_params(length=0)
