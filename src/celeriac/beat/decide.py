"""Decides what happens to an entry that is due. Pure: the scheduler carries it out.

The ticks after the entry's cursor are due; the policy for missed ticks picks those that are sent; the policy for
overlaps leaves some out, or waits, while what was sent last has not ended. The result is the entry as it becomes, and
the ticks that are sent in the same step.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from celeriac.beat.definition import Definition
from celeriac.ports.schedules import Entry
from celeriac.schedules.ticks import due

__all__ = ["LOOK_AGAIN", "Decision", "beginning", "decide"]

LOOK_AGAIN = 1_000  # milliseconds, after which a scheduler looks again whether what was sent last has ended


class Decision(NamedTuple):
    """What becomes of an entry, and what it sends."""

    after: Entry
    ticks: list[int] = []  # that are sent, the oldest first
    missed: int = 0  # ticks that are left out because they were found late
    skipped: int = 0  # ticks that are left out because what was sent last had not ended
    cancels: bool = False  # what was sent last is revoked first


def beginning(entry: Entry, definition: Definition, now: int) -> Entry:
    """Return an entry whose ticks begin after now: it is new, or was paused, or has another schedule.

    Its cursor never goes back, so that no tick is sent again by a clock that does.
    """
    over = definition.times is not None and entry.sent >= definition.times
    cursor = max(entry.cursor, now)
    next_at = None if entry.paused or over else definition.when.next(cursor)
    return replace(entry, cursor=cursor, next_at=next_at, claimed_at=None)


def decide(entry: Entry, definition: Definition, now: int, runs: bool) -> Decision:
    """Decide about an entry that is due. `runs`: what it sent last has not ended, as far as is known.

    If a scheduler has claimed the entry and not finished, decide as it did: by the instant at which it did.
    """
    at, policy = now if entry.claimed_at is None else entry.claimed_at, definition.overlap
    ticks, missed, cursor, next_at = due(
        definition.when, entry.cursor, at, missed="all" if policy == "all" else definition.missed,
        window=definition.window, max_missed=definition.max_missed,
    )  # fmt: skip
    if ticks and runs and policy in ("one", "all"):
        return Decision(replace(entry, next_at=now + LOOK_AGAIN))
    skipped = 0
    if policy == "all" and len(ticks) > 1:  # the others when this one has ended
        ticks = ticks[:1]
        cursor, next_at = ticks[0], now + LOOK_AGAIN
    elif policy in ("one", "skip", "cancel") and ticks:
        kept = [] if runs and policy == "skip" else ticks[-1:]
        skipped = len(ticks) - len(kept)
        ticks = kept
    if definition.times is not None:
        ticks = ticks[: max(0, definition.times - entry.sent)]
        if entry.sent + len(ticks) >= definition.times:
            next_at = None
    after = replace(
        entry, cursor=cursor, next_at=next_at, claimed_at=None, sent=entry.sent + len(ticks),
        missed=entry.missed + missed, skipped=entry.skipped + skipped,
        last_at=ticks[-1] if ticks else entry.last_at,
    )  # fmt: skip
    return Decision(after, ticks, missed, skipped, cancels=policy == "cancel" and runs and bool(ticks))
