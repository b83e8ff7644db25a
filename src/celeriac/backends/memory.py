"""Outcomes in memory, within one process."""

from __future__ import annotations

from collections.abc import Sequence

from celeriac.backends.base import Backend
from celeriac.clock import Clock
from celeriac.drivers.memory import Store, store
from celeriac.outcome import Outcome

__all__ = ["MemoryBackend", "connect"]


class MemoryBackend(Backend):
    """Outcomes in a dict."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.shared = store
        self.clock = clock

    async def store(self, outcomes: Sequence[Outcome]) -> list[bool]:
        now = self.clock.now()
        with self.shared.lock:
            done = [self.shared.keep(outcome, now) for outcome in outcomes]
        self.shared.ring()
        return done

    def fetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        deadline = self.clock.monotonic() + wait
        while True:
            seen = self.shared.generation
            found = self._look(ids, final=wait > 0)
            left = deadline - self.clock.monotonic()
            if found or left <= 0:
                return found
            self.shared.wait(seen, left)

    async def afetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        deadline = self.clock.monotonic() + wait
        while True:
            seen = self.shared.generation
            found = self._look(ids, final=wait > 0)
            left = deadline - self.clock.monotonic()
            if found or left <= 0:
                return found
            await self.shared.changed(seen, left)

    def _look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        with self.shared.lock:
            known = {id: self.shared.outcomes[id][1] for id in ids if id in self.shared.outcomes}
        return {id: outcome for id, outcome in known.items() if outcome.ready or not final}

    def forget(self, ids: Sequence[str]) -> None:
        with self.shared.lock:
            for id in ids:
                self.shared.outcomes.pop(id, None)

    async def aforget(self, ids: Sequence[str]) -> None:
        self.forget(ids)

    async def recent(self, limit: int, offset: int = 0, state: str | None = None) -> list[Outcome]:
        with self.shared.lock:
            found = sorted(self.shared.outcomes.values(), key=lambda entry: entry[0])[::-1]
        outcomes = [outcome for _, outcome in found if state in (None, outcome.state)]
        return outcomes[offset : offset + limit]

    def close(self) -> None:
        pass


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None) -> MemoryBackend:
    """Return the backend of a `memory://name` URL."""
    return MemoryBackend(store(url.partition("://")[2]), clock)
