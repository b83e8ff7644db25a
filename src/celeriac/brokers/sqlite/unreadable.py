"""Unreadable rows. A lease that meets one makes it a dead letter, so that it does not stop the worker.

SQLite stores any value in any column, so that a row of a damaged file may have anything for a key, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celeriac.brokers.sqlite.rows import number_of, seq_of
from celeriac.drivers.sqlite.opening import Connection
from celeriac.drivers.sqlite.schema import KEPT
from celeriac.model.gate import Unreadable
from celeriac.model.message import HIGHEST_PRIORITY, Message, decode, encode
from celeriac.ports.operations import unreadable

__all__ = ["bury_damaged", "decode_or_bury", "queue_of"]

log = logging.getLogger("celeriac.sqlite")

_HERE = "line = ?1 AND rank = ?2 AND seq = ?3"
QUEUE = "SELECT CAST(queue AS TEXT) FROM lines WHERE line = ?1"
BODY = f"SELECT CAST(message AS BLOB) FROM active WHERE {_HERE}"  # noqa: S608 - constants
BURY = f"INSERT INTO dead ({KEPT}, died_at, reason) VALUES (?, ?, ?, ?, 0, ?, ?, ?)"  # noqa: S608
DAMAGED = "(typeof(line) <> 'integer' OR typeof(rank) <> 'integer' OR typeof(seq) <> 'integer')"
LOST = "default"  # the queue of a message whose line is missing


def queue_of(connection: Connection, line: Any) -> str:
    """Return the queue of a line."""
    found = connection.execute(QUEUE, (line,)).fetchone()
    return (found[0] if found is not None else "") or LOST


def decode_or_bury(connection: Connection, raw: bytes, key: tuple[int, int, int], now: float) -> Message | None:
    """Decode the message of a row of `active`. If it is unreadable, make it a dead letter and return None.

    The dead letter is a new message with an id of its own; its body is the bytes of the row.
    """
    try:
        return decode(raw)
    except Unreadable as error:
        (body,) = connection.execute(BODY, key).fetchone()
        connection.execute(f"DELETE FROM active WHERE {_HERE}", key)  # noqa: S608
        _bury(connection, body, queue_of(connection, key[0]), f"it cannot be read: {error}", now)
        return None


def bury_damaged(connection: Connection, table: str, where: str, parameters: Sequence[Any], now: float) -> None:
    """Make dead letters of the rows of a table that have no whole numbers for a key, among those of a condition."""
    condition = f"WHERE {where} AND {DAMAGED}"
    rows = connection.execute(f"SELECT line, CAST(message AS BLOB) FROM {table} {condition}", parameters).fetchall()  # noqa: S608
    connection.execute(f"DELETE FROM {table} {condition}", parameters)  # noqa: S608
    for line, body in rows:
        _bury(connection, body, queue_of(connection, line), "the key of its row is damaged", now)


def _bury(connection: Connection, body: bytes, queue: str, why: str, now: float) -> None:
    message = unreadable(body, queue, why, now).message
    key = (number_of(connection, queue, message.lane), HIGHEST_PRIORITY - message.priority, seq_of(message.id))
    connection.execute(BURY, (*key, None, encode(message), now, why))
    log.error("A message in the queue %s is now the dead letter %s: %s", queue, message.id, why)
