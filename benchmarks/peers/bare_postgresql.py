"""No task queue: rows inserted with psycopg, each batch in one statement and transaction."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from benchmarks.peers.store_peer import URL, VALUE, StorePeer

TABLE = """CREATE TABLE IF NOT EXISTS bare (id text PRIMARY KEY, state text, final bool, stored_at float8,
                                            outcome bytea)"""
INSERT = """INSERT INTO bare SELECT id, 'SUCCESS', true, 0.0, outcome FROM unnest(%s::text[], %s::bytea[])
            AS new (id, outcome) ON CONFLICT DO NOTHING"""


class BarePostgreSQL(StorePeer):
    """One table, one connection."""

    title = "bare psycopg"
    module = "psycopg"
    packages = ("psycopg",)
    settings = f"INSERT … ON CONFLICT DO NOTHING of {len(VALUE)} bytes each, a statement and a transaction for a batch"

    def __init__(self) -> None:
        self._connection = psycopg.connect(URL.removeprefix("db+"), autocommit=True)
        self._connection.execute(TABLE)

    def store(self, ids: Sequence[str]) -> int:
        return self._connection.execute(INSERT, (list(ids), [VALUE] * len(ids)), prepare=True).rowcount


PEER = BarePostgreSQL()
