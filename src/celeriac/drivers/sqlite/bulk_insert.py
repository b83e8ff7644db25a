"""Inserts many rows with one statement. SQLite runs a list of VALUES in less than half the time of `executemany`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

__all__ = ["Insert"]

ROWS: Final = 64  # per statement; more rows are not faster


class Insert:
    """An INSERT statement without its values: `Insert("INTO ready (line, seq)", columns=2)`."""

    def __init__(self, into: str, columns: int, otherwise: str = "") -> None:
        row = f"({', '.join('?' * columns)})"
        self._one = f"INSERT {into} VALUES {row} {otherwise}"  # noqa: S608 - constants
        self._many = f"INSERT {into} VALUES {', '.join([row] * ROWS)} {otherwise}"  # noqa: S608

    def write(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Write the rows; return how many were written or changed."""
        whole = len(rows) - len(rows) % ROWS
        written = 0
        for start in range(0, whole, ROWS):
            values = list(chain.from_iterable(rows[start : start + ROWS]))
            written += connection.execute(self._many, values).rowcount
        if whole < len(rows):
            written += connection.executemany(self._one, rows[whole:]).rowcount
        return written
