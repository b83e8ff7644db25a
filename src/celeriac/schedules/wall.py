"""Schedules by the clock on the wall: a pattern, in a zone, with a policy for the change of the clocks.

Each stretch of time with one offset (`zones.piece`) serves a range of wall times. Which range, is the policy. So the
search is the pattern's within each range, one stretch after the other. Like Debian's cron, a pattern with a star at the
beginning of its minute or hour goes by real time: it fires whenever the clock shows a time that matches.
"""

from __future__ import annotations

from datetime import tzinfo
from typing import Annotated, Any, Final, Self, TypeAlias, get_args

import msgspec
from msgspec import Meta

from celeriac.errors import nearest
from celeriac.schedules import words
from celeriac.schedules.invalid import InvalidSchedule
from celeriac.schedules.pattern import Pattern
from celeriac.schedules.schedule import Schedule
from celeriac.schedules.zones import UTC_NAME, Dst, Piece, piece, zone, zone_name

__all__ = ["WallSchedule", "ZoneName", "options"]

HORIZON: Final = 50 * 366 * 86_400  # seconds; days of a calendar come at most 40 years apart (a Monday, February 29)

ZoneName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=100)]


class WallSchedule(Schedule, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A schedule whose ticks are given as times on a clock, to the second."""

    tz: ZoneName | None = None  # the app's `timezone`, put in by `in_zone`; without, UTC
    dst: Dst = "cron"

    def in_zone(self, timezone: str) -> Self:
        """Return this schedule in a zone, unless it has one."""
        return self if self.tz is not None else msgspec.structs.replace(self, tz=zone_name(timezone))

    def _pattern(self) -> Pattern:
        """Return the pattern. Raises `InvalidSchedule` for fields that have none."""
        raise NotImplementedError

    def _check(self) -> None:
        zone(self.tz or UTC_NAME)
        try:
            self._pattern()
        except InvalidSchedule as error:
            raise InvalidSchedule(f"{self!r}: {error}") from None
        if (self.starts is not None or self.ends is not None) and self.next(-1) is None:
            raise InvalidSchedule(f"{self!r} never comes.")

    def _first(self, low: int, high: int) -> int | None:
        pattern, name, dst = self._search()
        instant, last = -(-low // 1000), high // 1000
        horizon = min(last, instant + HORIZON)
        while instant <= horizon:
            part = piece(name, instant)
            wall = pattern.first(_lowest(part, instant, dst), min(part.end, last + 1) + part.offset)
            if wall is not None:
                return max(part.start, wall - part.offset) * 1000
            instant = part.end
        return None

    def _last(self, low: int, high: int) -> int | None:
        pattern, name, dst = self._search()
        first, instant = -(-low // 1000), high // 1000
        horizon = max(first, instant - HORIZON)
        while instant >= horizon:
            part = piece(name, instant)
            wall = pattern.last(_lowest(part, max(part.start, first), dst), instant + part.offset + 1)
            if wall is not None:
                return max(part.start, wall - part.offset) * 1000
            instant = part.start - 1
        return None

    def _count(self, low: int, high: int) -> int:
        pattern, name, dst = self._search()
        instant, last = -(-low // 1000), high // 1000
        found = 0
        while instant <= last:
            part = piece(name, instant)
            wall, end = _lowest(part, instant, dst), min(part.end, last + 1) + part.offset
            shown = part.start + part.offset + 1
            if wall < shown:  # all that the change of the clocks left out is due at once
                found += pattern.first(wall, min(shown, end)) is not None
            found += pattern.count(max(wall, shown), end)
            instant = part.end
        return found

    def _search(self) -> tuple[Pattern, str, Dst | None]:
        pattern = self._pattern()
        return pattern, self.tz or UTC_NAME, self.dst if pattern.fixed else None

    def _words(self) -> str:
        return f"{words.describe(self._pattern())}, {self.tz or UTC_NAME}"

    def _zone(self) -> tzinfo:
        return zone(self.tz or UTC_NAME)


def _lowest(part: Piece, instant: int, dst: Dst | None) -> int:
    """Return the first wall time that a piece serves at or after an instant in it."""
    low = part.low(dst)
    return low if instant <= part.start else max(low, instant + part.offset)


def options(tz: str | tzinfo | None, dst: str) -> dict[str, Any]:
    """Return the zone and the policy of a schedule as its fields."""
    if dst not in get_args(Dst):
        raise InvalidSchedule(f"dst must be 'cron', 'skip' or 'both', not {dst!r}.{nearest(str(dst), get_args(Dst))}")
    return {"tz": None if tz is None else zone_name(tz), "dst": dst}
