"""No task queue: the rate of a bare `INSERT` with commit, the upper bound for all others."""

from __future__ import annotations

import sqlite3
from typing import Any

from benchmarks.peers.base import FOLDER, Peer

BODY = b"x" * 200  # about a message's length


class BareSQLite(Peer):
    """One table without an index."""

    title = "bare INSERT + commit"
    module = "sqlite3"
    packages = ()
    settings = f"WAL, synchronous=normal, one table of {len(BODY)}-byte blobs: the upper bound of one commit per call"

    def __init__(self) -> None:
        self._connection = sqlite3.connect(FOLDER / "bare.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = wal")
        self._connection.execute("PRAGMA synchronous = normal")
        self._connection.execute("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")

    def send(self, count: int) -> None:
        execute = self._connection.execute
        for _ in range(count):
            execute("INSERT INTO rows (body) VALUES (?)", (BODY,))

    def roundtrip(self, timeout: float) -> Any:
        raise NotImplementedError

    def completed(self) -> int:
        raise NotImplementedError

    def worker(self, children: int, tuned: bool) -> list[str]:
        raise NotImplementedError


PEER = BareSQLite()
