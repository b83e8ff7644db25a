"""Messages as rows: how one is written and found, and which line it stands in. Used by the broker and its leases."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from celeriac.brokers.base import encode
from celeriac.drivers.sqlite.schema import READY, SCHEDULED
from celeriac.message import HIGHEST_PRIORITY, Message, new_id

__all__ = ["INSERT", "Lines", "insert", "row", "seq_of", "where"]

INSERT = """
    INSERT INTO messages (seq, id, named, line, rank, state, due_at, message) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
EPOCH = 1_735_689_600_000  # milliseconds; 2025 began


class Lines:
    """The numbers of lines: each queue has one for each lane. Numbers never change, so they are remembered."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}

    def known(self, message: Message) -> int | None:
        """Return the line of a message, if this process has met it before."""
        return self._numbers.get((message.queue, message.lane))

    def number(self, connection: sqlite3.Connection, queue: str, lane: str) -> int:
        """Return a line's number; a new line is entered (inside the caller's write transaction)."""
        key = (queue, lane)
        if key not in self._numbers:
            connection.execute("INSERT OR IGNORE INTO lines (queue, lane) VALUES (?, ?)", key)
            found = connection.execute("SELECT line FROM lines WHERE queue = ? AND lane = ?", key).fetchone()
            # Not remembered yet: the transaction may still be rolled back.
            number: int = found[0]
            return number
        return self._numbers[key]

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Learn all lines that are committed."""
        for line, queue, lane in connection.execute("SELECT line, queue, lane FROM lines"):
            self._numbers[queue, lane] = line

    def of(self, queue: str, lane: str) -> int | None:
        """Return a line's number, if this process has met it before."""
        return self._numbers.get((queue, lane))


def seq_of(id: str) -> int | None:
    """Return the place of a message by its id: 41 bits of milliseconds, 22 of the counter. None: not an id of ours."""
    if len(id) != 36 or id[14] != "7":
        return None
    try:
        bits = int(id.replace("-", "")[:20], 16)
    except ValueError:
        return None
    milliseconds = (bits >> 32) - EPOCH
    if not 0 <= milliseconds < 1 << 41:
        return None
    return milliseconds << 22 | (bits >> 2 & 0x3F_C000 | bits & 0x3FFF)


def where(id: str) -> tuple[str, Sequence[Any]]:
    """Return the condition that finds a message by its id, and its parameters."""
    seq = seq_of(id)
    if seq is None:
        return "(named = 1 AND id = ?)", (id,)
    return "(seq = ? AND id = ? OR named = 1 AND id = ?)", (seq, id, id)


def row(message: Message, line: int, now: float) -> tuple[Any, ...]:
    """Return a message as the parameters of `INSERT`."""
    seq, named = seq_of(message.id), False
    if seq is None:
        seq, named = seq_of(new_id()), True
    waits = message.due_at is not None and message.due_at > now
    return (seq, message.id, named, line, HIGHEST_PRIORITY - message.priority, SCHEDULED if waits else READY,
            message.due_at if waits else None, encode(message))  # fmt: skip


def insert(connection: sqlite3.Connection, lines: Lines, messages: Iterable[Message], now: float) -> None:
    """Write messages that are not there already, inside the caller's write transaction."""
    rows = [row(message, lines.number(connection, message.queue, message.lane), now) for message in messages]
    try:
        connection.executemany(INSERT, rows)
    except sqlite3.IntegrityError:
        for values in rows:
            _insert_carefully(connection, values)


def _insert_carefully(connection: sqlite3.Connection, values: tuple[Any, ...]) -> None:
    """Write a row, unless it is written already. If another message has its place, it gets another, and is named."""
    seq, id, named, *rest = values
    condition, parameters = where(id)
    while connection.execute(f"SELECT 1 FROM messages WHERE {condition}", parameters).fetchone() is None:  # noqa: S608
        try:
            connection.execute(INSERT, (seq, id, named, *rest))
        except sqlite3.IntegrityError:
            seq, named = seq_of(new_id()), True
