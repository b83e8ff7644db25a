"""Charts as SVG: a stacked chart of what ended over time, and sparklines. Dots and bars of states are in `marks.py`.

Pages call these functions with counts from the history, and put what they return into a template. Colours are classes
(`s-failure`, …); there is no `style` attribute, which the Content-Security-Policy forbids. Horizontal positions are
percentages, so that a chart fills its page at each width while its text and lines keep their size. What a chart shows,
it also says: bars have a `<title>`, and a table with the same numbers is folded up below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Final, NamedTuple

from markupsafe import Markup

from celeriac.ports.history import Point
from celeriac.states import FAILURE, IGNORED, PENDING, PROGRESS, RETRY, REVOKED, STARTED, SUCCESS

__all__ = ["RANGES", "WORDS", "Column", "Range", "columns_of", "kind_of", "percentage", "rate_chart", "sparkline"]


class Range(NamedTuple):
    """How far back a chart shows, and in which steps (seconds)."""

    seconds: int
    step: int
    words: str


RANGES: Final[Mapping[str, Range]] = {
    "1h": Range(3600, 60, "the last hour"),
    "6h": Range(6 * 3600, 300, "the last 6 hours"),
    "24h": Range(86_400, 1200, "the last 24 hours"),
    "7d": Range(7 * 86_400, 7200, "the last 7 days"),
}
"""What a page offers, by its name in the address."""

STATES: Final = (FAILURE, RETRY, REVOKED, IGNORED, SUCCESS)  # from bottom to top: failures stand on the same line
WORDS: Final = {FAILURE: "failed", RETRY: "to be retried", REVOKED: "revoked", IGNORED: "ignored",
                SUCCESS: "succeeded"}  # fmt: skip
"""What the end of an attempt is called in a sentence, by its state."""

KINDS: Final = frozenset({*STATES, PENDING, STARTED, PROGRESS, "BLOCKED", "NOT_RUN"})
HEIGHT: Final = 160.0  # of the plot, in pixels
LEAST: Final = 2.0  # so that one failure among a million successes is seen
TICKS: Final = 7  # times below the plot, at most
STEPS: Final = (60, 300, 600, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000)
PER_SECOND: Final = 120.0  # attempts a minute, from which a chart counts by the second
PER_MINUTE: Final = 2.0  # and from which it counts by the minute, not by its steps


def kind_of(state: str) -> str:
    """Return the class of a state, which gives it its colour."""
    return f"s-{state.lower()}" if state in KINDS else "s-other"


class Column(NamedTuple):
    """What ended in one step of time, by state."""

    at: float
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        """How many attempts ended."""
        return sum(self.counts.values())


# --- From the history ---------------------------------------------------------------------------------


def columns_of(points: Iterable[Point], since: float, until: float, step: int) -> list[Column]:
    """Return a column for each step that has begun before `until`, from points of the history divided by state."""
    first = int(since) // step * step
    found: dict[int, dict[str, int]] = {at: {} for at in range(first, max(first, math.ceil(until)), step)}
    for point in points:
        counts = found.get(point.at)
        if counts is not None:
            counts[point.state] = counts.get(point.state, 0) + point.sums.n
    return [Column(at, counts) for at, counts in found.items()]


# --- The stacked chart --------------------------------------------------------------------------------


def rate_chart(
    columns: Sequence[Column], step: int, *, title: str, zone: tzinfo, always: Sequence[str] = (FAILURE, SUCCESS)
) -> Markup:
    """Return a chart of how many attempts ended, stacked by state, with axes, a legend and a table.

    The last column is drawn as unfinished: its step is not over. The legend has the states of `always`, and others if
    there are any.
    """
    totals = {state: sum(column.counts.get(state, 0) for column in columns) for state in _states(columns)}
    shown = [state for state in totals if totals[state] or state in always]
    most = max((column.total for column in columns), default=0)
    unit, seconds = _unit(most, step)
    top = max(_ceiling(most * seconds / step), 2.0)
    summary = _summary(columns, totals, zone)
    return Markup(
        '<figure class="chart"><figcaption class="chart-head"><span class="chart-title">{title} '
        '<span class="chart-zone">{zone}</span></span>{legend}'
        '</figcaption><svg class="chart-plot" role="img" aria-label="{label}" height="{height}">{grid}{columns}{times}'
        "</svg>{table}</figure>"
    ).format(
        title=title,
        zone=zone,
        legend=_legend(totals, shown),
        label=f"{title}: {summary}",
        height=int(HEIGHT),
        grid=_grid(top, unit),
        columns=_columns(columns, step, top * step / seconds, zone),
        times=_times(columns, step, zone),
        table=_table(columns, shown, step, zone),
    )


def _unit(most: int, step: int) -> tuple[str, int]:
    """Return by what the axis counts, and how many seconds that is.

    >>> _unit(60_000, 60), _unit(60, 60), _unit(3, 1200), _unit(3, 7200)
    (('second', 1), ('minute', 60), ('20 min', 1200), ('2 h', 7200))
    """
    per_minute = most * 60 / step
    if per_minute >= PER_MINUTE:
        return ("second", 1) if per_minute >= PER_SECOND else ("minute", 60)
    if step <= 60:
        return ("minute", 60) if step == 60 else (f"{step} s", step)
    return (f"{step // 3600} h", step) if step % 3600 == 0 else (f"{step // 60} min", step)


def _states(columns: Sequence[Column]) -> list[str]:
    """Return the states from bottom to top; those that a later version may know, in the middle."""
    known = {state for column in columns for state in column.counts}
    return [*STATES[:-1], *sorted(known.difference(STATES)), SUCCESS]


def _summary(columns: Sequence[Column], totals: Mapping[str, int], zone: tzinfo) -> str:
    if not any(totals.values()):
        return "nothing ended."
    most = max(columns, key=lambda column: column.total)
    parts = ", ".join(f"{count:,} {WORDS.get(state, state.lower())}" for state, count in totals.items() if count)
    return f"{parts}. Most ended at {_moment(most.at, zone)}: {most.total:,}."


def _legend(totals: Mapping[str, int], shown: Sequence[str]) -> Markup:
    entries = [
        Markup('<li><svg class="swatch" aria-hidden="true"><rect class="{kind}"/></svg>{count} {word}</li>').format(
            kind=kind_of(state), count=f"{totals[state]:,}", word=WORDS.get(state, state.lower())
        )
        for state in reversed(shown)
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(entries))


def _grid(top: float, unit: str) -> Markup:
    lines = []
    for part in (0.0, 0.5, 1.0):
        text = _number(top * part)
        y = _px(HEIGHT * (1 - part))
        lines.append(Markup(
            '<line class="chart-grid{base}" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
            '<text class="chart-y" x="-8" y="{y}" dy="0.32em">{text}</text>'
        ).format(base="" if part else " chart-base", y=y, text=text))  # fmt: skip
    unit_text = Markup('<text class="chart-unit" x="0" y="-10">per {}</text>').format(unit)
    return Markup("").join([*lines, unit_text])


def _columns(columns: Sequence[Column], step: int, top: float, zone: tzinfo) -> Markup:
    width = 100 / max(1, len(columns))
    found = []
    for number, column in enumerate(columns):
        x = number * width
        parts = ", ".join(f"{count:,} {WORDS.get(state, state.lower())}" for state, count in _in_order(column) if count)
        found.append(Markup(
            '<g class="column{last}"><title>{when}: {parts}</title>'
            '<rect class="hit" x="{x}%" width="{width}%" y="0" height="{height}"/>{bars}</g>'
        ).format(last=" is-open" if number == len(columns) - 1 else "", parts=parts or "nothing ended",
                 when=f"{_moment(column.at, zone)} to {_clock(column.at + step, zone)}", x=percentage(x),
                 width=percentage(width), height=int(HEIGHT), bars=_bars(column, x, width, top)))  # fmt: skip
    return Markup("").join(found)


def _bars(column: Column, x: float, width: float, top: float) -> Markup:
    """Return the bars of a column, from bottom to top: none is lower than `LEAST`, and together they fit."""
    heights = {state: max(LEAST, count / top * HEIGHT) for state, count in _in_order(column) if count}
    excess = sum(heights.values()) - HEIGHT
    if excess > 0:
        highest = max(heights, key=lambda state: heights[state])
        heights[highest] -= excess
    y, bars = HEIGHT, []
    for state, height in heights.items():
        y -= height
        bars.append(Markup('<rect class="{kind}" x="{x}%" width="{width}%" y="{y}" height="{height}"/>').format(
            kind=kind_of(state), x=percentage(x + width * 0.1), width=percentage(width * 0.8), y=_px(y),
            height=_px(height),
        ))  # fmt: skip
    return Markup("").join(bars)


def _in_order(column: Column) -> list[tuple[str, int]]:
    return [(state, column.counts.get(state, 0)) for state in _states([column])]


def _times(columns: Sequence[Column], step: int, zone: tzinfo) -> Markup:
    """Return the times below the plot, at round hours of the zone."""
    if not columns:
        return Markup("")
    since, span = columns[0].at, len(columns) * step
    every = next((one for one in STEPS if span / one <= TICKS), STEPS[-1])
    offset = datetime.fromtimestamp(since, zone).utcoffset() or timedelta()
    first = since - (since + offset.total_seconds()) % every
    texts = []
    for number in range(TICKS + 2):
        at = first + number * every
        x = (at - since) / span * 100
        if 3 <= x <= 97:  # so that no text is cut off
            text = _clock(at, zone) if every < 86_400 else f"{datetime.fromtimestamp(at, zone):%a %-d}"
            texts.append(Markup(
                '<line class="chart-tick" x1="{x}%" x2="{x}%" y1="{y}" y2="{end}"/>'
                '<text class="chart-x" x="{x}%" y="{y}" dy="18">{text}</text>'
            ).format(x=percentage(x), y=int(HEIGHT), end=int(HEIGHT) + 4, text=text))  # fmt: skip
    return Markup("").join(texts)


def _table(columns: Sequence[Column], shown: Sequence[str], step: int, zone: tzinfo) -> Markup:
    states = list(reversed(shown))
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(WORDS.get(one, one.lower())) for one in states)
    rows = [
        Markup('<tr><th scope="row">{when}</th>{cells}</tr>').format(
            when=f"{_moment(column.at, zone)} to {_clock(column.at + step, zone)}",
            cells=Markup("").join(Markup("<td>{}</td>").format(f"{column.counts.get(one, 0):,}") for one in states),
        )
        for column in reversed(columns)
        if column.total
    ]
    if not rows:
        return Markup("")
    return Markup(
        '<details class="chart-data"><summary>As a table</summary><div class="scroll"><table><thead><tr>'
        '<th scope="col">Time</th>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    ).format(head=head, rows=Markup("").join(rows))


# --- Sparklines ---------------------------------------------------------------------------------------


def sparkline(values: Sequence[int], label: str, kind: str = "total") -> Markup:
    """Return small bars without axes. `label` is its text: what it counts, and since when.

    `kind` is its colour, as the class `spark-failure`.
    """
    most = max(values, default=0)
    heights = [max(LEAST, value / most * 20) if value else 0.0 for value in values]
    bars = "".join(f"M{number * 4} 20v-{_px(height)}h3V20z" for number, height in enumerate(heights) if height)
    text = f"{label}: {sum(values):,}" + (f", at most {most:,} at once" if most else "")
    return Markup(
        '<svg class="spark spark-{kind}" role="img" aria-label="{text}" viewBox="0 0 {width} 20" '
        'preserveAspectRatio="none"><title>{text}</title><path class="spark-base" d="M0 19.5H{width}"/>'
        '<path class="spark-bars" d="{bars}"/></svg>'
    ).format(kind=kind, text=text, width=max(1, len(values) * 4 - 1), bars=bars)


# --- Numbers and times --------------------------------------------------------------------------------


def _ceiling(value: float) -> float:
    """Return the next round number, of which a half is round too.

    >>> [_ceiling(value) for value in (0, 0.3, 3, 11, 41, 170)]
    [1.0, 0.4, 4.0, 20.0, 60.0, 200.0]
    """
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(power * part for part in (1, 2, 4, 6, 8, 10) if power * part >= value * 0.999_999)


def _number(value: float) -> str:
    """Return a number of an axis.

    >>> [_number(value) for value in (0, 0.25, 20.0, 1500.0, 150_000.0)]
    ['0', '0.25', '20', '1.5k', '150k']
    """
    for power, sign in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if value >= power:
            return f"{value / power:g}{sign}"
    return f"{value:g}"


def _moment(at: float, zone: tzinfo) -> str:
    return f"{datetime.fromtimestamp(at, zone):%a %-d %b %H:%M}"


def _clock(at: float, zone: tzinfo) -> str:
    return f"{datetime.fromtimestamp(at, zone):%H:%M}"


def percentage(value: float) -> str:
    """Return a number of SVG, without zeros that say nothing."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
