"""Instants and durations of schedules: milliseconds since the epoch and milliseconds, as integers.

Integers, because the nominal time of a tick is compared and hashed: every scheduler has to find the same one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from celeriac.model import clock
from celeriac.model.clock import Duration
from celeriac.schedules.invalid import InvalidSchedule

__all__ = ["LATEST", "LONGEST", "Moment", "in_seconds", "iso", "milliseconds", "moment"]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = (datetime(9999, 12, 29, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)  # `datetime` ends days later
LONGEST: Final = timedelta(days=365_250) // timedelta(milliseconds=1)  # a thousand years

Moment: TypeAlias = Annotated[int, Meta(ge=0, le=LATEST)]
"""Milliseconds since the epoch. Schedules have no tick before 1970 or after 9999."""


def moment(value: datetime | str, name: str) -> int:
    """Return an aware datetime, or one written in ISO 8601 with its offset, as milliseconds since the epoch.

    >>> moment(datetime(2026, 1, 1, tzinfo=UTC), "starts") == moment("2026-01-01T01:00+01:00", "starts")
    True
    """
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise InvalidSchedule(f"{name} must be a time in ISO 8601 ('2026-01-01T09:00+01:00'), not {value!r}.") from None
    if not isinstance(found, datetime):
        raise InvalidSchedule(f"{name} must be an aware datetime, not {value!r}.")
    if found.tzinfo is None or found.utcoffset() is None:
        raise InvalidSchedule(f"{name} must be an aware datetime: the zone of {value!r} is unknown. "
                              "Write datetime(…, tzinfo=ZoneInfo('Europe/Berlin')).")  # fmt: skip
    result = (found - EPOCH) // timedelta(milliseconds=1)
    if not 0 <= result <= LATEST:
        raise InvalidSchedule(f"{name} must be between 1970 and 9999, not {value!r}.")
    return result


def milliseconds(value: Duration, name: str) -> int:
    """Return seconds or a timedelta, of up to a thousand years, as milliseconds. Raises `InvalidSchedule`."""
    try:
        return round(clock.seconds(value, name) * 1000)
    except (TypeError, ValueError) as error:
        raise InvalidSchedule(f"{error}.") from None


def in_seconds(value: int) -> float:
    """Return milliseconds in seconds, as an integer if they are whole."""
    return value // 1000 if value % 1000 == 0 else value / 1000


def iso(value: int, zone: tzinfo = UTC) -> str:
    """Return milliseconds since the epoch in ISO 8601, in a zone.

    >>> iso(1_767_225_600_000)
    '2026-01-01T00:00:00+00:00'
    """
    return (EPOCH + timedelta(milliseconds=value)).astimezone(zone).isoformat()
