"""Outcomes in a SQL database, through SQLAlchemy: `db+postgresql://`, `db+mysql://`, `db+oracle://`, `db+sqlite://` …

Callers that wait poll. Workflows are counted in the transaction that stores the outcome of a node.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from celeriac.backends.bases import SyncBackend, encoded_within, without_value
from celeriac.drivers.sql.claims import SQLClaimStore
from celeriac.drivers.sql.columns import MYSQL
from celeriac.drivers.sql.database import Database, database
from celeriac.drivers.sql.delays import SQLDelayStore
from celeriac.drivers.sql.history import SQLHistory
from celeriac.drivers.sql.keys import NEVER, is_hash, key, micros, state_key
from celeriac.drivers.sql.outcomes import OutcomeTable, Row
from celeriac.drivers.sql.schedules import SQLScheduleStore
from celeriac.drivers.sql.workflows import WorkflowTables
from celeriac.errors import BackendError, BackendUnavailable, BrokerError, WorkflowError
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.gate import Unreadable
from celeriac.model.outcome import Outcome, unreadable_outcome
from celeriac.ports.abilities import Ability
from celeriac.ports.claims import ClaimKeeper, ClaimStore
from celeriac.ports.delays import DelayKeeper, DelayStore
from celeriac.ports.history import History, HistoryKeeper
from celeriac.ports.schedules import ScheduleKeeper, ScheduleStore
from celeriac.ports.schema import SchemaOwner
from celeriac.ports.workflows import Advance, NodeEnd, PendingNode, Plan, WorkflowStore

__all__ = ["SQLBackend", "connect"]

log = logging.getLogger("celeriac.backends")

SWEEP_SECONDS = 60.0  # between two sweeps of one process: that much, or up to twice as much
OUTAGE_PAUSE = 0.1  # seconds between two looks of a waiting caller, while the server cannot be reached
NOT_AT_ALL = float("-inf")
WAITS_UNTIL: ContextVar[float] = ContextVar("celeriac.backends.sql", default=NOT_AT_ALL)
"""The deadline (monotonic) of the call that waits."""
ROW_BYTES = 1_000  # of a statement, besides the outcome


class SQLBackend(SyncBackend, WorkflowStore, ScheduleKeeper, ClaimKeeper, DelayKeeper, HistoryKeeper, SchemaOwner):
    """Outcomes by task id, in tables."""

    lacks = frozenset({Ability.NOTIFY})

    def __init__(self, database: Database, clock: Clock, result_expires: float | None = 86400.0,
                 codec: Codec = PLAIN_CODEC, generic: bool = False) -> None:  # fmt: skip
        super().__init__(clock)
        self.database = database
        self.codec = codec
        self.expires = result_expires
        self._outcomes = OutcomeTable(database.tables, result_expires, generic)
        self._workflows = WorkflowTables(database.tables, self._outcomes, self._row)
        self._claims = SQLClaimStore(database)
        self._sweeper: threading.Thread | None = None
        self._sweep_at = clock.monotonic() + SWEEP_SECONDS * random.random()  # noqa: S311 - spreads the workers

    def save(self, outcomes: Sequence[Outcome]) -> list[bool]:
        now = micros(self.clock.now())

        def work(connection: Connection) -> list[bool]:
            rows = [self._row(outcome) for outcome in outcomes]
            return self._outcomes.store(connection, rows, now, self.database.largest)

        done = self.database.write(work)
        self._sweep_if_due()
        return done

    def _row(self, outcome: Outcome) -> Row:
        """Return the row of an outcome; if the server would refuse that as too large, of a failure that says so."""
        largest, limit = self._accepts()
        outcome, data = encoded_within(self.codec, outcome, largest)
        if len(data) > largest:
            why = f"has {len(data):,} bytes, and {self.database.address} accepts {largest:,}{limit}."
            outcome = without_value(outcome, why)
            data = self.codec.encode_outcome(outcome)
        shown = self.database.tables.shown.of_outcome(outcome, self.clock.now())
        return Row(key(outcome.id), state_key(outcome.state), outcome.ready, data, shown)

    def _accepts(self) -> tuple[int, str]:
        """Return how many bytes the server accepts in a value, once it is known, and where that comes from."""
        largest = self.database.largest - ROW_BYTES
        if self.database.address.system in MYSQL:
            return largest // 2, " (half of `max_allowed_packet`)"  # a statement has two characters a byte
        return largest, ""

    def fetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        with self._waiting(wait):
            return super().fetch(ids, wait)

    async def afetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        with self._waiting(wait):
            return await super().afetch(ids, wait)

    @contextmanager
    def _waiting(self, wait: float) -> Iterator[None]:
        """Note until when a call waits: until then it bears an outage, but not for longer than the time-out."""
        token = WAITS_UNTIL.set(self.clock.monotonic() + wait if wait > 0 else NOT_AT_ALL)
        try:
            yield
        finally:
            WAITS_UNTIL.reset(token)

    def look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        lost_at = self.clock.monotonic()
        while True:
            try:
                return self._look(ids, final)
            except BackendUnavailable:
                if not self._bears(lost_at):
                    raise
            time.sleep(OUTAGE_PAUSE)

    async def alook(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        lost_at = self.clock.monotonic()
        while True:
            try:
                return await asyncio.to_thread(self._look, ids, final)
            except BackendUnavailable:
                if not self._bears(lost_at):
                    raise
            await asyncio.sleep(OUTAGE_PAUSE)

    def _bears(self, lost_at: float) -> bool:
        """Return whether a waiting caller looks again, after an outage since that instant."""
        return self.clock.monotonic() + OUTAGE_PAUSE < min(WAITS_UNTIL.get(), lost_at + self.database.timeout)

    def _look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        names = {key(id): id for id in ids}
        rows = self.database.read(lambda connection: self._outcomes.look(connection, names, final, self._since()))
        return {names[found]: self.codec.read_outcome(names[found], data) for found, data in rows}

    async def recent(self, limit: int, offset: int = 0, state: str | None = None) -> list[Outcome]:
        wanted = state_key(state) if state else None
        rows = await self.database.aread(
            lambda connection: self._outcomes.recent(connection, limit, offset, wanted, self._since()),
        )
        return [self.read_row(found, data) for found, data in rows]

    def read_row(self, found: str, data: bytes) -> Outcome:
        """Return the outcome of a row; if its key is a hash, the outcome itself says which task's it is."""
        if not is_hash(found):
            return self.codec.read_outcome(found, data)
        try:
            outcome = self.codec.decode_outcome(data)
            if key(outcome.id) != found:
                raise Unreadable(f"it is the outcome of another task, {outcome.id}")
        except Unreadable as error:
            return unreadable_outcome(found, error)
        return outcome

    def _since(self) -> int:
        """Return the instant before which what was stored has expired."""
        return micros(self.clock.now() - self.expires) if self.expires is not None else NEVER

    def forget(self, ids: Sequence[str]) -> None:
        self.database.write(lambda connection: self._outcomes.forget(connection, map(key, ids)))

    # --- Workflows ------------------------------------------------------------------------------------

    def plant(self, plan: Plan, again: bool = False) -> None:
        exists = False

        def work(connection: Connection) -> None:
            nonlocal exists
            now = self.clock.now()
            largest, limit = self._accepts()
            if len(plan.tree) > largest:
                raise WorkflowError(
                    f"The workflow {plan.id} has {len(plan.tree):,} bytes, and {self.database.address} accepts "
                    f"{largest:,}{limit}. Send it in parts, or with shorter arguments."
                )
            if exists and again and self._workflows.trees(connection, [plan.id], now, self.expires):
                return
            try:
                self._workflows.plant(connection, plan, now, replace=exists)
            except IntegrityError:  # there is one of this id: the transaction is repeated
                exists = True
                raise

        self.database.write(work)

    async def aplant(self, plan: Plan, again: bool = False) -> None:
        await asyncio.to_thread(self.plant, plan, again)

    def trees(self, ids: Sequence[str]) -> dict[str, bytes]:
        now = self.clock.now()
        return self.database.read(lambda connection: self._workflows.trees(connection, ids, now, self.expires))

    async def atrees(self, ids: Sequence[str]) -> dict[str, bytes]:
        return await asyncio.to_thread(self.trees, ids)

    async def unfinished(self, limit: int) -> list[str] | None:
        now = self.clock.now()
        return await asyncio.to_thread(
            self.database.read, lambda connection: self._workflows.unfinished(connection, limit, now, self.expires)
        )

    def uproot(self, ids: Sequence[str]) -> None:
        self.database.write(lambda connection: self._workflows.uproot(connection, ids))

    async def conclude(self, ends: Sequence[NodeEnd]) -> list[bool]:
        now = self.clock.now()
        done = await self.database.awrite(
            lambda connection: self._workflows.conclude(connection, ends, now, self.database.largest),
        )
        self.wake(end.outcome.id for end in ends)
        self._sweep_if_due()
        return done

    async def claim_pending(self, limit: int, seconds: float) -> dict[PendingNode, bool]:
        now = self.clock.now()
        return await asyncio.to_thread(self._claim, limit, now, now + seconds)

    def _claim(self, limit: int, now: float, until: float) -> dict[PendingNode, bool]:
        if not self.database.read(lambda connection: self._workflows.has_free(connection, now)):
            return {}
        return self.database.write(lambda connection: self._workflows.claim(connection, limit, now, until))

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        now = self.clock.now()

        def work(connection: Connection) -> list[bool]:
            return [self._workflows.advance(connection, item, now, self.database.largest) for item in advances]

        done = await self.database.awrite(work)
        self.wake(outcome.id for advance in advances for outcome in advance.outcomes)
        return done

    # --- The rest -------------------------------------------------------------------------------------

    def _sweep_if_due(self) -> None:
        """Start to delete what has expired, beside the caller, unless this process did so a short while ago."""
        now = self.clock.monotonic()
        if now < self._sweep_at or (self._sweeper is not None and self._sweeper.is_alive()):
            return
        self._sweep_at = now + SWEEP_SECONDS * (1 + random.random())  # noqa: S311
        self._sweeper = threading.Thread(target=self._sweep, name="celeriac-sql-sweep", daemon=True)
        self._sweeper.start()

    def _sweep(self) -> None:
        try:
            self.sweep()
        except (BackendError, BrokerError) as error:
            log.debug("Cannot delete expired outcomes: %s", error)

    def sweep(self) -> None:
        """Delete what has expired, in short transactions."""
        steps: list[Callable[[Connection], bool]] = [
            lambda connection: self._workflows.delete_expired(connection, self.clock.now(), self.expires),
            lambda connection: self._claims.delete_expired(connection, self.clock.now()),
        ]
        if self.expires is not None:
            steps.append(lambda connection: self._outcomes.delete_expired(connection, self._since()))
        for step in steps:
            while self.database.write(step):
                pass

    def schedules(self) -> ScheduleStore:
        return SQLScheduleStore(self.database, self.clock, self.codec)

    def claims(self) -> ClaimStore:
        return self._claims

    def delays(self) -> DelayStore:
        return SQLDelayStore(self.database, self.clock)

    def history(self) -> History:
        return SQLHistory(self.database, self.codec)

    def schema(self) -> str:
        return self.database.tables.text(self.database.address.dialect())

    def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.join(self.database.timeout)
        self.database.close()

    def __repr__(self) -> str:
        return f"<SQLBackend {self.database.address}>"


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            schema: str | None = None, table_prefix: str = "celeriac_") -> SQLBackend:  # fmt: skip
    """Return the backend for a `db+…://` URL."""
    return SQLBackend(database(url, schema, table_prefix, timeout), clock, result_expires, codec)
