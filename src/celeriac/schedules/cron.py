"""`cron("0 9 1 * mon")`: schedules as Vixie's cron writes them."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Annotated, Final

from msgspec import Meta

from celeriac.errors import nearest
from celeriac.schedules.invalid import InvalidSchedule
from celeriac.schedules.pattern import Pattern, pattern
from celeriac.schedules.schedule import call, limits
from celeriac.schedules.wall import WallSchedule, options
from celeriac.schedules.zones import Dst

__all__ = ["Cron", "cron"]

NICKNAMES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
LONGEST: Final = 1000  # characters


class Cron(WallSchedule, frozen=True, omit_defaults=True, gc=False, tag="cron"):
    """A cron expression; `cron()` makes it."""

    expression: Annotated[str, Meta(min_length=1, max_length=LONGEST)]

    def _pattern(self) -> Pattern:
        parts = NICKNAMES.get(self.expression.lower(), self.expression).split()
        if self.expression.startswith("@") and len(parts) == 1:
            raise InvalidSchedule(f"the name is unknown.{nearest(self.expression, NICKNAMES)}")
        if len(parts) == 5:
            parts.insert(0, "0")
        if len(parts) != 6:
            raise InvalidSchedule(f"an expression has five fields (minute, hour, day of the month, month, day of the "
                                  f"week), or six with seconds in front, not {len(parts)}.")  # fmt: skip
        return pattern(*parts, vixie=True)

    def _call(self, **limits: str | None) -> str:
        return call("cron", (self.expression,), tz=self.tz, dst=None if self.dst == "cron" else self.dst, **limits)


def cron(
    expression: str,
    *,
    tz: str | tzinfo | None = None,
    dst: Dst = "cron",
    starts: datetime | str | None = None,
    ends: datetime | str | None = None,
) -> Cron:
    """Return a schedule: five fields (minute, hour, day of the month, month, day of the week), or six, seconds first.

    If both days are restricted (neither begins with a star), one of them is enough:

    >>> cron("0 9 1 * mon", tz="Europe/Berlin").describe()
    'at 09:00 on the 1st and every Monday, Europe/Berlin'

    `L` is the last day of the month and `L-3` the third before it; `mon#2` is the second Monday and `5L` the last
    Friday. `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly` are known.

    >>> cron("0 18 * * 5L").describe()
    'at 18:00 on the last Friday of the month, UTC'

    `tz` is the zone; without, the app's `timezone`. `dst` says what happens to a fixed time that the change of the
    clocks leaves out or repeats: `"cron"`, at once after the change, and the first time only; `"skip"`, not at all, and
    the first time only; `"both"`, at once after the change, and both times. Expressions whose minute or hour begins
    with a star go by real time. Raises `InvalidSchedule` for an expression that cannot be or never comes.

    >>> cron("0 0 30 2 *")
    Traceback (most recent call last):
    celeriac.schedules.invalid.InvalidSchedule: cron('0 0 30 2 *'): it never comes: no day of these months matches.
    """
    if not isinstance(expression, str) or not expression.strip() or len(expression) > LONGEST:
        raise InvalidSchedule(f"a cron expression is text like '0 9 * * mon', not {str(expression)[:100]!r}.")
    return Cron(" ".join(expression.split()), **options(tz, dst), **limits(starts, ends))
