"""Intervals, single times, limits, zones, and what stands where a schedule is expected."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.schedules.cron import cron
from celeriac.schedules.crontab import crontab
from celeriac.schedules.intervals import every
from celeriac.schedules.kinds import AnySchedule, as_schedule
from celeriac.schedules.once import at
from tests.schedules.samples import SAMPLES, schedules

START = 1_767_225_600_000  # 2026-01-01T00:00Z
HOUR = 3_600_000


def test_intervals_are_aligned_to_the_epoch() -> None:
    schedule = every(30)
    assert schedule.next(1_000) == 30_000
    assert schedule.next(30_000) == 60_000
    assert schedule.previous(60_000) == 30_000
    assert schedule.next(-1) == 0
    assert schedule.previous(0) is None


def test_a_phase_moves_each_tick() -> None:
    assert every(hours=1, phase=600).next(START) == START + 600_000
    assert every(30, phase=timedelta(seconds=40)) == every(30, phase=10)


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (every(30), "every(30)"),
        (every(timedelta(minutes=2)), "every(minutes=2)"),
        (every(hours=1, minutes=30), "every(minutes=90)"),
        (every(days=7), "every(weeks=1)"),
        (every(0.5, phase=0.25), "every(0.5, phase=0.25)"),
    ],
)
def test_an_interval_is_shown_in_its_largest_unit(made: AnySchedule, shown: str) -> None:
    assert repr(made) == shown


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.integers(0, 10**13), st.integers(0, 50))
def test_intervals_are_counted(period: int, phase: int, after: int, number: int) -> None:
    schedule = every(period / 1000, phase=phase / 1000)
    tick = after
    for _ in range(number):
        tick = schedule.next(tick) or 0
    assert schedule.count(after, tick) == number


def test_a_single_time_is_due_once() -> None:
    schedule = at(datetime(2026, 1, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")))
    assert schedule.next(0) == START
    assert schedule.next(START) is None
    assert schedule.previous(START + 1) == START
    assert schedule.previous(START) is None
    assert (schedule.count(0, START), schedule.count(START, START + 5)) == (1, 0)


def test_limits_are_part_of_a_schedule() -> None:
    schedule = cron("@hourly", starts="2026-01-01T00:00Z", ends="2026-01-01T03:00Z")
    assert [schedule.next(after) for after in (0, START - 1, START)] == [START, START, START + HOUR]
    assert schedule.next(START + 3 * HOUR) is None
    assert schedule.previous(START + 100 * HOUR) == START + 3 * HOUR
    assert schedule.previous(START) is None
    assert schedule.count(0, START + 100 * HOUR) == 4
    between = cron("@hourly", starts="2026-01-01T00:30Z", ends="2026-01-01T01:30Z")
    assert (between.next(0), between.next(START + HOUR)) == (START + HOUR, None)
    assert (between.previous(START + HOUR), between.previous(START + 9 * HOUR)) == (None, START + HOUR)
    assert every(hours=1, starts=datetime(2026, 1, 1, tzinfo=UTC)).next(0) == START


@given(schedules(), st.integers(0, 4 * 10**12), st.integers(0, 10**11))
def test_ticks_are_counted_as_they_are_found(schedule: AnySchedule, after: int, length: int) -> None:
    found, tick = 0, schedule.next(after)
    while tick is not None and tick <= after + length and found < 2_000:
        found, tick = found + 1, schedule.next(tick)
    if found < 2_000:
        assert schedule.count(after, after + length) == found


@pytest.mark.parametrize("schedule", SAMPLES, ids=repr)
def test_next_and_previous_are_inverse_for_each_kind(schedule: AnySchedule) -> None:
    tick = schedule.next(START)
    for _ in range(5):
        if tick is not None and (later := schedule.next(tick)) is not None:
            assert schedule.previous(later) == tick
            tick = later


@pytest.mark.parametrize(
    ("value", "meant"),
    [(30.0, every(30)), (30, every(30)), (timedelta(hours=1), every(hours=1)), ("0 9 * * *", cron("0 9 * * *"))],
)
def test_a_number_stands_for_an_interval_and_text_for_a_cron_expression(value: Any, meant: AnySchedule) -> None:
    assert as_schedule(value) == meant
    assert as_schedule(meant) is meant


def test_a_schedule_without_zone_gets_that_of_the_app() -> None:
    plain = crontab(minute=0, hour=9)
    assert plain.in_zone("Europe/Berlin") == crontab(minute=0, hour=9, tz=ZoneInfo("Europe/Berlin"))
    assert crontab(minute=0, hour=9, tz=UTC).in_zone("Europe/Berlin").next(START) == START + 9 * HOUR
    assert plain.next(START) == START + 9 * HOUR
    assert every(30).in_zone("Europe/Berlin") == every(30)


def test_an_expression_is_kept_as_written() -> None:
    schedule = cron("0  9 * JAN-mar Mon", tz="Europe/Berlin", dst="skip")
    assert repr(schedule) == "cron('0 9 * JAN-mar Mon', tz='Europe/Berlin', dst='skip')"
    assert repr(crontab(minute=0, hour=(17, 9), day_of_week="mon-fri")) == (
        "crontab(minute=0, hour='9,17', day_of_week='mon-fri')"
    )
