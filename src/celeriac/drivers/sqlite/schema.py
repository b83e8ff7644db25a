"""The tables of a Celeriac database, and how an older file becomes a newer one.

`MIGRATIONS[n]` brings a file from version n to n + 1; the version stands in SQLite's `user_version`. A migration
that has been released is never edited: write the next one. Each of its statements begins on a new line.

A message is one row from `publish` to its settlement; only its `state` changes:

    READY ⇄ ACTIVE → (row deleted)      SCHEDULED → READY when its time comes      ACTIVE → DEAD → READY by hand

Every index costs each publish a page of the log, so a message's id has none: an id of ours (UUID version 7) holds
milliseconds and a counter, of which `seq` is made. It is found by `seq`, and is as old as `seq` says. Only ids of
other kinds are in an index. `line` stands for a queue and a lane, `rank` is 9 − priority, so that the index `ready`
is the order of receipt.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ACTIVE", "APPLICATION_ID", "DEAD", "MIGRATIONS", "READY", "SCHEDULED", "STATE_NAMES", "WAKE"]

APPLICATION_ID: Final = 0x43454C52  # "CELR", in the file's header: this file is ours

READY: Final = 0
SCHEDULED: Final = 1
ACTIVE: Final = 2
DEAD: Final = 3
STATE_NAMES: Final = ("ready", "scheduled", "active", "dead")

WAKE: Final = f"UPDATE messages SET state = {READY}, due_at = NULL WHERE state = {SCHEDULED} AND due_at <= ?"  # noqa: S608 - constants

MIGRATIONS: Final = (
    """
    CREATE TABLE lines (
        line INTEGER PRIMARY KEY,
        queue TEXT NOT NULL,
        lane TEXT NOT NULL,
        UNIQUE (queue, lane)
    );
    CREATE TABLE pauses (queue TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE messages (
        seq INTEGER PRIMARY KEY,                -- its age: made from the id, where that is one of ours
        id TEXT NOT NULL,
        named INTEGER NOT NULL DEFAULT 0,       -- whether the id was chosen by the sender, and says no age
        line INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        state INTEGER NOT NULL,
        due_at REAL,                            -- SCHEDULED: when it is due; DEAD: since when
        lease INTEGER,                          -- ACTIVE: whose it is
        receipt INTEGER,                        -- ACTIVE: which of that lease's deliveries; below 0: taken over
        deliveries INTEGER NOT NULL DEFAULT 0,
        message BLOB NOT NULL,
        reason TEXT                             -- DEAD: why
    );
    CREATE UNIQUE INDEX named ON messages (id) WHERE named = 1;
    CREATE INDEX ready ON messages (line, rank, seq) WHERE state = 0;
    CREATE INDEX scheduled ON messages (due_at) WHERE state = 1;
    CREATE INDEX active ON messages (lease) WHERE state = 2;
    CREATE INDEX dead ON messages (due_at) WHERE state = 3;
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
    """,
)
