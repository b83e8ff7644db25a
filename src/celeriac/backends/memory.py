"""Outcomes in the memory of one process."""

from __future__ import annotations

from collections.abc import Sequence

from celeriac.backends.bases import WaitingBackend, Watch
from celeriac.drivers.memory.delays import MemoryDelayStore
from celeriac.drivers.memory.store import Store, Workflow, store
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.outcome import Outcome
from celeriac.ports.claims import ClaimKeeper, ClaimStore
from celeriac.ports.delays import DelayKeeper, DelayStore
from celeriac.ports.history import History, HistoryKeeper
from celeriac.ports.workflows import Advance, NodeEnd, PendingNode, Plan, WorkflowStore

__all__ = ["MemoryBackend", "connect"]


class MemoryBackend(WaitingBackend, WorkflowStore, ClaimKeeper, DelayKeeper, HistoryKeeper):
    """Outcomes in a dict."""

    lacks = frozenset()

    def __init__(self, store: Store, clock: Clock, codec: Codec = PLAIN_CODEC) -> None:
        self.shared = store
        self.codec = codec
        self.clock = clock

    async def store(self, outcomes: Sequence[Outcome]) -> list[bool]:
        now = self.clock.now()
        with self.shared.lock:
            done = [self.shared.keep(outcome, now) for outcome in outcomes]
        self.shared.ring()
        return done

    def look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        with self.shared.lock:
            known = {id: self.shared.outcomes[id][1] for id in ids if id in self.shared.outcomes}
        return {id: outcome for id, outcome in known.items() if outcome.ready or not final}

    def watch(self, ids: Sequence[str]) -> Watch:
        return self.shared

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

    # --- Workflows ------------------------------------------------------------------------------------

    def plant(self, plan: Plan, again: bool = False) -> None:
        with self.shared.lock:
            if not (again and plan.id in self.shared.workflows):
                self.shared.workflows[plan.id] = Workflow(plan, self.clock.now())

    async def aplant(self, plan: Plan, again: bool = False) -> None:
        self.plant(plan, again)

    def trees(self, ids: Sequence[str]) -> dict[str, bytes]:
        with self.shared.lock:
            return {id: self.shared.workflows[id].tree for id in ids if id in self.shared.workflows}

    async def atrees(self, ids: Sequence[str]) -> dict[str, bytes]:
        return self.trees(ids)

    async def unfinished(self, limit: int) -> list[str] | None:
        with self.shared.lock:
            found = [(one.touched_at, id) for id, one in self.shared.workflows.items() if one.left > 0]
        return [id for _, id in sorted(found, reverse=True)[:limit]]

    def uproot(self, ids: Sequence[str]) -> None:
        with self.shared.lock:
            for id in ids:
                self.shared.workflows.pop(id, None)

    async def conclude(self, ends: Sequence[NodeEnd]) -> list[bool]:
        now = self.clock.now()
        with self.shared.lock:
            done = [self.shared.conclude(end.outcome, end.leaves_pending, now) for end in ends]
        self.shared.ring()
        return done

    async def claim_pending(self, limit: int, seconds: float) -> dict[PendingNode, bool]:
        now = self.clock.now()
        with self.shared.lock:
            free = [(node, free_at > 0) for node, free_at in self.shared.pending.items() if free_at <= now]
            taken = dict(free[:limit])
            self.shared.pending.update(dict.fromkeys(taken, now + seconds))
        return taken

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        now = self.clock.now()
        with self.shared.lock:
            done = [self.shared.advance(advance, now) for advance in advances]
        self.shared.ring()
        return done

    def claims(self) -> ClaimStore:
        return self.shared.claims

    def delays(self) -> DelayStore:
        return MemoryDelayStore(self.shared.delays, self.clock)

    def history(self) -> History:
        return self.shared.history

    def close(self) -> None:
        pass


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None,
            codec: Codec = PLAIN_CODEC) -> MemoryBackend:  # fmt: skip
    """Return the backend for a `memory://name` URL."""
    return MemoryBackend(store(url.partition("://")[2]), clock, codec)
