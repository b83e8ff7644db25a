"""Delays in the memory of one process."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterable, Sequence

from celeriac.drivers.bell import Bell
from celeriac.model.clock import Clock
from celeriac.ports.delays import Counts, Delayed, DelayStore, Due, Taken

__all__ = ["MemoryDelayStore", "MemoryDelays"]


class _Row:
    """A message that is kept."""

    def __init__(self, message: Delayed, due_at: float) -> None:
        self.message = message
        self.due_at = due_at
        self.free_at = 0.0
        self.token = 0


class MemoryDelays(Bell):
    """The messages of one store. Rings when one is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.rows: dict[str, _Row] = {}
        self.line: list[tuple[float, int, _Row]] = []  # a heap: when a row is to be looked at
        self.tokens = 0

    def enter(self, row: _Row, at: float) -> None:
        """Look at a row when its time comes. Call with the lock held."""
        self.tokens += 1
        heapq.heappush(self.line, (at, self.tokens, row))


class MemoryDelayStore(DelayStore):
    """Messages in a dict."""

    poll = 1.0

    def __init__(self, delays: MemoryDelays, clock: Clock) -> None:
        self._delays = delays
        self._clock = clock
        self._seen = 0

    def keep(self, messages: Sequence[Delayed]) -> None:
        delays, now = self._delays, self._clock.now()
        with delays.lock:
            for message in messages:
                known = delays.rows.get(message.id)
                if known is None or known.token or message.replaces:
                    due_at = now + message.delay if message.due_at is None else message.due_at
                    row = delays.rows[message.id] = _Row(message, due_at)
                    delays.enter(row, due_at)
        delays.ring()

    async def akeep(self, messages: Sequence[Delayed]) -> None:
        self.keep(messages)

    async def take_due(self, limit: int, seconds: float) -> Due:
        delays, now = self._delays, self._clock.now()
        self._seen = delays.generation
        with delays.lock:
            found: dict[str, _Row] = {}
            while delays.line and len(found) < limit:
                at, _, row = delays.line[0]
                if at > now:
                    break
                heapq.heappop(delays.line)
                if delays.rows.get(row.message.id) is row and row.free_at <= now:
                    found[row.message.id] = row
            soonest = max(0.0, delays.line[0][0] - now) if delays.line else None
            return Due(self._hold(list(found.values()), now + seconds), soonest)

    async def take(self, ids: Sequence[str], seconds: float) -> list[Taken]:
        now = self._clock.now()
        with self._delays.lock:
            found = [row for id in dict.fromkeys(ids) if (row := self._delays.rows.get(id)) and row.free_at <= now]
            return self._hold(found, now + seconds)

    async def take_from(self, queue: str, limit: int, seconds: float) -> list[Taken]:
        now = self._clock.now()
        with self._delays.lock:
            free = [row for row in self._delays.rows.values() if row.message.queue == queue and row.free_at <= now]
            return self._hold(_by_time(free)[:limit], now + seconds)

    def _hold(self, rows: Sequence[_Row], until: float) -> list[Taken]:
        taken = []
        for row in rows:
            before, row.free_at = row.token, until
            self._delays.enter(row, max(until, row.due_at))
            row.token = self._delays.tokens
            taken.append(_taken(row, row.token, before))
        return taken

    async def remove(self, taken: Sequence[Taken]) -> list[bool]:
        rows = self._delays.rows
        with self._delays.lock:
            return [one.id in rows and rows[one.id].token == one.token and bool(rows.pop(one.id)) for one in taken]

    async def release(self, taken: Sequence[Taken]) -> None:
        with self._delays.lock:
            for one in taken:
                row = self._delays.rows.get(one.id)
                if row is not None and row.token == one.token:
                    row.free_at = 0.0
                    self._delays.enter(row, row.due_at)

    async def counts(self) -> dict[str, Counts]:
        now = self._clock.now()
        found: dict[str, Counts] = {}
        with self._delays.lock:
            for row in self._delays.rows.values():
                due, waiting = found.get(row.message.queue, Counts())
                is_due = row.due_at <= now
                found[row.message.queue] = Counts(due + is_due, waiting + (not is_due))
        return found

    async def page(self, queue: str | None, due: bool, limit: int, offset: int = 0) -> list[Taken]:
        now = self._clock.now()
        with self._delays.lock:
            rows = [row for row in self._delays.rows.values()
                    if queue in (None, row.message.queue) and (row.due_at <= now) is due]  # fmt: skip
            return [_taken(row, 0, row.token) for row in _by_time(rows)[offset : offset + limit]]

    async def changed(self, seconds: float) -> None:
        await self._delays.changed(self._seen, min(seconds, self.poll))


def _by_time(rows: Iterable[_Row]) -> list[_Row]:
    return sorted(rows, key=lambda row: row.due_at)


def _taken(row: _Row, token: int, before: int) -> Taken:
    message = row.message
    return Taken(message.id, message.queue, message.data, row.due_at, token, bool(before) or message.again)
