"""The tables of a Celeriac database, and the migrations of older files.

`MIGRATIONS[n]` upgrades a file from version n to n + 1; SQLite's `user_version` holds the version. The statements of a
released migration never change: write another migration. Each of its statements begins on a new line.

A message is one row from `publish` to its settlement, in the table of its state:

    fresh → ready ⇄ active → (row deleted)      scheduled → ready when its time comes      active → dead → ready by hand

Each table of a state is one B-tree without a rowid, in the order of delivery: by `line` (a queue and a lane), then
`rank` (9 − priority), then `seq` (age). These three are the key of a message, which is unique and stays the same in all
states. Receiving reads the beginning of a line, and settling deletes by key. There is no column for the id: an id made
by Celeriac (UUID version 7) holds milliseconds and a counter, which `seq` is made of and by which it is found. Only ids
chosen by callers are stored, in `name`.

`fresh` is not a state but a fast way into `ready`: messages published one by one with the default priority are appended
to it by `seq` alone, which changes a single page. The next lease that receives moves them to their lines.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ACTIVE", "APPLICATION_ID", "DEAD", "FRESH", "KEPT", "MIGRATIONS", "READY", "SCHEDULED", "STATES", "TABLES"]

APPLICATION_ID: Final = 0x43454C52  # "CELR", in the header of each Celeriac database

READY: Final = "ready"
SCHEDULED: Final = "scheduled"
ACTIVE: Final = "active"
DEAD: Final = "dead"
STATES: Final = (READY, SCHEDULED, ACTIVE, DEAD)
"""The states of a message; each has a table of that name."""

FRESH: Final = "fresh"
TABLES: Final = (*STATES, FRESH)
"""The tables with messages. Fresh messages are ready."""

KEPT: Final = "line, rank, seq, name, deliveries, message"
"""The columns that tables of all states have."""

_KEPT: Final = """
        line INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        seq INTEGER NOT NULL,                   -- its age, made from the id if that is made by Celeriac
        name TEXT,                              -- the id, if it does not hold `seq`
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
        lease INTEGER NOT NULL,                 -- the lease that holds it
        receipt INTEGER NOT NULL,               -- of that lease; below 0: taken over
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
    CREATE VIEW messages AS     -- for people who use SQLite's command-line tool
        WITH every AS (
            SELECT 'ready' AS state, *, NULL AS due_at, NULL AS lease, NULL AS reason FROM ready
            UNION ALL SELECT 'scheduled', *, NULL, NULL FROM scheduled
            UNION ALL SELECT 'active', line, rank, seq, name, deliveries, message, NULL, lease, NULL FROM active
            UNION ALL SELECT 'dead', line, rank, seq, name, deliveries, message, NULL, NULL, reason FROM dead
        )
        SELECT queue, lane, 9 - rank AS priority, * FROM lines JOIN every USING (line);
    CREATE TABLE leases (
        lease INTEGER PRIMARY KEY AUTOINCREMENT,    -- part of every token, so never used twice
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
    CREATE TABLE trees (id TEXT PRIMARY KEY, tree BLOB NOT NULL);  -- apart: an UPDATE rewrites the whole row
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
        node INTEGER NOT NULL,                  -- a pending node
        free_at REAL NOT NULL,                  -- until when a worker has claimed it
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
    CREATE VIEW messages AS     -- for people who use SQLite's command-line tool
        WITH every AS (
            SELECT 'ready' AS state, *, NULL AS due_at, NULL AS lease, NULL AS reason FROM ready
            UNION ALL SELECT 'ready', line, rank, seq, NULL, 0, message, NULL, NULL, NULL FROM fresh
            UNION ALL SELECT 'scheduled', *, NULL, NULL FROM scheduled
            UNION ALL SELECT 'active', line, rank, seq, name, deliveries, message, NULL, lease, NULL FROM active
            UNION ALL SELECT 'dead', line, rank, seq, name, deliveries, message, NULL, NULL, reason FROM dead
        )
        SELECT queue, lane, 9 - rank AS priority, * FROM lines JOIN every USING (line);
    """,
    """
    CREATE TABLE schedules (
        name TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        next_at INTEGER,                        -- milliseconds since the epoch
        entry BLOB NOT NULL
    );
    CREATE INDEX next ON schedules (next_at) WHERE next_at IS NOT NULL;
    """,
)
