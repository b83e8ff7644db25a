"""Messages as rows: how one is written, and which line it stands in. Used by the broker and its leases."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from celeriac.brokers.base import encode
from celeriac.drivers.sqlite.schema import READY, SCHEDULED
from celeriac.message import HIGHEST_PRIORITY, Message

__all__ = ["INSERT", "Lines", "insert", "row"]

INSERT = "INSERT OR IGNORE INTO messages (id, line, rank, state, due_at, message) VALUES (?, ?, ?, ?, ?, ?)"


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


def row(message: Message, line: int, now: float) -> tuple[Any, ...]:
    """Return a message as the parameters of `INSERT`."""
    waits = message.due_at is not None and message.due_at > now
    return (message.id, line, HIGHEST_PRIORITY - message.priority, SCHEDULED if waits else READY,
            message.due_at if waits else None, encode(message))  # fmt: skip


def insert(connection: sqlite3.Connection, lines: Lines, messages: Iterable[Message], now: float) -> None:
    """Write messages, inside the caller's write transaction."""
    connection.executemany(
        INSERT, [row(message, lines.number(connection, message.queue, message.lane), now) for message in messages]
    )
