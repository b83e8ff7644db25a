"""Stores outcomes in SQLite. Called by the backend, and by the broker in the transaction that settles."""

from __future__ import annotations

from collections.abc import Sequence

from celeriac.drivers.sqlite.bulk_insert import Insert
from celeriac.drivers.sqlite.opening import Connection
from celeriac.model.outcome import Outcome

__all__ = ["store"]

STORE = Insert(
    "INTO outcomes (id, state, final, stored_at, outcome)",
    5,
    """ON CONFLICT (id) DO UPDATE SET state = excluded.state, final = excluded.final, stored_at = excluded.stored_at,
        outcome = excluded.outcome WHERE final = 0""",
)


def store(connection: Connection, outcomes: Sequence[Outcome], now: float) -> list[bool]:
    """Store outcomes. Return for each whether it was stored: False if there was a final one."""
    encode = connection.codec.encode_outcome
    rows = [(item.id, item.state, item.ready, now, encode(item)) for item in outcomes]
    connection.execute("SAVEPOINT store")
    if STORE.write(connection, rows) == len(rows):
        return [True] * len(rows)
    # Some were not stored, and the count does not tell which.
    connection.execute("ROLLBACK TO store")
    return [STORE.write(connection, [row]) == 1 for row in rows]
