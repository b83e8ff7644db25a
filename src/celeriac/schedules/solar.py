"""`solar("sunset", 48.2, 16.4)`: schedules by the sun, with Celery's nine events. Needs `ephem`, imported when used."""

from __future__ import annotations

import importlib
from datetime import datetime
from functools import cache, lru_cache
from typing import Annotated, Any, Final, NamedTuple

from msgspec import Meta

from celeriac.errors import ImproperlyConfigured, nearest
from celeriac.model.clock import Duration
from celeriac.schedules.invalid import InvalidSchedule
from celeriac.schedules.moments import in_seconds, milliseconds
from celeriac.schedules.schedule import Schedule, call, limits

__all__ = ["EVENTS", "Solar", "solar"]

DAY: Final = 86_400
SEARCH: Final = 400  # days; without an event for so long, it does not come at this place
MOST_COUNTED: Final = 1_000
EPOCH: Final = 25_567.5  # 1970 as ephem counts days


class _Event(NamedTuple):
    """An event: how ephem finds it from noon on, and where the sun stands then."""

    method: str = ""  # empty: noon itself
    horizon: str = "0"
    center: bool = False  # of the sun, not its upper edge


EVENTS: Final = {
    "dawn_astronomical": _Event("previous_rising", "-18", True),
    "dawn_nautical": _Event("previous_rising", "-12", True),
    "dawn_civil": _Event("previous_rising", "-6", True),
    "sunrise": _Event("previous_rising", "-0:34"),
    "solar_noon": _Event(),
    "sunset": _Event("next_setting", "-0:34"),
    "dusk_civil": _Event("next_setting", "-6", True),
    "dusk_nautical": _Event("next_setting", "-12", True),
    "dusk_astronomical": _Event("next_setting", "-18", True),
}


class Solar(Schedule, frozen=True, omit_defaults=True, gc=False, tag="solar"):
    """An event of the sun; `solar()` makes it. Its methods raise `ImproperlyConfigured` where ephem is missing."""

    event: Annotated[str, Meta(min_length=1, max_length=30)]
    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]
    offset: Annotated[int, Meta(ge=-DAY * 1000, le=DAY * 1000)] = 0  # milliseconds

    def _check(self) -> None:
        if self.event not in EVENTS:
            raise InvalidSchedule(f"solar() knows no event {self.event!r}.{nearest(self.event, EVENTS)} "
                                  f"Known: {', '.join(EVENTS)}.")  # fmt: skip

    def _first(self, low: int, high: int) -> int | None:
        day = self._day(low)
        for number in range(day - 1, day + SEARCH):
            found = self._tick(number)
            if found is not None and found >= low:
                return found if found <= high else None
        return None

    def _last(self, low: int, high: int) -> int | None:
        day = self._day(high)
        for number in range(day + 1, day - SEARCH, -1):
            found = self._tick(number)
            if found is not None and found <= high:
                return found if found >= low else None
        return None

    def _count(self, low: int, high: int) -> int:
        """Return the number of ticks, or `MOST_COUNTED` if there are more: each has to be computed."""
        found = 0
        while found < MOST_COUNTED and low <= high and (tick := self._first(low, high)) is not None:
            found, low = found + 1, tick + 1
        return found

    def _day(self, instant: int) -> int:
        """Return the number of the solar day that holds an instant, give or take one."""
        return int((instant - self.offset) // 1000 + self.lon * 240) // DAY

    def _tick(self, day: int) -> int | None:
        found = _event(self.event, self.lat, self.lon, day)
        return None if found is None else found * 1000 + self.offset

    def _words(self) -> str:
        text = f"at {self.event.replace('_', ' ')}, latitude {self.lat:g}, longitude {self.lon:g}"
        if self.offset:
            text = f"{abs(self.offset) / 60_000:g} minutes {'before' if self.offset < 0 else 'after'} {text[3:]}"
        return text

    def _call(self, **limits: str | None) -> str:
        offset = in_seconds(self.offset) if self.offset else None
        return call("solar", (self.event, self.lat, self.lon), offset=offset, **limits)


def solar(
    event: str,
    lat: float,
    lon: float,
    *,
    offset: Duration = 0,
    starts: datetime | str | None = None,
    ends: datetime | str | None = None,
) -> Solar:
    """Return a schedule by the sun at a latitude and a longitude, in degrees north and east.

    The events are `dawn_astronomical`, `dawn_nautical`, `dawn_civil`, `sunrise`, `solar_noon`, `sunset`, `dusk_civil`,
    `dusk_nautical` and `dusk_astronomical`. Days without the event are passed over. `offset` moves each tick, by up to
    a day.

    >>> solar("sunset", 48.2, 16.4, offset=-1800).describe()
    '30 minutes before sunset, latitude 48.2, longitude 16.4'

    Raises `ImproperlyConfigured` where ephem is missing: `pip install 'celeriac[solar]'`.
    """
    for name, value, bound in (("lat", lat, 90), ("lon", lon, 180)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not -bound <= value <= bound:
            raise InvalidSchedule(f"{name} must be from -{bound} to {bound} degrees, not {value!r}.")
    moved = milliseconds(offset, "offset")
    if abs(moved) > DAY * 1000:
        raise InvalidSchedule(f"offset must be within a day, not {offset!r}.")
    made = Solar(str(event), float(lat), float(lon), moved, **limits(starts, ends))
    if made.next(-1) is None:
        raise InvalidSchedule(f"{made!r} never comes.")
    return made


@lru_cache(maxsize=10_000)
def _event(name: str, lat: float, lon: float, day: int) -> int | None:
    """Return when an event takes place on a solar day, in seconds since the epoch; None if it does not.

    The search always begins at the noon of that day: so the result does not depend on when one asks, to the second.
    """
    ephem = _ephem()
    event = EVENTS[name]
    place, sun = ephem.Observer(), ephem.Sun()
    place.lat, place.lon, place.elevation, place.pressure, place.horizon = str(lat), str(lon), 0, 0, event.horizon
    mean_noon = EPOCH + day + 0.5 - lon / 360
    noon = place.next_transit(sun, start=ephem.Date(mean_noon - 0.25))
    found = noon
    if event.method:
        try:
            found = getattr(place, event.method)(sun, start=noon, use_center=event.center)
        except ephem.CircumpolarError:
            return None
    if abs(found - noon) > 0.51:  # of another day
        return None
    seconds: float = (found - EPOCH) * DAY
    return round(seconds)


@cache
def _ephem() -> Any:
    try:
        return importlib.import_module("ephem")
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured("solar() needs ephem, which is not installed: "
                                   "pip install 'celeriac[solar]'.") from error  # fmt: skip
