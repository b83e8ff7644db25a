"""The tables of a Celeriac database, and how an older file becomes a newer one.

`MIGRATIONS[n]` brings a file from version n to n + 1; the version stands in SQLite's `user_version`. A migration
that has been released is never edited: write the next one. Each of its statements begins on a new line.

A message is one row from `publish` to its settlement, in the table of the state that it is in:

    fresh → ready ⇄ active → (row deleted)      scheduled → ready when its time comes      active → dead → ready by hand

Each table of a state is one tree without a rowid, in the order of receipt: by `line` (a queue and a lane), then `rank`
(9 − priority), then `seq` (age). These three are a message's place, which it keeps from state to state; nobody else has
it. So to receive is to read the beginning of a line, and to settle is to delete by key. A message's id has no column:
an id of ours (UUID version 7) holds milliseconds and a counter, of which `seq` is made, and is found by that. Only ids
that senders chose themselves stand in `name`.

`fresh` is no state but a short way into `ready`: what is published one by one, with the usual priority, is appended to
it by `seq` alone, which costs SQLite one page; whoever receives next moves it into line.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ACTIVE", "APPLICATION_ID", "DEAD", "FRESH", "KEPT", "MIGRATIONS", "READY", "SCHEDULED", "STATES", "TABLES"]

APPLICATION_ID: Final = 0x43454C52  # "CELR", in the file's header: this file is ours

READY: Final = "ready"
SCHEDULED: Final = "scheduled"
ACTIVE: Final = "active"
DEAD: Final = "dead"
STATES: Final = (READY, SCHEDULED, ACTIVE, DEAD)
"""The states of a message, each with a table of its name."""

FRESH: Final = "fresh"
TABLES: Final = (*STATES, FRESH)
"""Where messages are. What is fresh is ready."""

KEPT: Final = "line, rank, seq, name, deliveries, message"
"""The columns that a message takes along from state to state."""

_KEPT: Final = """
        line INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        seq INTEGER NOT NULL,                   -- its age: made from the id, where that is one of ours
        name TEXT,                              -- the id, where it does not say `seq`
        deliveries INTEGER NOT NULL DEFAULT 0,
        message BLOB NOT NULL,
"""

MIGRATIONS: Final = (
    f"""
    CREATE TABLE lines (
        line INTEGER PRIMARY KEY,
        queue TEXT NOT NULL,
        lane TEXT NOT NULL,
        UNIQUE (queue, lane)
    );
    CREATE TABLE pauses (queue TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE ready ({_KEPT}
        PRIMARY KEY (line, rank, seq)
    ) WITHOUT ROWID;
    CREATE TABLE scheduled ({_KEPT}
        due_at REAL NOT NULL,
        PRIMARY KEY (line, rank, seq)
    ) WITHOUT ROWID;
    CREATE TABLE active ({_KEPT}
        lease INTEGER NOT NULL,                 -- whose it is
        receipt INTEGER NOT NULL,               -- by which of that lease's receipts; below 0: taken over
        PRIMARY KEY (line, rank, seq)
    ) WITHOUT ROWID;
    CREATE TABLE dead ({_KEPT}
        died_at REAL NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (line, rank, seq)
    ) WITHOUT ROWID;
    CREATE INDEX due ON scheduled (due_at);
    CREATE UNIQUE INDEX ready_name ON ready (name) WHERE name IS NOT NULL;
    CREATE UNIQUE INDEX scheduled_name ON scheduled (name) WHERE name IS NOT NULL;
    CREATE UNIQUE INDEX active_name ON active (name) WHERE name IS NOT NULL;
    CREATE UNIQUE INDEX dead_name ON dead (name) WHERE name IS NOT NULL;
    CREATE VIEW messages AS     -- for people who look with a tool of SQLite's
        WITH every AS (
            SELECT 'ready' AS state, *, NULL AS due_at, NULL AS lease, NULL AS reason FROM ready
            UNION ALL SELECT 'scheduled', *, NULL, NULL FROM scheduled
            UNION ALL SELECT 'active', line, rank, seq, name, deliveries, message, NULL, lease, NULL FROM active
            UNION ALL SELECT 'dead', line, rank, seq, name, deliveries, message, NULL, NULL, reason FROM dead
        )
        SELECT queue, lane, 9 - rank AS priority, * FROM lines JOIN every USING (line);
    CREATE TABLE leases (
        lease INTEGER PRIMARY KEY AUTOINCREMENT,    -- never used twice: it is the heart of every token
        info BLOB NOT NULL,
        renewed_at REAL NOT NULL,
        expires_at REAL NOT NULL
    );
    CREATE TABLE revoked (id TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE broadcasts (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        channel TEXT NOT NULL,
        sent_at REAL NOT NULL,
        payload BLOB NOT NULL
    );
    CREATE TABLE outcomes (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        final INTEGER NOT NULL,
        stored_at REAL NOT NULL,
        outcome BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX stored ON outcomes (stored_at);
    """,  # noqa: S608 - constants
    """
    CREATE TABLE trees (id TEXT PRIMARY KEY, tree BLOB NOT NULL);  -- apart, for an UPDATE writes the whole of a row
    CREATE TABLE workflows (
        id TEXT PRIMARY KEY,
        left INTEGER NOT NULL,                  -- tasks that have not ended
        touched_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX finished ON workflows (touched_at) WHERE left <= 0;
    CREATE INDEX unfinished ON workflows (touched_at) WHERE left > 0;
    CREATE TABLE joins (
        workflow TEXT NOT NULL,
        node INTEGER NOT NULL,
        missing INTEGER NOT NULL,               -- members that have not ended
        PRIMARY KEY (workflow, node)
    ) WITHOUT ROWID;
    CREATE TABLE dues (
        workflow TEXT NOT NULL,
        node INTEGER NOT NULL,                  -- has ended, and what follows has not been done
        free_at REAL NOT NULL,                  -- until then, a worker is at it
        PRIMARY KEY (workflow, node)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE fresh (
        seq INTEGER PRIMARY KEY,
        line INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        message BLOB NOT NULL
    );
    DROP VIEW messages;
    CREATE VIEW messages AS     -- for people who look with a tool of SQLite's
        WITH every AS (
            SELECT 'ready' AS state, *, NULL AS due_at, NULL AS lease, NULL AS reason FROM ready
            UNION ALL SELECT 'ready', line, rank, seq, NULL, 0, message, NULL, NULL, NULL FROM fresh
            UNION ALL SELECT 'scheduled', *, NULL, NULL FROM scheduled
            UNION ALL SELECT 'active', line, rank, seq, name, deliveries, message, NULL, lease, NULL FROM active
            UNION ALL SELECT 'dead', line, rank, seq, name, deliveries, message, NULL, NULL, reason FROM dead
        )
        SELECT queue, lane, 9 - rank AS priority, * FROM lines JOIN every USING (line);
    """,
)
