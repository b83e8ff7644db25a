"""Small marks of states as SVG: a row of dots for the last runs of something, and a bar of how many are in which state.

As in `charts.py`, colours are classes, and each mark has a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from markupsafe import Markup

from celeriac.dashboard.charts import kind_of, percentage
from celeriac.states import FAILURE, IGNORED, RETRY, REVOKED, SUCCESS

__all__ = ["Run", "run_dots", "state_bar"]

SHAPES: Final = {
    SUCCESS: '<circle cx="6" cy="6" r="4.5"/>',
    FAILURE: '<path d="M6 .5 11.5 6 6 11.5 .5 6z"/>',
    RETRY: '<path d="M6 1 11 10.5H1z"/>',
    REVOKED: '<path d="M1.5 1.5h9v9h-9z"/>',
    IGNORED: '<path d="M1.5 4.5h9v3h-9z"/>',
}
"""A shape for each end, so that they are told apart without colours."""

OPEN_SHAPE: Final = '<circle class="open" cx="6" cy="6" r="4"/>'


class Run(NamedTuple):
    """One run of something that runs again and again."""

    state: str
    text: str
    href: str | None = None


def run_dots(runs: Sequence[Run], label: str) -> Markup:
    """Return a dot for each run, the latest at the right. Each has its text, and a link if it has an address."""
    if not runs:
        return Markup("")
    dots = []
    for run in runs:
        shape = Markup(
            '<svg class="dot {kind}" viewBox="0 0 12 12" role="img" aria-label="{text}"><title>{text}</title>{shape}'
            "</svg>"
        ).format(kind=kind_of(run.state), text=run.text, shape=Markup(SHAPES.get(run.state, OPEN_SHAPE)))  # noqa: S704
        link = Markup('<a href="{}">{}</a>').format(run.href, shape) if run.href is not None else shape
        dots.append(Markup("<li>{}</li>").format(link))
    return Markup('<ol class="dots" aria-label="{}">{}</ol>').format(label, Markup("").join(dots))


def state_bar(counts: Mapping[str, int], label: str) -> Markup:
    """Return a bar of how many are in which state, in the order of the mapping."""
    total = sum(counts.values())
    x, rects = 0.0, []
    for state, count in counts.items():
        width = count / total * 100 if total else 0.0
        if width:
            rects.append(Markup('<rect class="{}" x="{}%" width="{}%" height="100%"/>').format(
                kind_of(state), percentage(x), percentage(width)
            ))  # fmt: skip
        x += width
    return Markup('<svg class="bar" role="img" aria-label="{0}"><title>{0}</title>{1}</svg>').format(
        label, Markup("").join(rects)
    )
