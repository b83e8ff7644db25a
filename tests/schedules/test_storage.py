"""Schedules are values: stored, read back, compared and shown. What is no schedule is refused when it is read."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import celeriac.schedules
from celeriac.model.gate import Unreadable, reader
from celeriac.schedules.kinds import AnySchedule
from tests.schedules.samples import SAMPLES, schedules

NOW = 1_800_000_000_000

encode = msgspec.msgpack.encode
read_schedule: Callable[[bytes], AnySchedule] = reader(AnySchedule, "a schedule")
CALLS = {name: getattr(celeriac.schedules, name) for name in celeriac.schedules.__all__}


def check(schedule: AnySchedule) -> None:
    """Check that a schedule is the same after storing, reading and evaluating it."""
    assert read_schedule(encode(schedule)) == schedule
    assert msgspec.json.decode(msgspec.json.encode(schedule), type=AnySchedule) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert eval(repr(schedule), dict(CALLS)) == schedule
    assert hash(read_schedule(encode(schedule))) == hash(schedule)
    assert schedule.describe()


@pytest.mark.parametrize("schedule", SAMPLES, ids=repr)
def test_a_schedule_is_the_same_after_storing_and_reading_it(schedule: AnySchedule) -> None:
    check(schedule)
    assert read_schedule(encode(schedule)).next(NOW) == schedule.next(NOW)


@given(schedules())
def test_a_random_schedule_is_the_same_after_storing_and_reading_it(schedule: AnySchedule) -> None:
    check(schedule)


def test_schedules_that_differ_are_not_equal() -> None:
    assert len(set(SAMPLES)) == len(SAMPLES)
    assert all((one == other) == (first == second) for first, one in enumerate(SAMPLES)
               for second, other in enumerate(SAMPLES))  # fmt: skip


def test_a_schedule_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        SAMPLES[0].starts = 5  # type: ignore[misc]


HOSTILE: dict[str, Any] = {
    "nothing": {},
    "an unknown kind": {"type": "moon"},
    "a kind alone": {"type": "cron"},
    "a number": 30,
    "no expression": {"type": "cron", "expression": ""},
    "a day that never comes": {"type": "cron", "expression": "0 0 30 2 *"},
    "a day that never comes in crontab": {"type": "crontab", "day_of_month": "31", "month_of_year": "2,4"},
    "a long expression": {"type": "cron", "expression": "0 " * 10_000},
    "a long list": {"type": "cron", "expression": "0," * 600 + "0 0 * * *"},
    "a big number": {"type": "cron", "expression": "9" * 900 + " 0 * * *"},
    "a big step": {"type": "cron", "expression": "*/" + "9" * 900 + " 0 * * *"},
    "a step of 0": {"type": "cron", "expression": "*/0 * * * *"},
    "other digits": {"type": "cron", "expression": "٣ * * * *"},
    "a fraction as digit": {"type": "cron", "expression": "½ * * * *"},
    "an unknown zone": {"type": "cron", "expression": "@daily", "tz": "Europe/Berlim"},
    "a path as zone": {"type": "cron", "expression": "@daily", "tz": "../../../etc/passwd"},
    "an absolute path as zone": {"type": "cron", "expression": "@daily", "tz": "/etc/passwd"},
    "a folder as zone": {"type": "cron", "expression": "@daily", "tz": "Europe"},
    "a zone with a zero": {"type": "cron", "expression": "@daily", "tz": "Europe/\0Berlin"},
    "no name as zone": {"type": "cron", "expression": "@daily", "tz": ""},
    "an unknown policy": {"type": "cron", "expression": "@daily", "dst": "never"},
    "an end before the start": {"type": "cron", "expression": "@daily", "starts": 5, "ends": 4},
    "limits without a tick": {"type": "cron", "expression": "@daily", "starts": 5, "ends": 50},
    "a start before 1970": {"type": "cron", "expression": "@daily", "starts": -1},
    "an end after 9999": {"type": "cron", "expression": "@daily", "ends": 2**62},
    "a start that is text": {"type": "cron", "expression": "@daily", "starts": "now"},
    "an interval of 0": {"type": "every", "period": 0},
    "a negative interval": {"type": "every", "period": -5},
    "a huge interval": {"type": "every", "period": 2**62},
    "a phase beyond the interval": {"type": "every", "period": 5, "phase": 5},
    "an unknown event": {"type": "solar", "event": "moonrise", "lat": 1.0, "lon": 1.0},
    "a place at NaN": {"type": "solar", "event": "sunset", "lat": math.nan, "lon": 1.0},
    "a place off the earth": {"type": "solar", "event": "sunset", "lat": 1.0, "lon": 181.0},
    "an offset of a year": {"type": "solar", "event": "sunset", "lat": 1.0, "lon": 1.0, "offset": 10**11},
    "an instant before 1970": {"type": "at", "instant": -1},
    "an instant after 9999": {"type": "at", "instant": 2**60},
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_schedule_is_refused_when_it_is_read(value: Any) -> None:
    with pytest.raises(Unreadable):
        read_schedule(msgspec.msgpack.encode(value))


def test_a_zone_that_utf8_cannot_write_is_refused() -> None:
    with pytest.raises(Unreadable):
        read_schedule(b"\x83\xa4type\xa4cron\xaaexpression\xa6@daily\xa2tz\xa3\xed\xa0\x80")


TEXTS = st.sampled_from(
    ["*", "0", "59", "*/7", "L", "L-3", "5L", "mon#5", "29", "2", "1-31/30", "0 0 29 2 *", "* * * * * *", "@yearly"]
) | st.text("*/,-#L0123456789 @monfeb", min_size=1, max_size=20)
WILD = st.dictionaries(
    st.sampled_from(["expression", "minute", "hour", "day_of_week", "day_of_month", "month_of_year"]), TEXTS
).flatmap(
    lambda fields: st.fixed_dictionaries(
        {"type": st.sampled_from(["cron", "crontab", "every", "at"]), "period": st.integers(-1, 10**14)},
        optional={
            "tz": st.sampled_from(["Europe/Berlin", "Pacific/Apia", "UTC", "x"]),
            "dst": st.sampled_from(["cron", "skip", "both", "x"]),
            "starts": st.integers(-5, 10**15),
            "ends": st.integers(-5, 10**15),
            "phase": st.integers(-1, 10**14),
            "instant": st.integers(-1, 10**15),
        },
    ).map(lambda rest: {**fields, **rest})
)


@given(WILD, st.integers(-(2**62), 2**62))
def test_whatever_is_read_can_be_asked(value: dict[str, Any], instant: int) -> None:
    with suppress(Unreadable):
        schedule = read_schedule(msgspec.msgpack.encode(value))
        tick, earlier = schedule.next(instant), schedule.previous(instant)
        assert tick is None or tick > instant
        assert earlier is None or earlier < instant
        assert schedule.count(instant, instant + 10**11) >= 0
        assert schedule.describe()
        assert repr(schedule)
