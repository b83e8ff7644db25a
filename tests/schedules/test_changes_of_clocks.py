"""`cron` and `crontab` around the changes of clocks, against an oracle that goes minute by minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.schedules import zones
from celeriac.schedules.cron import cron
from celeriac.schedules.crontab import crontab
from celeriac.schedules.invalid import InvalidSchedule
from celeriac.schedules.schedule import Schedule
from tests.schedules.changes import ALL, Change, minutes, places
from tests.schedules.expressions import Expression, at_night, expressions

MINUTE = timedelta(minutes=1)
POLICIES = ("cron", "skip", "both")



def expected(expression: Expression, zone: str, change: Change, dst: str, vixie: bool) -> list[int]:
    """Return the ticks around a change, in milliseconds.

    Each minute, it looks at the times that the clock has shown or passed over since the minute before.
    """
    found: list[int] = []
    shown = minutes(zone, change)
    latest = before = shown[0][1] - MINUTE
    for instant, now in shown:
        if expression.real:
            times = [now]
        elif now > before + MINUTE and dst != "skip":
            times = [before + MINUTE * number for number in range(1, (now - before) // MINUTE + 1)]
        elif now <= latest and dst != "both":
            times = []
        else:
            times = [now]
        if any(expression.at(time, vixie) for time in times):
            found.append(instant * 1000)
        before, latest = now, max(latest, now)
    return found


def check(schedule: Schedule, ticks: list[int], start: int, end: int, asked: int) -> None:
    """Check the ticks of `start <= tick < end`: found from either end, and from an instant in between, and counted."""
    forward, tick = [], schedule.next(start - 1)
    while tick is not None and tick < end:
        forward.append(tick)
        tick = schedule.next(tick)
    assert forward == ticks
    backward, tick = [], schedule.previous(end)
    while tick is not None and tick >= start:
        backward.append(tick)
        tick = schedule.previous(tick)
    assert backward[::-1] == ticks
    assert schedule.count(start - 1, end - 1) == len(ticks)
    later, earlier = [tick for tick in ticks if tick > asked], [tick for tick in ticks if tick < asked]
    assert schedule.count(asked, end - 1) == len(later)
    assert schedule.count(start - 1, asked - 1) == len(earlier)
    if later:
        assert schedule.next(asked) == later[0]
    if earlier:
        assert schedule.previous(asked) == earlier[-1]


@settings(max_examples=100_000 if ALL else 200)
@given(at_night() | expressions(), places, st.sampled_from(POLICIES), st.booleans(), st.integers(-7_200_000, 7_200_000))
def test_ticks_are_those_that_one_finds_minute_by_minute(
    expression: Expression, place: tuple[str, Change], dst: str, vixie: bool, asked: int
) -> None:
    zone, change = place
    shown = minutes(zone, change)
    ticks = expected(expression, zone, change, dst, vixie)
    fields = (expression.minute, expression.hour, expression.weekday, expression.day, expression.month)
    try:
        if vixie:
            made: Schedule = cron(expression.text, tz=zone, dst=dst)
        else:
            made = crontab(*(text for text, _ in fields), tz=zone, dst=dst)
    except InvalidSchedule:  # it never comes, like the 31st of February
        assert ticks == []
    else:
        check(made, ticks, shown[0][0] * 1000, (shown[-1][0] + 60) * 1000, change * 1000 + asked)


def local(schedule: Schedule, zone: str, after: str, count: int) -> list[str]:
    """Return the next ticks as the clock shows them."""
    found, tick = [], int(datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)
    for _ in range(count):
        following = schedule.next(tick)
        assert following is not None
        tick = following
        found.append(datetime.fromtimestamp(tick / 1000, ZoneInfo(zone)).isoformat(timespec="minutes")[5:])
    return found


@pytest.mark.parametrize(
    ("dst", "ticks"),
    [
        ("cron", ["03-28T02:30+01:00", "03-29T03:00+02:00", "03-30T02:30+02:00"]),
        ("skip", ["03-28T02:30+01:00", "03-30T02:30+02:00", "03-31T02:30+02:00"]),
        ("both", ["03-28T02:30+01:00", "03-29T03:00+02:00", "03-30T02:30+02:00"]),
    ],
)
def test_a_time_that_is_left_out_is_made_up_for_or_skipped(dst: str, ticks: list[str]) -> None:
    schedule = crontab(minute=30, hour=2, tz="Europe/Berlin", dst=dst)
    assert local(schedule, "Europe/Berlin", "2026-03-28T00:00", 3) == ticks


@pytest.mark.parametrize(
    ("dst", "ticks"),
    [
        ("cron", ["10-25T02:30+02:00", "10-26T02:30+01:00"]),
        ("skip", ["10-25T02:30+02:00", "10-26T02:30+01:00"]),
        ("both", ["10-25T02:30+02:00", "10-25T02:30+01:00"]),
    ],
)
def test_a_time_that_is_repeated_is_due_once_or_twice(dst: str, ticks: list[str]) -> None:
    schedule = crontab(minute=30, hour=2, tz="Europe/Berlin", dst=dst)
    assert local(schedule, "Europe/Berlin", "2026-10-25T00:00", 2) == ticks


@pytest.mark.parametrize("dst", POLICIES)
def test_every_half_hour_stays_every_half_hour(dst: str) -> None:
    schedule = cron("*/30 * * * *", tz="Europe/Berlin", dst=dst)
    for after in ("2026-03-29T00:00", "2026-10-25T00:00"):
        tick = int(datetime.fromisoformat(after).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp() * 1000)
        for _ in range(20):
            following = schedule.next(tick)
            assert following == tick + 1_800_000
            tick = following


def test_two_changes_within_a_week_are_both_seen() -> None:
    """Noronha put its clocks forward on October 8, 2000, and back on the 15th."""
    ticks = local(cron("0 0 * * *", tz="America/Noronha"), "America/Noronha", "2000-10-07T12:00", 9)
    assert ticks == [
        "10-08T01:00-01:00",
        *(f"10-{day:02}T00:00-01:00" for day in range(9, 15)),
        *(f"10-{day:02}T00:00-02:00" for day in (15, 16)),
    ]


def test_a_change_is_seen_at_the_border_of_what_is_probed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    change = int(datetime(2026, 10, 25, 1, tzinfo=UTC).timestamp())
    schedule = cron("45 2 * * *", tz="Europe/Berlin")
    for border in (change - 1800, change, change + 1, change + 1800, change + 86_000):
        monkeypatch.setattr(zones, "BLOCK", border)
        zones._pieces.cache_clear()
        assert local(schedule, "Europe/Berlin", "2026-10-25T00:00", 2) == ["10-25T02:45+02:00", "10-26T02:45+01:00"]
        tick = schedule.next((change + 86_400) * 1000)
        assert tick is not None
        assert schedule.previous(tick) == (change - 900) * 1000
    monkeypatch.undo()
    zones._pieces.cache_clear()


def test_several_times_that_are_left_out_are_made_up_for_by_one_tick() -> None:
    schedule = cron("0,15,30 2,3 * * *", tz="Europe/Berlin")
    assert local(schedule, "Europe/Berlin", "2026-03-29T00:00", 3) == [
        "03-29T03:00+02:00", "03-29T03:15+02:00", "03-29T03:30+02:00",
    ]  # fmt: skip


def test_a_day_that_is_left_out_is_made_up_for() -> None:
    schedule = cron("0 12 30 12 *", tz="Pacific/Apia")
    assert local(schedule, "Pacific/Apia", "2011-12-01T00:00", 1) == ["12-31T00:00+14:00"]
    assert local(cron("0 12 30 12 *", tz="Pacific/Apia", dst="skip"), "Pacific/Apia", "2011-12-01T00:00", 1) == [
        "12-30T12:00+14:00"
    ]
    assert cron("0 12 30 12 *", tz="Pacific/Apia", dst="skip").count(
        int(datetime(2011, 1, 1).timestamp()) * 1000, int(datetime(2012, 6, 1).timestamp()) * 1000
    ) == 0  # fmt: skip


def test_seconds_are_made_up_for_too() -> None:
    schedule = cron("30 30 2 * * *", tz="Europe/Berlin")
    assert local(schedule, "Europe/Berlin", "2026-03-29T00:00", 1) == ["03-29T03:00+02:00"]
