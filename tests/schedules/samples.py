"""Schedules of every kind, and random ones."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from celeriac.schedules.cron import cron
from celeriac.schedules.crontab import crontab
from celeriac.schedules.intervals import every
from celeriac.schedules.invalid import InvalidSchedule
from celeriac.schedules.kinds import AnySchedule
from celeriac.schedules.moments import LATEST
from celeriac.schedules.once import at
from celeriac.schedules.solar import solar
from tests.schedules.changes import ZONES
from tests.schedules.expressions import Expression, expressions

__all__ = ["SAMPLES", "schedules"]

SAMPLES: list[AnySchedule] = [
    cron("0 9 1 * mon"),
    cron("*/5 0 9 L-3 jan-mar MON#2,5L", tz="Asia/Tokyo", dst="both"),
    cron("@weekly", starts="2026-01-01T00:00+00:00", ends=datetime(2027, 1, 1, tzinfo=UTC)),
    crontab(),
    crontab(minute={0, 30}, hour="22-2", tz="Europe/Berlin", dst="skip"),
    crontab(minute=0, hour=0, day_of_month="29", month_of_year=2, day_of_week="mon"),
    every(30),
    every(0.25, phase=0.125, ends="2030-01-01T00:00:00+02:00"),
    every(hours=36, phase=600),
    solar("sunset", 48.2, 16.4, offset=-1800),
    solar("dawn_civil", -66, 140),
    at("2026-12-24T18:00+01:00"),
]


def _cron(expression: Expression, **options: Any) -> AnySchedule:
    try:
        return cron(expression.text, **options)
    except InvalidSchedule:  # it never comes
        return cron("0 0 * * *", **options)


def schedules() -> st.SearchStrategy[AnySchedule]:
    """Return schedules of all kinds but solar ones, which are slow."""
    return st.one_of(
        st.builds(_cron, expressions(), tz=st.sampled_from(ZONES), dst=st.sampled_from(["cron", "skip", "both"])),
        st.builds(every, st.floats(0.001, 1e7), phase=st.floats(0, 1e7)),
        st.integers(0, LATEST // 1000).map(lambda seconds: at(datetime.fromtimestamp(seconds, UTC))),
    )
