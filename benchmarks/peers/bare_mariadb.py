"""No task queue: rows inserted with PyMySQL, each batch in one statement and transaction."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import pymysql

from benchmarks.peers.store_peer import URL, VALUE, StorePeer

TABLE = """CREATE TABLE IF NOT EXISTS bare (id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY,
           state VARCHAR(20), final BOOL, stored_at DOUBLE, outcome LONGBLOB) ENGINE=InnoDB"""
INSERT = "INSERT IGNORE INTO bare VALUES (%s, 'SUCCESS', 1, 0.0, %s)"


class BareMariaDB(StorePeer):
    """One table, one connection."""

    title = "bare PyMySQL"
    module = "pymysql"
    packages = ("pymysql",)
    settings = f"INSERT IGNORE of {len(VALUE)} bytes each, a statement and a transaction for a batch"

    def __init__(self) -> None:
        url = urlsplit(URL)
        self._connection = pymysql.connect(host=url.hostname, port=url.port or 3306, user=url.username or "root",
                                           database=url.path.lstrip("/"), autocommit=True)  # fmt: skip
        self._connection.cursor().execute(TABLE)

    def store(self, ids: Sequence[str]) -> int:
        return self._connection.cursor().executemany(INSERT, [(id, VALUE) for id in ids]) or 0


PEER = BareMariaDB()
