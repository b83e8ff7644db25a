"""Outcomes, workflows and schedules in MongoDB."""

from __future__ import annotations

from collections.abc import Sequence

from celeriac.backends.bases import PollingBackend, encoded_within, without_value
from celeriac.drivers.mongodb import outcomes, workflows
from celeriac.drivers.mongodb.claims import MongoClaimStore
from celeriac.drivers.mongodb.delays import MongoDelayStore
from celeriac.drivers.mongodb.history import MongoHistory
from celeriac.drivers.mongodb.schedules import MongoScheduleStore
from celeriac.drivers.mongodb.server import Server, server
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability
from celeriac.ports.claims import ClaimKeeper, ClaimStore
from celeriac.ports.delays import DelayKeeper, DelayStore
from celeriac.ports.history import History, HistoryKeeper
from celeriac.ports.schedules import ScheduleKeeper, ScheduleStore
from celeriac.ports.workflows import Advance, NodeEnd, PendingNode, Plan, WorkflowStore

__all__ = ["MongoBackend", "connect"]


class MongoBackend(PollingBackend, WorkflowStore, ScheduleKeeper, ClaimKeeper, DelayKeeper, HistoryKeeper):
    """Outcomes by task id, each a document that expires."""

    lacks = frozenset({Ability.NOTIFY})

    def __init__(self, server: Server, clock: Clock, result_expires: float | None = 86400.0) -> None:
        super().__init__(clock)
        self.server = server
        self.codec = server.codec
        self.expires = result_expires

    async def asave(self, items: Sequence[Outcome]) -> list[bool]:
        packed = [self._pack(item) for item in items]
        work = outcomes.store(packed, self.clock.now(), self.expires)
        return await self.server.ado(self.server.indexed(work))

    def look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        return self.server.do(outcomes.look(ids, final, self.clock.now(), self.codec))

    async def alook(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        return await self.server.ado(outcomes.look(ids, final, self.clock.now(), self.codec))

    async def recent(self, limit: int, offset: int = 0, state: str | None = None) -> list[Outcome]:
        return await self.server.ado(outcomes.recent(limit, offset, state, self.clock.now(), self.codec))

    def forget(self, ids: Sequence[str]) -> None:
        self.server.do(outcomes.forget(ids))

    async def aforget(self, ids: Sequence[str]) -> None:
        await self.server.ado(outcomes.forget(ids))

    # --- Workflows ------------------------------------------------------------------------------------

    def plant(self, plan: Plan, again: bool = False) -> None:
        self.server.do(self.server.indexed(workflows.plant(plan, self.clock.now(), again)))

    async def aplant(self, plan: Plan, again: bool = False) -> None:
        await self.server.ado(self.server.indexed(workflows.plant(plan, self.clock.now(), again)))

    def trees(self, ids: Sequence[str]) -> dict[str, bytes]:
        return self.server.do(workflows.trees(ids, self.clock.now()))

    async def atrees(self, ids: Sequence[str]) -> dict[str, bytes]:
        return await self.server.ado(workflows.trees(ids, self.clock.now()))

    async def unfinished(self, limit: int) -> list[str] | None:
        return await self.server.ado(workflows.unfinished(limit, self.clock.now())) if limit > 0 else []

    def uproot(self, ids: Sequence[str]) -> None:
        self.server.do(workflows.uproot(ids))

    async def conclude(self, ends: Sequence[NodeEnd]) -> list[bool]:
        work = workflows.conclude(ends, self._pack, self.clock.now(), self.expires)
        done = await self.server.ado(self.server.indexed(work))
        self.wake(end.outcome.id for end in ends)
        return done

    async def claim_pending(self, limit: int, seconds: float) -> dict[PendingNode, bool]:
        return await self.server.ado(workflows.claim_pending(limit, seconds, self.clock.now()))

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        now = self.clock.now()
        done = await self.server.ado_each(
            [(item.pending.workflow, workflows.advance(item, self._pack, now, self.expires)) for item in advances]
        )
        self.wake(outcome.id for advance in advances for outcome in advance.outcomes)
        return done

    def schedules(self) -> ScheduleStore:
        return MongoScheduleStore(self.server, self.clock)

    def claims(self) -> ClaimStore:
        return MongoClaimStore(self.server)

    def delays(self) -> DelayStore:
        return MongoDelayStore(self.server, self.clock)

    def history(self) -> History:
        return MongoHistory(self.server, self.clock)

    def _pack(self, outcome: Outcome) -> tuple[Outcome, bytes]:
        """Return an outcome encoded; and the outcome itself, or what is stored in its place if it is too large."""
        outcome, encoded = encoded_within(self.codec, outcome, outcomes.MOST)
        if len(encoded) <= outcomes.MOST:
            return outcome, encoded
        limits = f"has {len(encoded):,} bytes, and MongoDB keeps up to {outcomes.MOST:,}"
        outcome = without_value(outcome, f"{limits}. Store it elsewhere, and return where it is.")
        return outcome, self.codec.encode_outcome(outcome)

    def close(self) -> None:
        self.server.close()

    def __repr__(self) -> str:
        return f"<MongoBackend {self.server.address}/{self.server.address.database}>"


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac") -> MongoBackend:  # fmt: skip
    """Return the backend for a `mongodb://` URL."""
    return MongoBackend(server(url, prefix, timeout, codec), clock, result_expires)
