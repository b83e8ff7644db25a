"""What cannot be a schedule is refused where it is declared, with a message that says why and what to do."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from celeriac.errors import ImproperlyConfigured
from celeriac.schedules import zones
from celeriac.schedules.cron import cron
from celeriac.schedules.crontab import crontab
from celeriac.schedules.intervals import every
from celeriac.schedules.kinds import as_schedule
from celeriac.schedules.once import at

NAIVE = datetime(2026, 1, 1)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 2,4,6,9,11 *", "never comes"),
        ("0 0 L-29 2 *", "never comes"),
        ("60 * * * *", "minute 60 is not between 0 and 59"),
        ("* 24 * * *", "hour 24 is not between 0 and 23"),
        ("* * 0 * *", "day of the month 0 is not between 1 and 31"),
        ("* * * 13 *", "month 13 is not between 1 and 12"),
        ("* * * * 8", "day of the week 8 is not between 0 and 7"),
        ("-1 * * * *", "minute '' is not a number"),
        ("1-x * * * *", "minute 'x' is not a number"),
        ("0,,5 * * * *", "minute '' is not a number"),
        ("* * * juli *", "month 'juli' is not a number or a name. Did you mean 'jul"),
        ("* * * * mno", "day of the week 'mno' is not a number or a name. Did you mean 'mon'"),
        ("*/0 * * * *", "step '0' of the minute"),
        ("*/90 * * * *", r"step 90 of the minute is over 60.*every\(minutes=90\)"),
        ("* * L-31 * *", "'L-31' is neither L nor L-0 to L-30"),
        ("* * Lx * *", "'LX' is neither L nor"),
        ("* * * * L", "5L is the last Friday"),
        ("* * * * mon#6", "does not end in #1 to #5"),
        ("* * * *", "five fields .* not 4"),
        ("0 0 * * * * *", "five fields .* not 7"),
        ("@dayly", "name is unknown. Did you mean '@daily'"),
        ("", "is text like"),
        (7, "is text like"),
        ("* " * 2000, "is text like"),
    ],
)
def test_a_wrong_expression_is_refused(expression: Any, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        cron(expression)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"minute": 60}, r"crontab\(minute=60\): the minute 60 is not between 0 and 59"),
        ({"minute": -1}, "minute"),
        ({"minute": True}, "minute must be a number, numbers, or text"),
        ({"minute": 1.5}, "minute must be a number, numbers, or text"),
        ({"minute": None}, "minute must be a number, numbers, or text"),
        ({"minute": []}, "minute is empty"),
        ({"minute": ["0"]}, "minute must hold numbers"),
        ({"hour": ""}, "hour is empty"),
        ({"hour": "nine"}, "hour 'nine' is not a number"),
        ({"day_of_week": "sonday"}, "Did you mean 'sunday'"),
        ({"day_of_month": 30, "month_of_year": 2}, "never comes"),
        ({"day_of_month": 8, "day_of_week": "mon#1"}, "never comes"),
    ],
    ids=str,
)
def test_a_wrong_field_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        crontab(**fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: every(0), "from a millisecond to a thousand years"),
        (lambda: every(), "from a millisecond"),
        (lambda: every(-5), "from a millisecond"),
        (lambda: every(0.0001), "from a millisecond"),
        (lambda: every("30"), "must be seconds"),  # type: ignore[arg-type]
        (lambda: every(float("nan")), "within a thousand years"),
        (lambda: every(timedelta(days=999_999)), "within a thousand years"),
        (lambda: every(30, minutes=1), "an interval or units, not both"),
        (lambda: every(hours=1, phase="5"), "phase must be seconds"),  # type: ignore[arg-type]
        (lambda: at(NAIVE), "aware datetime: the zone of .* is unknown"),
        (lambda: at("2026-01-01T09:00"), "aware datetime"),
        (lambda: at("tomorrow"), "ISO 8601"),
        (lambda: at(1_800_000_000), "aware datetime"),  # type: ignore[arg-type]
        (lambda: at(datetime(1969, 1, 1, tzinfo=UTC)), "between 1970 and 9999"),
        (lambda: cron("@daily", starts=NAIVE), "starts must be an aware datetime"),
        (lambda: cron("@daily", ends=NAIVE), "ends must be an aware datetime"),
        (lambda: cron("@daily", starts="2026-02-01T00:00Z", ends="2026-01-01T00:00Z"), "ends before it starts"),
        (lambda: cron("@yearly", starts="2026-02-01T00:00Z", ends="2026-03-01T00:00Z"), "never comes"),
        (lambda: cron("@daily", dst="skp"), "dst must be 'cron', 'skip' or 'both', not 'skp'. Did you mean 'skip'"),  # type: ignore[arg-type]
        (lambda: cron("@daily", tz=timezone(timedelta(hours=1))), "name of a time zone"),
        (lambda: cron("@daily", tz=5), "name of a time zone"),  # type: ignore[arg-type]
        (lambda: cron("@daily", tz="Europe/Berlim"), r"Did you mean 'Europe/Berlin'\?.*celeriac\[tz\]"),
        (lambda: cron("@daily").in_zone("Europe/Berlim"), "Did you mean 'Europe/Berlin'"),
        (lambda: as_schedule(None), r"a schedule is crontab\(…\)"),  # type: ignore[arg-type]
        (lambda: as_schedule(True), r"a schedule is crontab\(…\)"),
    ],
)
def test_a_wrong_argument_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        make()


def test_what_is_refused_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="never comes"):
        cron("0 0 30 2 *")


@pytest.fixture
def no_zones() -> Iterator[None]:
    """A machine without the data of time zones."""
    path = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=[])
    ZoneInfo.clear_cache()
    for cached in (zones.zone, zones._available, zones._pieces):
        cached.cache_clear()  # type: ignore[attr-defined]
    yield
    zoneinfo.reset_tzpath(to=path)
    zones._available.cache_clear()


@pytest.mark.usefixtures("no_zones")
def test_a_machine_without_zones_is_told_what_to_install() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'celeriac\[tz\]'"):
        cron("@daily", tz="Europe/Berlin")
