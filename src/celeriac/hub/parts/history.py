"""The history: sealed values, and what the store must know of them."""

from __future__ import annotations

from typing import Any

from celeriac.drivers.sqlite.history import SQLiteHistory, write_rows, write_sums_of
from celeriac.drivers.sqlite.opening import Connection
from celeriac.drivers.zmq.verbs import EventRow, Recorded, SignatureRow
from celeriac.hub.database import HubDatabase, finish
from celeriac.model.filters import Filter
from celeriac.model.history import Key, Status
from celeriac.ports.history import Limits, Position
from celeriac.ports.history_sums import Change, Row, WorkerState

__all__ = ["History", "SealedHistory"]


class SealedHistory(SQLiteHistory):
    """The SQLite store, for values that it cannot read."""

    async def write_sealed(self, batch: Recorded, now: float) -> None:
        """Write a batch in one step."""

        def work(connection: Connection) -> None:
            write_sums_of(connection, batch.lease, batch.complete, batch.sums, now)
            write_rows(connection, batch.attempts, batch.events, batch.signatures)

        await self._write(work)

    async def write_event(self, row: EventRow) -> None:
        """Write an event."""
        await self._write(lambda connection: write_rows(connection, events=[row]))

    def sealed_signatures(self, signatures: list[str] | None, since: float) -> list[SignatureRow]:
        """Return these signatures, or all, of which each failed since then."""
        rows: list[Any] = self._signature_rows("last >= ?", since) if signatures is None else []
        for one in signatures or ():
            rows += self._signature_rows("signature = ? AND last >= ?", one, since)
        return rows

    def sealed_events(self, kinds: list[str], since: float, limit: int, id: str | None) -> list[bytes]:
        """Return the latest events."""
        return self._event_values(kinds, since, limit, id)


class History:
    """The verbs `history.*`."""

    def __init__(self, database: HubDatabase) -> None:
        self._history = SealedHistory(database)

    def record(self, batch: Recorded, now: float) -> None:
        """Write a batch."""
        finish(self._history.write_sealed(batch, now))

    def audit(self, row: EventRow) -> None:
        """Write an event."""
        finish(self._history.write_event(row))

    def prune(self, limits: Limits, now: float) -> int:
        """Delete what is too old or too much."""
        return finish(self._history.prune(limits, now))

    def attempts(self, filter: Filter, before: Position | None, limit: int) -> list[tuple[Position, bytes]]:
        """Return attempts, newest first."""
        return finish(self._history.attempts(filter, before, limit))

    def count_attempts(self) -> int:
        """Return how many there are."""
        return finish(self._history.count_attempts())

    def attempts_of_task(self, id: str) -> list[bytes]:
        """Return those of a task."""
        return finish(self._history.attempts_of_task(id))

    def signature_rows(self, signatures: list[str] | None, since: float) -> list[SignatureRow]:
        """Return failure signatures, and what operators said of them."""
        return self._history.sealed_signatures(signatures, since)

    def mark(self, signature: str, status: Status, by: str, now: float) -> bool:
        """Set the status of a signature."""
        return finish(self._history.mark(signature, status, by, now))

    def event_rows(self, kinds: list[str], since: float, limit: int, id: str | None) -> list[bytes]:
        """Return the latest events."""
        return self._history.sealed_events(kinds, since, limit, id)

    def rows(self, step: int, since: int, until: int, limit: int | None) -> list[Row]:
        """Return folded rows of sums."""
        return finish(self._history.rows(step, since, until, limit))

    def unfolded(self) -> list[Row]:
        """Return the rows of single workers."""
        return finish(self._history.unfolded())

    def get(self, keys: list[Key]) -> list[Row]:
        """Return rows by their keys."""
        return [Row(key, value) for key, value in finish(self._history.get(keys)).items()]

    def swap(self, changes: list[Change], folded: dict[str, int]) -> bool:
        """Change rows in one step."""
        return finish(self._history.swap(changes, folded))

    def workers(self) -> dict[str, WorkerState]:
        """Return what is known of the workers that have unfolded sums."""
        return finish(self._history.workers())
