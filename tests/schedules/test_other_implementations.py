"""`cron` against cronsim, and `crontab` against Celery."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import celery.schedules
import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.schedules.cron import cron
from celeriac.schedules.crontab import crontab
from celeriac.schedules.invalid import InvalidSchedule
from celeriac.schedules.schedule import Schedule
from tests.schedules.changes import Change, places
from tests.schedules.expressions import Expression, at_night, expressions

instants = st.integers(946_684_800, 2_145_916_800)


def following(schedule: Schedule, start: int, count: int) -> list[int]:
    """Return the next ticks, in seconds."""
    found, tick = [], schedule.next(start * 1000)
    while tick is not None and len(found) < count:
        found.append(tick // 1000)
        tick = schedule.next(tick)
    return found


def preceding(schedule: Schedule, start: int, count: int) -> list[int]:
    found, tick = [], schedule.previous(start * 1000)
    while tick is not None and len(found) < count:
        found.append(tick // 1000)
        tick = schedule.previous(tick)
    return found


def made(text: str, **options: Any) -> Schedule | None:
    try:
        return cron(text, **options)
    except InvalidSchedule:
        return None


def in_seconds(times: Any, count: int) -> list[int]:
    return [int(found.timestamp()) for found in islice(times, count)]


@settings(max_examples=200)
@given(at_night() | expressions().filter(lambda found: not found.real), places, st.integers(-86_400, 86_400))
def test_cron_has_the_ticks_of_cronsim_around_changes_of_clocks(
    expression: Expression, place: tuple[str, Change], seconds: int
) -> None:
    """Only those at fixed times: around changes, cronsim 2.8 does not return for some that go by real time."""
    zone, change = place
    text, start = expression.text.replace("L-", ""), change + seconds
    schedule = made(text, tz=zone)
    if schedule is not None:
        theirs = CronSim(text, datetime.fromtimestamp(start, ZoneInfo(zone)))
        expected = [tick for tick in in_seconds(theirs, 12) if tick > start]  # it begins with repeated times
        assert following(schedule, start, len(expected)) == expected


@settings(max_examples=200)
@given(expressions(), st.none() | st.sampled_from(["0", "30", "*", "*/7", "5,50-59/3"]), instants)
def test_cron_has_the_ticks_of_cronsim_in_both_directions(
    expression: Expression, seconds: str | None, start: int
) -> None:
    text = expression.text.replace("L-", "")  # which cronsim does not know
    if seconds is not None:
        text = f"{seconds} {text}"
    schedule = made(text)
    if schedule is not None:
        moment = datetime.fromtimestamp(start, UTC)
        assert following(schedule, start, 5) == in_seconds(CronSim(text, moment), 5)
        assert preceding(schedule, start, 5) == in_seconds(CronSim(text, moment, reverse=True), 5)


def next_of_celery(schedule: celery.schedules.crontab, after: datetime) -> datetime:
    last, delta, _ = schedule.remaining_delta(after, tz=UTC)
    found: datetime = last + delta
    return found


@settings(max_examples=200)
@given(expressions(plain=True), instants)
def test_crontab_has_the_ticks_of_celery(expression: Expression, start: int) -> None:
    fields = [field[0] for field in (expression.minute, expression.hour, expression.weekday, expression.day)]
    fields.append(expression.month[0])
    try:
        ours = crontab(*fields)
    except InvalidSchedule:
        return
    now = datetime.fromtimestamp(start, UTC)
    theirs, expected = celery.schedules.crontab(*fields, nowfun=lambda: now), []
    last = now
    for _ in range(5):
        last = next_of_celery(theirs, last)
        expected.append(int(last.timestamp()))
    assert following(ours, start, 5) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"minute": 0}, {"minute": {0, 30}, "hour": [9, 17]}, {"hour": "22-2"}, {"hour": "22-4/2", "minute": "5"},
        {"day_of_week": "fri-mon"}, {"day_of_week": "thursday,friday"}, {"day_of_week": "Sat"},
        {"day_of_month": range(1, 8), "day_of_week": (1, 2)}, {"month_of_year": "nov-feb", "minute": "0", "hour": "0"},
        {"day_of_month": "*/10", "hour": "*/7", "minute": "1,13,30-45,50-59/2"}, {"day_of_week": "*/2", "hour": 3},
    ],
    ids=str,
)  # fmt: skip
def test_each_spelling_of_celery_means_the_same(fields: dict[str, Any]) -> None:
    last = datetime(2026, 12, 30, 23, 59, tzinfo=UTC)
    theirs = celery.schedules.crontab(**fields, nowfun=lambda: last)
    tick: int | None = int(last.timestamp() * 1000)
    for _ in range(50):
        last = next_of_celery(theirs, last)
        tick = crontab(**fields).next(tick or 0)
        assert tick == int(last.timestamp() * 1000)


@given(at_night() | expressions(), places, st.integers(-172_800, 172_800), st.sampled_from(["cron", "skip", "both"]))
def test_next_and_previous_are_inverse(
    expression: Expression, place: tuple[str, Change], seconds: int, dst: str
) -> None:
    zone, change = place
    schedule = made(expression.text, tz=zone, dst=dst)
    if schedule is not None and (tick := schedule.next((change + seconds) * 1000)) is not None:
        later = schedule.next(tick)
        assert later is None or schedule.previous(later) == tick
        assert schedule.next(tick - 1) == schedule.previous(tick + 1) == tick
        if (earlier := schedule.previous(tick)) is not None:
            assert schedule.next(earlier) == tick
            assert schedule.count(earlier, tick) == 1


def test_days_that_are_forty_years_apart_are_found() -> None:
    schedule = crontab(minute=0, hour=0, day_of_month=29, month_of_year=2, day_of_week="mon")
    tick = int(datetime(2073, 1, 1, tzinfo=UTC).timestamp() * 1000)
    found = []
    for _ in range(3):
        tick = schedule.next(tick) or 0
        found.append(datetime.fromtimestamp(tick / 1000, UTC).year)
    assert found == [2112, 2140, 2168]
    assert schedule.previous(schedule.previous(tick) or 0) == int(datetime(2112, 2, 29, tzinfo=UTC).timestamp() * 1000)


def test_the_last_tick_is_before_the_year_10000() -> None:
    schedule = cron("0 0 1 1 *", tz="Pacific/Kiritimati")
    last = schedule.previous(10**18)
    assert last is not None
    assert datetime.fromtimestamp(last / 1000, UTC) - datetime(9999, 1, 1, tzinfo=UTC) < timedelta(days=1)
    assert schedule.next(last) is None
    assert schedule.next(10**18) is None
    assert schedule.previous(-(10**18)) is None
    assert schedule.next(-(10**18)) == schedule.next(-1)
