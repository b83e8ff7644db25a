"""Charts: what they show is what was counted, and can be read as text."""

from __future__ import annotations

import re
from datetime import UTC, timedelta, timezone
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from celeriac.dashboard.charts import HEIGHT, Column, columns_of, rate_chart, sparkline
from celeriac.dashboard.marks import Run, run_dots, state_bar
from celeriac.model.history import Sums
from celeriac.ports.history import Point

HOSTILE = "<script>alert(1)</script>\"'&"
STATES = ["FAILURE", "RETRY", "REVOKED", "IGNORED", "SUCCESS", HOSTILE]
COUNTS = st.dictionaries(st.sampled_from(STATES), st.integers(0, 10**9))


def parsed(markup: Markup) -> ElementTree.Element:
    """Return markup as XML, which it is if it is well formed."""
    return ElementTree.fromstring(f"<html>{markup}</html>")


def columns(*counts: dict[str, int], step: int = 60) -> list[Column]:
    return [Column(at * step, each) for at, each in enumerate(counts)]


def bars_of(column: ElementTree.Element) -> list[tuple[float, float]]:
    """Return top and height of the bars of a column, from the bottom to the top."""
    rects = [rect for rect in column.iter("rect") if rect.get("class") != "hit"]
    return [(float(rect.get("y", "")), float(rect.get("height", ""))) for rect in rects]


@given(st.lists(COUNTS, max_size=30), st.sampled_from([10, 60, 300, 7200]))
def test_bars_of_a_column_stand_on_each_other_within_the_plot(counts: list[dict[str, int]], step: int) -> None:
    chart = parsed(rate_chart(columns(*counts, step=step), step, title="Rate", zone=UTC))
    groups = [group for group in chart.iter("g") if "column" in group.get("class", "")]
    assert len(groups) == len(counts)
    for group, each in zip(groups, counts, strict=True):
        bars = bars_of(group)
        assert len(bars) == sum(count > 0 for count in each.values())
        bottom = HEIGHT
        for y, height in bars:
            assert height >= 1.9
            assert abs(y + height - bottom) < 0.2
            bottom = y
        assert bottom > -0.2


def test_one_failure_among_a_million_is_seen() -> None:
    chart = parsed(rate_chart(columns({"SUCCESS": 1_000_000, "FAILURE": 1}), 60, title="Rate", zone=UTC))
    (group,) = list(chart.iter("g"))
    failed, succeeded = bars_of(group)
    assert failed[1] == 2.0
    assert succeeded[1] > 100


def test_a_column_tells_its_numbers() -> None:
    chart = rate_chart(columns({"SUCCESS": 1200, "FAILURE": 3}, {}), 60, title="Rate", zone=UTC)
    assert "<title>Thu 1 Jan 00:00 to 00:01: 3 failed, 1,200 succeeded</title>" in chart
    assert "<title>Thu 1 Jan 00:01 to 00:02: nothing ended</title>" in chart
    assert 'aria-label="Rate: 3 failed, 1,200 succeeded. Most ended at Thu 1 Jan 00:00: 1,203."' in chart


def test_the_table_has_the_same_numbers_newest_first() -> None:
    chart = parsed(rate_chart(columns({"SUCCESS": 5}, {"FAILURE": 2, "SUCCESS": 1}, {}), 60, title="Rate", zone=UTC))
    rows = [[cell.text for cell in row] for row in chart.iter("tr")]
    assert rows == [
        ["Time", "succeeded", "failed"],
        ["Thu 1 Jan 00:01 to 00:02", "1", "2"],
        ["Thu 1 Jan 00:00 to 00:01", "5", "0"],
    ]


def test_an_empty_chart_has_axes_and_says_that_nothing_ended() -> None:
    for chart in (rate_chart([], 60, title="Rate", zone=UTC), rate_chart(columns({}, {}), 60, title="Rate", zone=UTC)):
        assert "Rate: nothing ended." in chart
        assert chart.count('class="chart-y"') == 3
        assert "<table" not in chart


def test_the_axis_counts_by_the_second_when_much_ends() -> None:
    slow, fast = (rate_chart(columns({"SUCCESS": count}), 60, title="Rate", zone=UTC) for count in (30, 60_000))
    assert "per minute" in slow
    assert ">40<" in slow
    assert "per second" in fast
    assert ">1k<" in fast


def test_times_below_the_plot_are_round_in_the_zone() -> None:
    zone = timezone(timedelta(hours=5, minutes=45))
    for tz, hour in ((UTC, "06:00"), (zone, "12:00")):
        chart = rate_chart([Column(at, {"SUCCESS": 1}) for at in range(0, 86_400, 1200)], 1200, title="Rate", zone=tz)
        times = re.findall(r'class="chart-x"[^>]*>([^<]*)<', chart)
        assert 2 <= len(times) <= 7
        assert hour in times
        assert all(time.endswith(":00") for time in times)


def test_points_of_the_history_become_columns_without_gaps() -> None:
    counted = [(120, "SUCCESS", 3), (120, "FAILURE", 1), (60, "SUCCESS", 2), (999_960, "SUCCESS", 9)]
    points = [Point(at=at, state=state, sums=Sums(n)) for at, state, n in counted]
    found = columns_of(points, 65.0, 190.0, 60)
    assert [(column.at, dict(column.counts)) for column in found] == [
        (60, {"SUCCESS": 2}), (120, {"SUCCESS": 3, "FAILURE": 1}), (180, {}),
    ]  # fmt: skip


@given(st.lists(st.integers(0, 10**12), max_size=40))
def test_a_sparkline_tells_its_sum_and_has_a_bar_for_each_number(values: list[int]) -> None:
    line = sparkline(values, "Failures in the last 24 hours")
    parsed(line)
    assert f"<title>Failures in the last 24 hours: {sum(values):,}" in line
    assert line.count("h3V20z") == sum(value > 0 for value in values)


def test_dots_of_each_end_have_a_shape_and_a_text_of_their_own() -> None:
    states = ["SUCCESS", "FAILURE", "RETRY", "REVOKED", "IGNORED", "PENDING"]
    dots = parsed(run_dots([Run(state, f"{state} at 12:00", f"/tasks/{state}") for state in states], "Last runs"))
    shapes = {ElementTree.tostring(dot[1]) for dot in dots.iter("svg")}
    assert len(shapes) == len(states)
    assert [link.get("href") for link in dots.iter("a")] == [f"/tasks/{state}" for state in states]
    assert [title.text for title in dots.iter("title")] == [f"{state} at 12:00" for state in states]
    assert run_dots([], "Last runs") == ""


def test_a_bar_of_states_is_as_wide_as_all_of_them() -> None:
    bar = parsed(state_bar({"SUCCESS": 3, "FAILURE": 1, "PENDING": 0}, "3 succeeded, 1 failed"))
    rects = [(rect.get("class"), rect.get("x"), rect.get("width")) for rect in bar.iter("rect")]
    assert rects == [("s-success", "0%", "75%"), ("s-failure", "75%", "25%")]
    assert next(bar.iter("title")).text == "3 succeeded, 1 failed"


def test_hostile_texts_stay_texts() -> None:
    for markup in (
        rate_chart(columns({HOSTILE: 3}), 60, title=HOSTILE, zone=UTC),
        sparkline([1], HOSTILE),
        run_dots([Run(HOSTILE, HOSTILE, "/tasks/" + HOSTILE)], HOSTILE),
        state_bar({HOSTILE: 3}, HOSTILE),
    ):
        assert isinstance(markup, Markup)
        assert "<script" not in markup
        assert " style=" not in markup
        assert "s-other" in markup or "spark" in markup
        assert next(parsed(markup).iter("title")).text
