"""Rows that cannot be read. Whoever meets one puts it aside as a dead letter, so that it stops nobody."""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

from celeriac.drivers.sqlite.schema import KEPT
from celeriac.model.message import Message, decode, encode
from celeriac.ports.operations import unreadable

__all__ = ["UNREADABLE", "understood"]

log = logging.getLogger("celeriac.sqlite")

UNREADABLE: Final = (ValueError, TypeError)
"""What `decode` raises. `TypeError`: somebody has written no bytes there; SQLite lets him."""

_HERE = "line = ?1 AND rank = ?2 AND seq = ?3"
SELECT = f"SELECT queue, CAST(message AS BLOB) FROM active JOIN lines USING (line) WHERE {_HERE}"  # noqa: S608 - constants
BURY = f"INSERT INTO dead ({KEPT}, died_at, reason) VALUES (?, ?, ?, ?, 0, ?, ?, ?)"  # noqa: S608


def understood(connection: sqlite3.Connection, raw: bytes, place: tuple[int, int, int], now: float) -> Message | None:
    """Return the message of a row of `active`; None where it cannot be read, and is a dead letter by now.

    The letter is a message of its own, whose body is the row's bytes, and which has an id by which it is found.
    """
    try:
        return decode(raw)
    except UNREADABLE as error:
        queue, body = connection.execute(SELECT, place).fetchone()
        letter = unreadable(body, queue, f"it cannot be read: {error}", now)
        connection.execute(f"DELETE FROM active WHERE {_HERE}", place)  # noqa: S608
        connection.execute(BURY, (*place, letter.message.id, encode(letter.message), now, letter.reason))
        log.error("A message in the queue %s was put aside as %s: %s", queue, letter.message.id, letter.reason)
        return None
