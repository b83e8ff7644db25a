"""Sums of the history: what adapters keep as rows, and how these are folded. The lower half of `ports/history.py`.

    worker's slot ─► slot of all workers, totals ─► minutes ─► ten minutes ─► hours ─► days   (`model/history.py: AGES`)

An adapter keeps rows by `Key`, and changes some of them in one atomic `swap`. What folds into what is decided
here, once for all adapters.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import msgspec

from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.gate import Unreadable
from celeriac.model.history import AGES, BY_SIGNATURE, COUNTERS, EVER, Key, Sums, decode_sums, encode
from celeriac.model.repeated_warnings import RepeatedWarnings

__all__ = ["Change", "Row", "SumStore", "WorkerState"]

warnings = RepeatedWarnings(logging.getLogger("celeriac.history"))

FOLDED = 200  # rows, about, that `compact` folds in one step
LOST_SECONDS = 7200.0  # a worker that was silent for so long writes nothing more to its slots


class Row(msgspec.Struct, frozen=True):
    """Sums as they are stored."""

    key: Key
    value: bytes


class Change(msgspec.Struct, frozen=True):
    """What a row has to hold, and what it holds afterwards. None: there is no such row."""

    key: Key
    before: bytes | None
    after: bytes | None


class WorkerState(msgspec.Struct, frozen=True):
    """What the history knows of a worker that counts."""

    complete: int  # its sums up to this slot are final
    folded: int  # … and were folded up to this one: what it writes to these again is ignored
    seen_at: float


class SumStore(ABC):
    """Keeps rows of sums, and folds them."""

    codec: Codec = PLAIN_CODEC

    @abstractmethod
    async def rows(self, step: int, since: int, until: int, limit: int | None = None) -> list[Row]:
        """Return the folded rows of a step whose slots begin in [since, until), the oldest first.

        With `limit`, so many of them, about.
        """

    @abstractmethod
    async def unfolded(self) -> list[Row]:
        """Return the rows of single workers."""

    @abstractmethod
    async def get(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        """Return the values of rows, as far as they exist."""

    @abstractmethod
    async def swap(self, changes: Sequence[Change], folded: Mapping[str, int]) -> bool:
        """Change all rows in one atomic step, and note up to which slot each lease is folded. False: nothing was done.

        That is if a row does not hold what the change says.
        """

    @abstractmethod
    async def workers(self) -> dict[str, WorkerState]:
        """Return what is known of the workers that have unfolded sums, by lease."""

    # --- Compaction -----------------------------------------------------------------------------------

    async def compact(self, now: float) -> int:
        """Fold final slots of workers, and old slots of each step into the next one. Return how many rows were folded.

        Does a limited amount of work: call it again while it returns something. Two that fold at once do not count
        twice: one of them does nothing.
        """
        return await self._fold_workers(now) + await self._fold_old(now)

    async def _fold_workers(self, now: float) -> int:
        waiting: dict[tuple[str, int], list[Row]] = defaultdict(list)
        states: Mapping[str, WorkerState] = {}
        for row in await self.unfolded():
            states = states or await self.workers()
            state = states.get(row.key.lease)
            if state is None or row.key.at <= state.complete or state.seen_at < now - LOST_SECONDS:
                waiting[row.key.lease, row.key.at].append(row)
        count = 0
        for group in _groups(dict(sorted(waiting.items(), key=lambda item: item[0][1]))):
            rows = [row for _, some in group for row in some]
            folded = {lease: at for (lease, at), _ in group}
            count += len(rows) if await self._fold(rows, _all_workers, folded) else 0
        return count

    async def _fold_old(self, now: float) -> int:
        count = 0
        steps = [*AGES]
        for step, coarser in zip(steps, [*steps[1:], None], strict=True):
            rows = await self.rows(step, 0, int(now) - AGES[step], FOLDED)
            if rows and await self._fold(rows, partial(_coarser, step=coarser), {}):
                count += len(rows)
        return count

    async def _fold(self, rows: Sequence[Row], into: Callable[[Key], list[Key]], folded: Mapping[str, int]) -> bool:
        """Merge rows into others, and delete them. Rows that cannot be read are deleted."""
        merged: dict[Key, Sums] = {}
        for row in rows:
            sums = self.open_sums(row)
            if sums is None:
                warnings.warn("Sums of the history cannot be read and are dropped: %s", row.key)
                continue
            for key in into(row.key):
                merged.setdefault(key, Sums()).merge(sums)
        known = await self.get(list(merged)) if merged else {}
        for key, value in known.items():
            before = self.open_sums(Row(key, value))
            if before is not None:
                merged[key].merge(before)
        changes = [Change(row.key, row.value, None) for row in rows]
        changes += [Change(key, known.get(key), self.seal_sums(key, sums)) for key, sums in merged.items()]
        return await self.swap(changes, folded)

    # --- Values ---------------------------------------------------------------------------------------

    def seal_sums(self, key: Key, sums: Sums) -> bytes:
        """Return sums as they are stored."""
        return self.codec.seal("history", encode(sums), self._context(key))

    def open_sums(self, row: Row) -> Sums | None:
        """Return the sums of a row, or None if they cannot be read."""
        try:
            return decode_sums(self.codec.open("history", row.value, self._context(row.key)))
        except Unreadable:
            return None

    def _context(self, key: Key) -> str:
        return repr(tuple(key)) if self.codec.signs else ""


def _all_workers(key: Key) -> list[Key]:
    """Return what a worker's row is folded into."""
    if key.step == COUNTERS:
        return [key._replace(at=0, lease="")]
    keys = [key._replace(lease=""), key._replace(step=EVER, at=0, lease="", signature="")]
    if key.signature:
        keys.append(Key(BY_SIGNATURE, 0, "", "", "", key.state, "", key.signature))
    return keys


def _coarser(key: Key, step: int | None) -> list[Key]:
    return [] if step is None else [key._replace(step=step, at=key.at // step * step)]


def _groups(waiting: Mapping[tuple[str, int], list[Row]]) -> Iterator[list[tuple[tuple[str, int], list[Row]]]]:
    """Return slots of workers in groups of about `FOLDED` rows. A slot of a worker is folded whole."""
    group: list[tuple[tuple[str, int], list[Row]]] = []
    size = 0
    for item in waiting.items():
        group.append(item)
        size += len(item[1])
        if size >= FOLDED:
            yield group
            group, size = [], 0
    if group:
        yield group
