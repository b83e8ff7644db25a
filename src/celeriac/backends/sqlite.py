"""Outcomes in a SQLite file: the one that holds the messages, or another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from celeriac.backends.bases import WaitingBackend, Watch
from celeriac.drivers.sqlite import outcomes, workflows
from celeriac.drivers.sqlite.address import path_of
from celeriac.drivers.sqlite.claims import SQLiteClaimStore
from celeriac.drivers.sqlite.database import Database, database
from celeriac.drivers.sqlite.delays import SQLiteDelayStore
from celeriac.drivers.sqlite.history import SQLiteHistory
from celeriac.drivers.sqlite.opening import Connection
from celeriac.drivers.sqlite.schedules import SQLiteScheduleStore
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.outcome import Outcome
from celeriac.ports.claims import ClaimKeeper, ClaimStore
from celeriac.ports.delays import DelayKeeper, DelayStore
from celeriac.ports.history import History, HistoryKeeper
from celeriac.ports.schedules import ScheduleKeeper, ScheduleStore
from celeriac.ports.workflows import Advance, NodeEnd, PendingNode, Plan, WorkflowStore

__all__ = ["SQLiteBackend", "connect"]

FETCH = "SELECT id, outcome FROM outcomes WHERE id IN (SELECT value FROM json_each(?))"
FETCH_ONE = "SELECT id, outcome FROM outcomes WHERE id = ?"
FEW = 32  # ids that are looked for without a pause


class SQLiteBackend(WaitingBackend, WorkflowStore, ScheduleKeeper, ClaimKeeper, DelayKeeper, HistoryKeeper):
    """Outcomes by task id."""

    lacks = frozenset()
    reads_block = True

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        self.codec = database.codec

    async def store(self, outcomes_: Sequence[Outcome]) -> list[bool]:
        def work(connection: Connection) -> list[bool]:
            final = {
                id
                for (id,) in connection.execute(
                    "SELECT id FROM outcomes WHERE final = 1 AND id IN (SELECT value FROM json_each(?))",
                    (_json([item.id for item in outcomes_]),),
                )
            }
            outcomes.store(connection, outcomes_, self.clock.now())
            done = []
            for item in outcomes_:
                done.append(item.id not in final)
                if item.ready:
                    final.add(item.id)
            return done

        return await self.database.awrite(work)

    def look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        condition = " AND final = 1" if final else ""
        query, parameter = (FETCH_ONE, ids[0]) if len(ids) == 1 else (FETCH, _json(ids))
        rows = self.database.read(lambda connection: connection.execute(query + condition, (parameter,)).fetchall())
        return {id: self.codec.read_outcome(id, outcome) for id, outcome in rows}

    def watch(self, ids: Sequence[str]) -> Watch:
        return self.database.watch()

    def pause(self, ids: Sequence[str]) -> float:
        """Return the pause before each look for many ids.

        Results of a large group arrive by the hundred. Looking for the whole group after each commit would cost more
        than running its tasks. A look takes about 1 µs for each id, so it is done once in ten times that.
        """
        return min(0.1, len(ids) * 1e-5) if len(ids) > FEW else 0.0

    def forget(self, ids: Sequence[str]) -> None:
        self.database.write(_forget(ids), quiet=True)

    async def aforget(self, ids: Sequence[str]) -> None:
        await self.database.awrite(_forget(ids), quiet=True)

    async def recent(self, limit: int, offset: int = 0, state: str | None = None) -> list[Outcome]:
        where, parameters = ("WHERE state = ?", (state,)) if state else ("", ())
        rows = self.database.read(
            lambda connection: connection.execute(
                f"SELECT CAST(id AS TEXT), outcome FROM outcomes {where} ORDER BY stored_at DESC LIMIT ? OFFSET ?",  # noqa: S608
                (*parameters, limit, offset),
            ).fetchall()
        )
        return [self.codec.read_outcome(id, outcome) for id, outcome in rows]

    # --- Workflows ------------------------------------------------------------------------------------

    def plant(self, plan: Plan, again: bool = False) -> None:
        now = self.clock.now()
        self.database.write(lambda connection: workflows.plant(connection, plan, now, again), quiet=True)

    async def aplant(self, plan: Plan, again: bool = False) -> None:
        now = self.clock.now()
        await self.database.awrite(lambda connection: workflows.plant(connection, plan, now, again), quiet=True)

    def trees(self, ids: Sequence[str]) -> dict[str, bytes]:
        return self.database.read(lambda connection: workflows.trees(connection, ids))

    async def atrees(self, ids: Sequence[str]) -> dict[str, bytes]:
        return self.trees(ids)

    async def unfinished(self, limit: int) -> list[str] | None:
        return self.database.read(lambda connection: workflows.unfinished(connection, limit))

    def uproot(self, ids: Sequence[str]) -> None:
        self.database.write(lambda connection: workflows.uproot(connection, ids), quiet=True)

    async def conclude(self, ends: Sequence[NodeEnd]) -> list[bool]:
        return await self.database.awrite(lambda connection: workflows.conclude(connection, ends, self.clock.now()))

    async def claim_pending(self, limit: int, seconds: float) -> dict[PendingNode, bool]:
        now = self.clock.now()
        if not self.database.read(lambda connection: workflows.peek_pending(connection, 1, now)):
            return {}
        return await self.database.awrite(
            lambda connection: workflows.claim_pending(connection, limit, now, now + seconds), quiet=True
        )

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        now = self.clock.now()
        return await self.database.awrite(
            lambda connection: [workflows.advance(connection, advance, now) for advance in advances]
        )

    def schedules(self) -> ScheduleStore:
        return SQLiteScheduleStore(self.database, self.clock)

    def claims(self) -> ClaimStore:
        return SQLiteClaimStore(self.database)

    def delays(self) -> DelayStore:
        return SQLiteDelayStore(self.database, self.clock)

    def history(self) -> History:
        return SQLiteHistory(self.database)

    def close(self) -> None:
        self.database.close()


def _json(ids: Sequence[str]) -> str:
    return msgspec.json.encode(list(ids)).decode()


def _forget(ids: Sequence[str]) -> Any:
    return lambda connection: connection.execute(
        "DELETE FROM outcomes WHERE id IN (SELECT value FROM json_each(?))", (_json(ids),)
    )


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            synchronous: str = "normal") -> SQLiteBackend:  # fmt: skip
    """Return the backend for a `sqlite:///` URL."""
    return SQLiteBackend(database(path_of(url), synchronous, timeout, codec), clock)
