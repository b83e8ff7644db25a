"""Ticks: which are due, which of those that were missed are sent, and the id and the jitter of each.

The scheduler keeps a cursor for each entry: the last nominal time that was dealt with. It calls `due`, sends what it
returns, and moves the cursor in the same step. All here is pure; instants and durations are in milliseconds.
"""

from __future__ import annotations

import hmac
from hashlib import blake2b
from typing import Final, Literal, NamedTuple, TypeAlias

from celeriac.schedules.schedule import Schedule

__all__ = ["MAX_MISSED", "ON_TIME", "Due", "Missed", "due", "jitter", "tick_id"]

Missed: TypeAlias = Literal["latest", "all", "skip"]
"""Which ticks are sent that fell due while no scheduler was there.

`latest`: the latest one. `all`: all, up to a number. `skip`: none; the latest is sent only if it is hardly late.
"""

ON_TIME: Final = 60_000  # a tick that is sent within this time was not missed
MAX_MISSED: Final = 100


class Due(NamedTuple):
    """The ticks to be sent, oldest first, and how to go on."""

    ticks: list[int]
    skipped: int  # further ticks that were due, and are not sent
    cursor: int  # the last tick that was due; the old cursor if none was
    next: int | None  # the first tick to come; None if this schedule has ended


def due(
    schedule: Schedule,
    cursor: int,
    now: int,
    *,
    missed: Missed = "latest",
    window: int | None = None,
    max_missed: int = MAX_MISSED,
    left: int | None = None,
) -> Due:
    """Return what is due after the cursor and until now.

    Ticks older than `window` are not sent; with `"skip"` it is a minute unless given. Of all that were missed, the
    latest `max_missed` are sent. `left` says how often the entry may still send (`times`); the oldest go first then.

    >>> from celeriac.schedules.intervals import every
    >>> due(every(60), 0, 200_000)
    Due(ticks=[180000], skipped=2, cursor=180000, next=240000)
    >>> due(every(60), 0, 200_000, missed="all").ticks
    [60000, 120000, 180000]
    """
    first = schedule.next(cursor)
    if first is None or first > now:
        return Due([], 0, cursor, first)
    following = schedule.next(first)
    if following is None or following > now:  # the usual case: one tick
        latest, count = first, 1
    else:
        found = schedule.previous(now + 1)
        assert found is not None
        latest, count, following = found, schedule.count(cursor, now), schedule.next(found)
    if window is None and missed == "skip":
        window = ON_TIME
    oldest = cursor + 1 if window is None else max(cursor + 1, now - window)
    most = max_missed if missed == "all" else 1
    ticks: list[int] = []
    tick: int | None = latest
    while tick is not None and tick >= oldest and len(ticks) < most:
        ticks.append(tick)
        tick = schedule.previous(tick)
    ticks.reverse()
    if left is not None and len(ticks) >= left:
        del ticks[left:]
        following = None
    return Due(ticks, max(count - len(ticks), 0), latest, following)


def tick_id(salt: bytes, tick: int) -> str:
    """Return the id of a tick, for the message that is sent: the same on every scheduler.

    It has the form of our other ids, UUIDs of version 7: 48 bits of milliseconds, and 74 bits which nobody can guess
    without the entry's salt.

    >>> tick_id(b"salt", 1_800_000_000_000)[:15]
    '01a3185c-5000-7'
    """
    noise = int.from_bytes(hmac.digest(salt, tick.to_bytes(8), "sha256")[:10])
    bits = tick << 80 | 7 << 76 | (noise >> 62 & 0xFFF) << 64 | 2 << 62 | noise & 0x3FFF_FFFF_FFFF_FFFF
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def jitter(name: str, tick: int, most: int) -> int:
    """Return by how much a tick of an entry is delayed: 0 to `most`, the same on every scheduler.

    >>> 0 <= jitter("report", 1_800_000_000_000, 5_000) <= 5_000
    True
    """
    drawn = blake2b(f"{tick}:{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(drawn) % (most + 1)
