"""The life of a task as SVG, on one time axis drawn to scale: when it was sent, what it waited for, when it ran.

Waits and runs are apart: what is above is time in which nothing happened to it. Positions are percentages, so that the
axis fills its page at each width while its text keeps its size. Each bar says in a `<title>` what it is; the table of
attempts below it has the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from markupsafe import Markup

from celeriac.dashboard.wording import duration
from celeriac.model.history import Attempt

__all__ = ["Bar", "axis", "bars_of"]

STEPS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800,
                3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000, 31_536_000)  # fmt: skip
TICKS: Final = 6  # at most
ROWS: Final = {"wait": 4, "run": 34}  # the upper edge of each, in pixels
THICK: Final = 24
FLOOR: Final = 68
HEIGHT: Final = 92
LEAST: Final = 0.5  # percent: so that a run of a millisecond is seen beside a wait of an hour
MARGIN: Final = 0.02  # of the axis, after its end

LIFE: Final = Markup('<svg class="life" width="100%" height="{height}" role="img" aria-label="{words}">{parts}</svg>')
TICK: Final = Markup('<line class="tick" x1="{x:.3f}%" x2="{x:.3f}%" y1="0" y2="{floor}"/>'
                     '<text x="{x:.3f}%" y="{y}" text-anchor="{anchor}">{words}</text>')  # fmt: skip
BAR: Final = Markup('<g class="bar {kind}"><title>{words}</title>'
                    '<rect x="{x:.3f}%" y="{y}" width="{width:.3f}%" height="{height}" rx="3"/></g>')  # fmt: skip
NOW: Final = Markup('<line class="now" x1="{x:.3f}%" x2="{x:.3f}%" y1="0" y2="{floor}"><title>Now</title></line>')


class Bar(NamedTuple):
    """A time in the life of a task."""

    row: str  # "wait" or "run"
    kind: str  # the class of its colour
    start: float
    end: float
    words: str


def bars_of(sent_at: float, attempts: Sequence[Attempt], *, due_at: float | None = None, ready: bool = False,
            started_at: float | None = None, now: float | None = None) -> list[Bar]:  # fmt: skip
    """Return the times of a task: of its attempts that have ended, the oldest first, and of what happens `now`.

    It now runs since `started_at`; or is not due before `due_at`; or waits for a worker (`ready`).
    """
    found: list[Bar] = []
    free = sent_at  # what came before has ended
    for one in attempts:
        ready_at = min(max(free, one.started_at - one.wait), one.started_at)
        found += _waits(free, ready_at, one.started_at, one.attempt)
        found.append(Bar("run", one.state.lower(), one.started_at, max(one.done_at, one.started_at),
                         f"Attempt {one.attempt} ran for {duration(one.runtime)}: {one.state}"))  # fmt: skip
        free = max(free, one.done_at)
    if now is None:
        return found
    if started_at is not None:
        due = min(max(free, due_at or 0.0), started_at)
        found += _waits(free, due, started_at, len(attempts) + 1)
        found.append(Bar("run", "active", started_at, now, f"It has run for {duration(now - started_at)}"))
    elif due_at is not None and due_at > now:
        found.append(Bar("wait", "later", free, due_at, f"It is due in {duration(due_at - now)}"))
    elif ready:
        found += _waits(free, min(max(free, due_at or 0.0), now), now, 0)
    return found


def _waits(free: float, ready_at: float, started_at: float, attempt: int) -> Iterable[Bar]:
    if ready_at > free:
        what = "before a retry" if attempt > 1 else "until it was due"
        yield Bar("wait", "later", free, ready_at, f"Waited {duration(ready_at - free)} {what}")
    if started_at > ready_at:
        yield Bar("wait", "queue", ready_at, started_at, f"Waited {duration(started_at - ready_at)} for a worker")


def axis(bars: Sequence[Bar], sent_at: float, now: float | None = None) -> Markup:
    """Return the bars on an axis that begins when the task was sent; with `now` marked, if that is on it."""
    end = max([bar.end for bar in bars] + [now or 0.0, sent_at])
    start = min([bar.start for bar in bars] + [sent_at])
    length = max(end - start, 1e-6) * (1 + MARGIN)

    def x(at: float) -> float:
        return min(100.0, max(0.0, (at - start) / length * 100))

    parts = [Markup('<line class="axis" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(FLOOR + 0.5)]
    for at, words, anchor in _ticks(length):
        parts.append(TICK.format(x=at, floor=FLOOR, y=HEIGHT - 6, anchor=anchor, words=words))
    for bar in bars:
        left = min(x(bar.start), 100 - LEAST)
        width = max(LEAST, x(bar.end) - left)
        parts.append(BAR.format(kind=bar.kind, words=bar.words, x=left, y=ROWS[bar.row], width=width, height=THICK))
    if now is not None:
        parts.append(NOW.format(x=x(now), floor=FLOOR))
    words = "; ".join(bar.words for bar in bars) or "It has just been sent"
    return LIFE.format(height=HEIGHT, words=f"The life of the task: {words}.", parts=Markup("").join(parts))


def _ticks(length: float) -> Iterable[tuple[float, str, str]]:
    step = next((one for one in STEPS if length / one <= TICKS), STEPS[-1])
    for number in range(int(length / step) + 1):
        at = number * step / length * 100
        if at > 97:
            return
        words = f"+{duration(number * step).replace('.0', '')}" if number else "sent"
        yield at, words, "middle" if number else "start"
