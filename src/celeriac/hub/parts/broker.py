"""Publishing, revoking, broadcasting."""

from __future__ import annotations

import sqlite3
from typing import Any, Final, cast

from celeriac.brokers.sqlite.broker import SQLiteBroker, sent_after
from celeriac.brokers.sqlite.lease import enter
from celeriac.brokers.sqlite.rows import INSERT_ONE, insert, new_row
from celeriac.drivers.zmq.parcels import Parcel
from celeriac.hub.database import HubDatabase, finish
from celeriac.hub.parts.leases import published
from celeriac.hub.turn import Turn
from celeriac.model.clock import Clock

__all__ = ["Broker"]

KNOWN: Final = 10_000  # leases of which the clients are remembered, before those that have ended are forgotten
LAST: Final = "SELECT CAST(seq AS INTEGER) FROM sqlite_sequence WHERE name = 'broadcasts'"


class Broker:
    """The verbs `broker.*`."""

    def __init__(self, turn: Turn, database: HubDatabase, clock: Clock) -> None:
        self._turn = turn
        self._database = database
        self._clock = clock
        self._broker = SQLiteBroker(database, clock)
        self.leases: dict[int, str] = {}  # the names of the clients that have opened leases

    def publish(self, values: list[bytes]) -> None:
        """Store messages."""
        now = self._clock.now()
        parcels = published(values, now)
        if len(parcels) == 1 and self._inserted(parcels[0], now):
            return
        self._database.write(lambda connection: insert(connection, parcels, now))

    def _inserted(self, parcel: Parcel, now: float) -> bool:
        """Write one new message the fastest way; return False if that must not or cannot be done."""
        session = self._database.session()
        connection = session.connection if self._turn.is_alone else self._database.enter()
        line = connection.lines.get((parcel.queue, parcel.lane))
        row = new_row(cast(Any, parcel), line, now, connection.codec) if line is not None else None
        if row is None:
            return False
        if self._turn.is_alone:  # one statement costs SQLite a third less without a transaction around it
            return session.insert(INSERT_ONE, row)
        try:
            if connection.execute(INSERT_ONE, row).rowcount != 1:
                return False
        except sqlite3.Error:  # the caller's next attempt raises it
            return False
        self._database.ring()
        return True

    def lease(self, info: bytes, seconds: float) -> int:
        """Open a lease for a worker; return its number."""
        now = self._clock.now()
        number = self._database.write(lambda connection: enter(connection, info, now, seconds))
        if len(self.leases) > KNOWN:
            self.standing()
        self.leases[number] = self._turn.client
        return number

    def standing(self) -> list[str]:
        """Return the names of the clients of those leases that stand, as far as they were opened here."""
        rows = self._database.read(lambda connection: connection.execute("SELECT lease FROM leases").fetchall())
        stands = {number for (number,) in rows}
        self.leases = {number: name for number, name in self.leases.items() if number in stands}
        return list(self.leases.values())

    def revoke(self, ids: list[str], until: float) -> None:
        """Mark messages as revoked."""
        finish(self._broker.revoke(ids, until))
        self._turn.look_everywhere()

    def broadcast(self, channel: str, payloads: list[bytes]) -> None:
        """Send payloads to those who listen."""
        finish(self._broker.broadcast(channel, payloads))
        self._turn.channels.add(channel)

    def last_broadcast(self) -> int:
        """Return the number of the last payload."""
        rows = self._database.read(lambda connection: connection.execute(LAST).fetchall())
        return rows[0][0] if rows else 0

    def heard_now(self, channel: str, seen: int) -> tuple[int, list[bytes]]:
        """Return the number of the last payload, and those of a channel that were sent after one that was seen."""
        last, payloads = self._database.read(lambda connection: sent_after(seen, channel, connection))
        return max(seen, last), payloads
