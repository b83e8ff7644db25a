"""Outcomes, workflows and history in the file of a hub: the one that holds the messages, or another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from celeriac.drivers.zmq.claims import HubClaims
from celeriac.drivers.zmq.delays import HubDelays
from celeriac.drivers.zmq.frames import FRAME_BYTES, portions
from celeriac.drivers.zmq.history import HubHistory
from celeriac.drivers.zmq.schedules import HubSchedules
from celeriac.drivers.zmq.server import Server, server
from celeriac.drivers.zmq.verbs import Advanced
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.outcome import Outcome
from celeriac.ports.backend import Backend
from celeriac.ports.claims import ClaimKeeper, ClaimStore
from celeriac.ports.delays import DelayKeeper, DelayStore
from celeriac.ports.history import History, HistoryKeeper
from celeriac.ports.schedules import ScheduleKeeper, ScheduleStore
from celeriac.ports.workflows import Advance, NodeEnd, PendingNode, Plan, WorkflowStore

__all__ = ["HubBackend", "connect"]

FETCH_SECONDS: Final = 60.0  # in one request: the hub holds it
PENDING_SECONDS: Final = 60.0  # likewise
BATCH: Final = 1000  # outcomes in one request, at most
AT_ONCE: Final = 0.001  # seconds: a request that waits wants outcomes that are final


class HubBackend(Backend, WorkflowStore, ScheduleKeeper, ClaimKeeper, DelayKeeper, HistoryKeeper):
    """Outcomes by task id. The hub holds the requests of waiting callers, and answers as soon as there is one."""

    lacks = frozenset()

    def __init__(self, server: Server, clock: Clock) -> None:
        self.server = server
        self.clock = clock
        self.codec = server.codec

    async def store(self, outcomes: Sequence[Outcome]) -> list[bool]:
        values = list(map(self.server.pack_outcome, outcomes))
        done: list[bool] = []
        for some in portions(values, len, BATCH):
            done += await self.server.ado("backend.store", some)
        return done

    def fetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        deadline = time.monotonic() + wait
        while ids:
            left = min(FETCH_SECONDS, max(0.0, deadline - time.monotonic())) if wait > 0 else 0.0
            found = self.server.do("backend.fetch", list(ids), left, wait=left)
            if found or time.monotonic() >= deadline:
                some = found
                while rest := _rest(ids, found, some):
                    found |= (some := self.server.do("backend.fetch", rest, min(left, AT_ONCE)))
                return self._outcomes(found)
        return {}

    async def afetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        deadline = time.monotonic() + wait
        while ids:
            left = min(FETCH_SECONDS, max(0.0, deadline - time.monotonic())) if wait > 0 else 0.0
            found = await self.server.ado("backend.fetch", list(ids), left, wait=left)
            if found or time.monotonic() >= deadline:
                some = found
                while rest := _rest(ids, found, some):
                    found |= (some := await self.server.ado("backend.fetch", rest, min(left, AT_ONCE)))
                return self._outcomes(found)
        return {}

    def _outcomes(self, found: dict[str, bytes]) -> dict[str, Outcome]:
        return {id: self.server.outcome(id, data) for id, data in found.items()}

    async def recent(self, limit: int, offset: int = 0, state: str | None = None) -> list[Outcome]:
        found = await self.server.ado("backend.recent", limit, offset, state)
        return [self.server.outcome(id, data) for id, data in found]

    def forget(self, ids: Sequence[str]) -> None:
        self.server.do("backend.forget", list(ids))

    async def aforget(self, ids: Sequence[str]) -> None:
        await self.server.ado("backend.forget", list(ids))

    # --- Workflows ------------------------------------------------------------------------------------

    def plant(self, plan: Plan, again: bool = False) -> None:
        self.server.do("backend.plant", plan, again)

    async def aplant(self, plan: Plan, again: bool = False) -> None:
        await self.server.ado("backend.plant", plan, again)

    def trees(self, ids: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = self.server.do("backend.trees", list(ids))
        return found

    async def atrees(self, ids: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = await self.server.ado("backend.trees", list(ids))
        return found

    async def unfinished(self, limit: int) -> list[str] | None:
        found: list[str] | None = await self.server.ado("backend.unfinished", limit)
        return found

    def uproot(self, ids: Sequence[str]) -> None:
        self.server.do("backend.uproot", list(ids))

    async def conclude(self, ends: Sequence[NodeEnd]) -> list[bool]:
        values = [(self.server.pack_outcome(end.outcome), end.leaves_pending) for end in ends]
        done: list[bool] = []
        for some in portions(values, lambda value: len(value[0]), BATCH):
            done += await self.server.ado("backend.conclude", some)
        return done

    async def claim_pending(self, limit: int, seconds: float) -> dict[PendingNode, bool]:
        return dict(await self.server.ado("backend.claim_pending", limit, seconds))

    async def until_pending(self, pause: float) -> None:
        await self.server.ado("backend.pending", PENDING_SECONDS, wait=PENDING_SECONDS)

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        items = [Advanced(one.pending, [], list(map(self.server.pack_outcome, one.outcomes)), list(one.joins))
                 for one in advances]  # fmt: skip
        done: list[bool] = await self.server.ado("backend.advance", items)
        return done

    def schedules(self) -> ScheduleStore:
        return HubSchedules(self.server, publishes=False)

    def claims(self) -> ClaimStore:
        return HubClaims(self.server)

    def delays(self) -> DelayStore:
        return HubDelays(self.server)

    def history(self) -> History:
        return HubHistory(self.server)

    def close(self) -> None:
        self.server.close()

    def __repr__(self) -> str:
        return f"<HubBackend {self.server.address}>"


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            server_key: str | None = None, key_file: str | None = None) -> HubBackend:  # fmt: skip
    """Return the backend of a `zmq://` URL."""
    return HubBackend(server(url, server_key, key_file, timeout, codec), clock)


def _rest(ids: Sequence[str], found: dict[str, bytes], some: dict[str, bytes]) -> list[str]:
    """Return the ids to ask for again: those without an outcome, if the last answer was as large as one may be."""
    return [] if sum(map(len, some.values())) < FRAME_BYTES else [id for id in ids if id not in found]
