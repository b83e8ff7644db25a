"""`solar` against ephem, asked as Celery asks it: for the next event after an instant."""

from __future__ import annotations

import functools
import importlib
import sys
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import ephem
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.errors import ImproperlyConfigured
from celeriac.schedules.solar import EVENTS, solar

module = importlib.import_module("celeriac.schedules.solar")  # the package exports the function by this name

MINUTE = 60_000
DAY = 86_400_000

instants = st.datetimes(datetime(2000, 1, 1), datetime(2037, 12, 31), timezones=st.just(UTC))


def in_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def asked(event: str, lat: float, lon: float, after: datetime) -> int:
    """Return the next event, in milliseconds; days without it are passed over."""
    place, sun = ephem.Observer(), ephem.Sun()
    place.lat, place.lon, place.elevation, place.pressure = str(lat), str(lon), 0, 0
    place.horizon = {"sunrise": "-0:34", "sunset": "-0:34", "solar_noon": "0"}.get(event) or {
        "civil": "-6", "nautical": "-12", "astronomical": "-18"}[event.split("_")[1]]  # fmt: skip
    more = {"use_center": True} if event.startswith(("dawn", "dusk")) else {}
    method = {"da": "next_rising", "sunr": "next_rising", "so": "next_transit"}
    name = next((found for start, found in method.items() if event.startswith(start)), "next_setting")
    start = ephem.Date(after)
    for _ in range(400):
        try:
            found = getattr(place, name)(sun, start=start, **more)
            return in_ms(found.datetime().replace(tzinfo=UTC))
        except ephem.CircumpolarError:
            start = place.next_antitransit(sun, start=start)
    raise AssertionError("no event")


@settings(max_examples=150)
@given(st.sampled_from(sorted(EVENTS)), st.floats(-60, 60), st.floats(-180, 180), instants)
def test_events_are_where_ephem_finds_them(event: str, lat: float, lon: float, after: datetime) -> None:
    """Near the poles, ephem itself misses events of the days on which the sun begins or ceases to rise."""
    schedule = solar(event, lat, lon)
    start = in_ms(after)
    tick = schedule.next(start)
    assert tick is not None
    theirs = asked(event, lat, lon, after)
    if theirs - start > MINUTE and tick - start > MINUTE:  # else both have found the event at `start`, or one has
        assert abs(tick - theirs) <= MINUTE
    assert schedule.previous(tick + 1) == tick
    earlier = schedule.previous(tick)
    assert earlier is not None
    assert schedule.next(earlier) == tick


@pytest.mark.parametrize("event", sorted(EVENTS))
@pytest.mark.parametrize("lat", [-78.0, -66.0, 62.0, 69.7, 85.0])
def test_days_without_the_event_are_passed_over(event: str, lat: float) -> None:
    schedule = solar(event, lat, 18.9)
    ticks, tick = [], in_ms(datetime(2025, 1, 1, tzinfo=UTC))
    end = in_ms(datetime(2027, 1, 1, tzinfo=UTC))
    while (following := schedule.next(tick)) is not None and following < end:
        ticks.append(following)
        tick = following
    lengths = [later - earlier for earlier, later in pairwise(ticks)]
    assert min(lengths) > DAY / 2
    assert len(ticks) > 40
    if event == "solar_noon":
        assert len(ticks) == 730
    elif abs(lat) > 69:
        assert max(lengths) > 10 * DAY
    assert schedule.count(in_ms(datetime(2025, 1, 1, tzinfo=UTC)), end - 1) == len(ticks)
    for earlier, later in pairwise(ticks):
        assert schedule.previous(later) == earlier


@functools.cache
def above(lat: float, seconds: range) -> list[bool]:
    """Say of each instant whether the sun is up: a second of computing."""
    place, sun, refraction = ephem.Observer(), ephem.Sun(), float(ephem.degrees("0:34"))
    place.lat, place.lon, place.elevation, place.pressure = str(lat), "18.9", 0, 0
    found = []
    for instant in seconds:
        place.date = instant / 86_400 + module.EPOCH
        sun.compute(place)
        found.append(sun.alt + sun.radius + refraction > 0)
    return found


@pytest.mark.parametrize("event", ["sunrise", "sunset"])
@pytest.mark.parametrize("lat", [67.5, 85.0])
def test_no_event_is_missed_when_the_sun_begins_or_ceases_to_rise(event: str, lat: float) -> None:
    """Against the sun's altitude, every five minutes of a year."""
    start, step = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()), 300
    seconds = range(start, start + 365 * 86_400, step)
    crossing = (event == "sunset", event == "sunrise")
    pairs = zip(seconds[1:], pairwise(above(lat, seconds)), strict=True)
    crossings = [instant for instant, states in pairs if states == crossing]
    schedule, tick, ticks = solar(event, lat, 18.9), start * 1000, []
    while (tick := schedule.next(tick) or 0) < (start + 365 * 86_400) * 1000:
        ticks.append(tick // 1000)
    assert len(ticks) == len(crossings)
    assert all(abs(tick - crossing) < 2 * step for tick, crossing in zip(ticks, crossings, strict=True))


def test_ticks_do_not_depend_on_when_one_asks() -> None:
    schedule = solar("sunset", 48.2, 16.4)
    start = in_ms(datetime(2026, 6, 1, tzinfo=UTC))
    found = {schedule.next(start + minute * MINUTE) for minute in range(0, 3 * 1440, 7)}
    assert len(found) == 4
    assert all(tick is not None and tick % 1000 == 0 for tick in found)


def test_an_offset_moves_each_tick() -> None:
    start = in_ms(datetime(2026, 6, 1, tzinfo=UTC))
    plain, moved = solar("sunset", 48.2, 16.4), solar("sunset", 48.2, 16.4, offset=-1800)
    tick = plain.next(start)
    assert tick is not None
    assert moved.next(tick - 1_800_001) == tick - 1_800_000
    assert moved.describe() == "30 minutes before sunset, latitude 48.2, longitude 16.4"
    assert repr(moved) == "solar('sunset', 48.2, 16.4, offset=-1800)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sunst", 48.2, 16.4), "no event 'sunst'. Did you mean 'sunset'"),
        (("sunset", 91, 16.4), "lat must be from -90 to 90"),
        (("sunset", 48.2, float("nan")), "lon must be from -180 to 180"),
        (("sunset", "48", 16.4), "lat must be"),
        (("sunrise", 90, 0), "never comes"),
    ],
)
def test_what_is_no_event_or_no_place_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        solar(*arguments)


def test_a_missing_ephem_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ephem", None)
    module._ephem.cache_clear()
    try:
        with pytest.raises(ImproperlyConfigured, match=r"pip install 'celeriac\[solar\]'"):
            solar("sunset", 1.25, 2.5)
    finally:
        module._ephem.cache_clear()


def test_ephem_is_not_imported_before_it_is_used() -> None:
    assert "ephem" not in vars(importlib.import_module("celeriac.schedules.kinds"))
    assert "ephem" not in vars(module)
