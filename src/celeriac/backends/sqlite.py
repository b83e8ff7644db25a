"""Outcomes in a SQLite file: the one that holds the messages, or another."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from celeriac.drivers.sqlite import outcomes, workflows
from celeriac.drivers.sqlite.address import path_of
from celeriac.drivers.sqlite.database import Database, database
from celeriac.model.clock import Clock
from celeriac.model.outcome import Outcome
from celeriac.ports.backend import Backend
from celeriac.ports.workflows import Advance, NodeEnd, PendingNode, Plan, WorkflowStore

__all__ = ["SQLiteBackend", "connect"]

FETCH = "SELECT id, outcome FROM outcomes WHERE id IN (SELECT value FROM json_each(?))"
FETCH_ONE = "SELECT id, outcome FROM outcomes WHERE id = ?"


FEW = 32


def _rest(ids: Sequence[str]) -> float:
    """Return how long (seconds) to leave the database alone before looking for many ids.

    Results of a large group arrive by the hundred. Looking for the whole group at each of their commits would cost more
    than running its tasks; so a look that takes about 1 µs for each id is taken once in ten times that.
    """
    return min(0.1, len(ids) * 1e-5)


class SQLiteBackend(Backend, WorkflowStore):
    """Outcomes by task id."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.clock = clock

    async def store(self, outcomes_: Sequence[Outcome]) -> list[bool]:
        def work(connection: sqlite3.Connection) -> list[bool]:
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

    def fetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        deadline = self.clock.monotonic() + wait
        watch = self.database.watch() if wait else None
        while True:
            if wait and len(ids) > FEW:
                time.sleep(min(_rest(ids), max(0.0, deadline - self.clock.monotonic())))
            seen = watch.generation if watch is not None else 0
            found = self._look(ids, final=watch is not None)
            left = deadline - self.clock.monotonic()
            if found or watch is None or left <= 0:
                return found
            watch.wait(seen, left)

    async def afetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        deadline = self.clock.monotonic() + wait
        watch = self.database.watch()
        while True:
            if wait and len(ids) > FEW:
                await asyncio.sleep(min(_rest(ids), max(0.0, deadline - self.clock.monotonic())))
            seen = watch.generation
            found = self._look(ids, final=bool(wait))
            left = deadline - self.clock.monotonic()
            if found or not wait or left <= 0:
                return found
            await watch.changed(seen, left)

    def _look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        condition = " AND final = 1" if final else ""
        query, parameter = (FETCH_ONE, ids[0]) if len(ids) == 1 else (FETCH, _json(ids))
        rows = self.database.read(lambda connection: connection.execute(query + condition, (parameter,)).fetchall())
        return {id: outcomes.decode(outcome) for id, outcome in rows}

    def forget(self, ids: Sequence[str]) -> None:
        self.database.write(_forget(ids), quiet=True)

    async def aforget(self, ids: Sequence[str]) -> None:
        await self.database.awrite(_forget(ids), quiet=True)

    async def recent(self, limit: int, offset: int = 0, state: str | None = None) -> list[Outcome]:
        where, parameters = ("WHERE state = ?", (state,)) if state else ("", ())
        rows = self.database.read(
            lambda connection: connection.execute(
                f"SELECT outcome FROM outcomes {where} ORDER BY stored_at DESC LIMIT ? OFFSET ?",  # noqa: S608
                (*parameters, limit, offset),
            ).fetchall()
        )
        return [outcomes.decode(outcome) for (outcome,) in rows]

    # --- Workflows ------------------------------------------------------------------------------------

    def plant(self, plan: Plan) -> None:
        self.database.write(lambda connection: workflows.plant(connection, plan, self.clock.now()), quiet=True)

    async def aplant(self, plan: Plan) -> None:
        await self.database.awrite(lambda connection: workflows.plant(connection, plan, self.clock.now()), quiet=True)

    def trees(self, ids: Sequence[str]) -> dict[str, bytes]:
        return self.database.read(lambda connection: workflows.trees(connection, ids))

    async def atrees(self, ids: Sequence[str]) -> dict[str, bytes]:
        return self.trees(ids)

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

    def close(self) -> None:
        self.database.close()


def _json(ids: Sequence[str]) -> str:
    return msgspec.json.encode(list(ids)).decode()


def _forget(ids: Sequence[str]) -> Any:
    return lambda connection: connection.execute(
        "DELETE FROM outcomes WHERE id IN (SELECT value FROM json_each(?))", (_json(ids),)
    )


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None,
            synchronous: str = "normal") -> SQLiteBackend:  # fmt: skip
    """Return the backend of a `sqlite:///` URL."""
    return SQLiteBackend(database(path_of(url), synchronous, timeout), clock)
