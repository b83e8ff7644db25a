"""Unreadable rows. A lease that meets one makes it a dead letter, so that it does not stop the worker."""

from __future__ import annotations

import logging

from celeriac.brokers.sqlite.rows import queue_of
from celeriac.drivers.sqlite.opening import Connection
from celeriac.drivers.sqlite.schema import KEPT
from celeriac.model.gate import Unreadable
from celeriac.model.message import Message
from celeriac.ports.operations import unreadable

__all__ = ["decode_or_bury"]

log = logging.getLogger("celeriac.sqlite")

_HERE = "line = ?1 AND rank = ?2 AND seq = ?3"
SELECT = f"SELECT CAST(message AS BLOB) FROM active WHERE {_HERE}"  # noqa: S608 - constants
BURY = f"INSERT INTO dead ({KEPT}, died_at, reason) VALUES (?, ?, ?, ?, 0, ?, ?, ?)"  # noqa: S608


def decode_or_bury(connection: Connection, raw: bytes, key: tuple[int, int, int], now: float) -> Message | None:
    """Decode the message of a row of `active`. If it is unreadable, make it a dead letter and return None.

    The dead letter is a new message with an id of its own; its body is the bytes of the row.
    """
    queue = queue_of(connection, key[0])
    try:
        return connection.codec.decode(raw, queue)
    except Unreadable as error:
        (body,) = connection.execute(SELECT, key).fetchone()
        letter = unreadable(body, queue, f"it cannot be read: {error}", now)
        connection.execute(f"DELETE FROM active WHERE {_HERE}", key)  # noqa: S608
        message = connection.codec.encode(letter.message)
        connection.execute(BURY, (*key, letter.message.id, message, now, letter.reason))
        log.error("A message in the queue %s is now the dead letter %s: %s", queue, letter.message.id, letter.reason)
        return None
