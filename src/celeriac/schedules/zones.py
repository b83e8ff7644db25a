"""Time zones: found by name, and cut into the stretches of time in which the offset from UTC is constant.

`zoneinfo` tells the offset at an instant, and not when it changes. So each zone is probed, once per stretch of a year,
for changes; what was found is kept.
"""

from __future__ import annotations

import zoneinfo
from datetime import datetime, timezone, tzinfo
from functools import cache, lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from celeriac.errors import nearest
from celeriac.schedules.invalid import InvalidSchedule
from celeriac.schedules.moments import LATEST

__all__ = ["UTC_NAME", "Dst", "Piece", "piece", "zone", "zone_name"]

UTC_NAME: Final = "UTC"

Dst: TypeAlias = Literal["cron", "skip", "both"]
"""What happens at a fixed time of day that the change of the clocks leaves out, or repeats.

| `dst` | left out | repeated |
|---|---|---|
| `cron` | at once after the change | the first time |
| `skip` | not at all | the first time |
| `both` | at once after the change | both times |
"""

PROBE: Final = 3 * 86_400  # seconds; no zone has changed twice within 6 days since 1970 (and Noronha once within 7)
BLOCK: Final = 400 * 86_400  # seconds that are probed at once
OVERLAP: Final = 2 * 86_400  # no change moves a clock by more


class Piece(NamedTuple):
    """A stretch of time with one offset. Instants are in seconds since the epoch, offsets in seconds east of UTC."""

    start: int
    end: int  # not included
    offset: int
    before: int  # the offset before its start

    def low(self, dst: Dst | None) -> int:
        """Return the first time on the clock that this piece has to serve, under a policy; None: as the clock shows.

        At or after that time, time `t` is due at `max(start, t - offset)`. Where the clock was set forward, the times
        that it left out lie between `start + before` and `start + offset`; where it was set back, the repeated ones do.
        """
        if dst is None:
            return self.start + self.offset
        if dst == "cron":
            return self.start + self.before
        return self.start + (max if dst == "skip" else min)(self.before, self.offset)


def zone_name(tz: str | tzinfo) -> str:
    """Return the name of a zone, which exists on this machine.

    >>> zone_name(ZoneInfo("Europe/Berlin"))
    'Europe/Berlin'
    """
    if isinstance(tz, ZoneInfo) and tz.key:
        tz = tz.key
    elif tz is timezone.utc:  # noqa: UP017 - `datetime.UTC` is the same object
        tz = UTC_NAME
    if not isinstance(tz, str):
        raise InvalidSchedule(f"tz must be the name of a time zone ('Europe/Berlin') or a ZoneInfo, not {tz!r}.")
    zone(tz)
    return tz


@cache
def zone(name: str) -> ZoneInfo:
    """Return a zone. Raises `InvalidSchedule` if there is none of this name, with the nearest."""
    try:
        return ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a folder
        hint = nearest(name, _available())
    raise InvalidSchedule(f"No time zone is named {name!r}.{hint} If the name is right, this machine lacks the data "
                          "of time zones, or has old ones: pip install 'celeriac[tz]'.")  # fmt: skip


@cache
def _available() -> list[str]:
    return sorted(zoneinfo.available_timezones())


def piece(name: str, instant: int) -> Piece:
    """Return the stretch of time in a zone that holds an instant. Long ones are cut, with the same offset before."""
    for found in _pieces(name, instant // BLOCK):
        if instant < found.end:
            return found
    raise AssertionError("the pieces of a block reach its end")


@lru_cache(maxsize=4096)
def _pieces(name: str, block: int) -> tuple[Piece, ...]:
    """Return the pieces of a block. The first begins earlier, so that a change shortly before is seen."""
    tz = zone(name)
    start = block * BLOCK - OVERLAP
    end = (block + 1) * BLOCK
    before = offset = _offset(tz, start)
    pieces = []
    known = start  # until here there is no other change
    while known < end:
        probe = min(known + PROBE, end)
        if _offset(tz, probe) == offset:
            known = probe
            continue
        while probe - known > 1:
            middle = (known + probe) // 2
            if _offset(tz, middle) == offset:
                known = middle
            else:
                probe = middle
        pieces.append(Piece(start, probe, offset, before))
        start = known = probe
        before, offset = offset, _offset(tz, probe)
    return (*pieces, Piece(start, end, offset, before)) if start < end else tuple(pieces)


def _offset(tz: ZoneInfo, instant: int) -> int:
    found = datetime.fromtimestamp(min(max(instant, 0), LATEST // 1000), tz).utcoffset()
    assert found is not None
    return int(found.total_seconds())
