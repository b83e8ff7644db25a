"""A connection of the caller's own, in whose open transaction a few statements are run.

A file can hold the tables of the project's database and Celeriac's (`Database.share`). SQLite has one writer at a time,
so a thread that has a transaction open there must write on the connection that has it. What it writes is there if, and
only if, that transaction commits. `database.py` uses this; `celeriac.contrib.django` says which transaction is open.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from celeriac.drivers.sqlite.opening import Connection
    from celeriac.model.codec import Codec

__all__ = ["OpenTransaction", "borrow"]

Work = TypeVar("Work")


class OpenTransaction(Protocol):
    """A transaction that the calling thread has open on a file."""

    connection: sqlite3.Connection

    def on_commit(self, call: Callable[[], None]) -> None:
        """Call a function once it has committed; never, if what is done now is rolled back."""


def borrow(connection: sqlite3.Connection, codec: Codec) -> Connection:
    """Return a caller's connection as one that the statements of this package can run on. It knows no lines."""
    return cast("Connection", _Borrowed(connection, codec))


class _Borrowed:
    """What is used of `Connection` inside a transaction."""

    def __init__(self, connection: sqlite3.Connection, codec: Codec) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.codec = codec
        self.lines: dict[tuple[str, str], int] = {}
        self.lane_of: dict[int, tuple[str, str]] = {}
        self.news = False
        self.has_history = False
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
