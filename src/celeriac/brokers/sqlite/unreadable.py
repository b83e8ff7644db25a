"""Unreadable rows. A lease that meets one makes it a dead letter, so that it does not stop the worker.

SQLite stores any value in any column, so that a row of a damaged file may have anything for a key, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celeriac.brokers.sqlite.rows import number_of, queue_of, seq_of
from celeriac.drivers.sqlite.opening import Connection
from celeriac.drivers.sqlite.schema import KEPT
from celeriac.model.gate import Unreadable
from celeriac.model.message import HIGHEST_PRIORITY, Message
from celeriac.ports.operations import unreadable

__all__ = ["bury_damaged", "decode_or_bury", "put_aside"]

log = logging.getLogger("celeriac.sqlite")

_HERE = "line = ?1 AND rank = ?2 AND seq = ?3"
BODY = f"SELECT CAST(message AS BLOB) FROM active WHERE {_HERE}"  # noqa: S608 - constants
BURY = f"INSERT INTO dead ({KEPT}, died_at, reason) VALUES (?, ?, ?, ?, 0, ?, ?, ?)"  # noqa: S608
DAMAGED = "(typeof(line) <> 'integer' OR typeof(rank) <> 'integer' OR typeof(seq) <> 'integer')"

def decode_or_bury(connection: Connection, raw: bytes, key: tuple[int, int, int], now: float) -> Message | None:
    """Decode the message of a row of `active`. If it is unreadable, make it a dead letter and return None.

    The dead letter is a new message with an id of its own; its body is the bytes of the row.
    """
    queue = queue_of(connection, key[0])
    try:
        return connection.codec.decode(raw, queue)
    except Unreadable as error:
        (body,) = connection.execute(BODY, key).fetchone()
        connection.execute(f"DELETE FROM active WHERE {_HERE}", key)  # noqa: S608
        _bury(connection, body, queue, f"it cannot be read: {error}", now)
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
    put_aside(connection, message, why, now)
    log.error("A message in the queue %s is now the dead letter %s: %s", queue, message.id, why)


def put_aside(connection: Connection, message: Message, why: str, now: float) -> None:
    """Write a new message as a dead letter."""
    line = number_of(connection, message.queue, message.lane)
    key = (line, HIGHEST_PRIORITY - message.priority, seq_of(message.id))
    connection.execute(BURY, (*key, None, connection.codec.encode(message), now, why))
