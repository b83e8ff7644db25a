"""The time axis of a task: its bars, to scale."""

from __future__ import annotations

import re

from celeriac.dashboard.timeline import axis, bars_of
from celeriac.model.history import Attempt


def attempt(number: int, started_at: float, done_at: float, wait: float, state: str = "SUCCESS") -> Attempt:
    return Attempt(id="1", task="t", attempt=number, state=state, started_at=started_at, done_at=done_at,
                   runtime=done_at - started_at, wait=wait)  # fmt: skip


def test_waits_and_runs_of_all_attempts_follow_each_other() -> None:
    bars = bars_of(100.0, [attempt(1, 102.0, 104.0, 2.0, "RETRY"), attempt(2, 115.0, 120.0, 1.0)])
    assert [(bar.row, bar.kind, bar.start, bar.end) for bar in bars] == [
        ("wait", "queue", 100.0, 102.0), ("run", "retry", 102.0, 104.0),
        ("wait", "later", 104.0, 114.0), ("wait", "queue", 114.0, 115.0), ("run", "success", 115.0, 120.0),
    ]  # fmt: skip
    assert [bar.words for bar in bars][2].endswith("before a retry")


def test_what_happens_now_ends_now_or_when_it_is_due() -> None:
    assert [bar.end for bar in bars_of(100.0, [], due_at=160.0, now=130.0)] == [160.0]
    waiting = bars_of(100.0, [], due_at=110.0, ready=True, now=130.0)
    assert [(bar.kind, bar.start, bar.end) for bar in waiting] == [("later", 100.0, 110.0), ("queue", 110.0, 130.0)]
    running = bars_of(100.0, [], started_at=105.0, now=130.0)
    assert [(bar.row, bar.start, bar.end) for bar in running] == [("wait", 100.0, 105.0), ("run", 105.0, 130.0)]


def test_the_axis_is_to_scale_and_what_is_short_is_seen() -> None:
    bars = bars_of(0.0, [attempt(1, 75.0, 100.0, 75.0)])
    drawn = axis(bars, 0.0)
    widths = [float(one) for one in re.findall(r'<rect x="[\d.]+%" y="\d+" width="([\d.]+)%"', drawn)]
    assert 2.9 < widths[0] / widths[1] < 3.1
    tiny = axis(bars_of(0.0, [attempt(1, 86_400.0, 86_400.001, 86_400.0)]), 0.0)
    assert 'width="0.500%"' in tiny
    assert "style=" not in drawn


def test_words_are_escaped() -> None:
    drawn = axis(bars_of(0.0, [attempt(1, 1.0, 2.0, 1.0, '"><script>')]), 0.0)
    assert "<script>" not in drawn
