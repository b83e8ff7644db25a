"""The changes of clocks from 2000 to 2037, and what the clocks show around them, minute by minute."""

from __future__ import annotations

import os
import zoneinfo
from datetime import UTC, datetime
from functools import cache, lru_cache
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

__all__ = ["ALL", "ZONES", "Change", "minutes", "places"]

ALL = os.environ.get("CELERIAC_TEST_CHANGES") == "all"
"""Set this variable to draw from every change of every zone, which takes an hour, and not from a sample of them."""

SAMPLE = [
    "Africa/Cairo", "Africa/Casablanca", "America/Caracas", "America/Havana", "America/New_York", "America/Noronha",
    "America/Sao_Paulo", "America/St_Johns", "Antarctica/Troll", "Asia/Beirut", "Asia/Gaza", "Asia/Pyongyang",
    "Asia/Tehran", "Australia/Lord_Howe", "Europe/Berlin", "Europe/Dublin", "Pacific/Apia",
]  # fmt: skip
ZONES = sorted(zoneinfo.available_timezones()) if ALL else SAMPLE

Change = int
"""The instant of a change, in seconds since the epoch."""

START, END = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (2000, 2038))
STEP = 12 * 3600
AROUND = 36 * 3600


@cache
def _changes(zone: str) -> list[Change]:
    """Return the changes of a zone's offset."""
    found, tz = [], ZoneInfo(zone)
    for start in range(START, END, STEP):
        low, high = start, start + STEP
        if _offset(low, tz) == _offset(high, tz):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _offset(middle, tz) == _offset(low, tz) else (low, middle)
        found.append(high)
    return found


places = st.deferred(lambda: st.sampled_from([(zone, change) for zone in ZONES for change in _changes(zone)]))
"""A zone and one of its changes."""


def _offset(instant: int, tz: ZoneInfo) -> object:
    return datetime.fromtimestamp(instant, tz).utcoffset()


@lru_cache(maxsize=200)  # of 0.6 MB each
def minutes(zone: str, change: Change) -> list[tuple[int, datetime]]:
    """Return each minute around a change: seconds since the epoch, and what the clock shows."""
    tz = ZoneInfo(zone)
    return [
        (instant, datetime.fromtimestamp(instant, tz).replace(tzinfo=None, fold=0))
        for instant in range(change - AROUND, change + AROUND, 60)
    ]
