"""Stores workflows in SQLite. Called by the backend, and by the broker in the transaction that settles.

All functions work inside the caller's write transaction, except those that only read, which say so.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from celeriac.drivers.sqlite import outcomes
from celeriac.drivers.sqlite.opening import Connection
from celeriac.ports.workflows import UNFINISHED_SECONDS, Advance, Counts, NodeEnd, PendingNode, Plan

__all__ = ["advance", "claim_pending", "conclude", "overdue", "peek_pending", "plant", "prune", "trees",
           "unfinished", "uproot"]  # fmt: skip

PRUNE_ROWS = 500  # workflows deleted in one transaction: others wait for the write lock meanwhile

PENDING = "INSERT OR IGNORE INTO dues (workflow, node, free_at) VALUES (?, ?, 0)"
JOINED = """
    INSERT OR IGNORE INTO dues (workflow, node, free_at)
    SELECT workflow, node, 0 FROM joins WHERE workflow = ? AND node = ? AND missing = 0
"""
EXPIRED = "(left <= 0 AND touched_at < ?) OR (left > 0 AND touched_at < ?)"


def plant(connection: sqlite3.Connection, plan: Plan, now: float, again: bool = False) -> None:
    """Store a workflow. `again`: if there is one of its id, that stays as it is."""
    if again and trees(connection, [plan.id]):
        return
    uproot(connection, [plan.id])
    connection.execute("INSERT INTO trees (id, tree) VALUES (?, ?)", (plan.id, plan.tree))
    connection.execute("INSERT INTO workflows (id, left, touched_at) VALUES (?, ?, ?)", (plan.id, plan.left, now))
    connection.executemany(
        "INSERT INTO joins (workflow, node, missing) VALUES (?, ?, ?)",
        [(plan.id, join, count) for join, count in plan.missing.items()],
    )


def trees(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, bytes]:
    """Return the trees of workflows, by id. Only reads."""
    query = "SELECT id, tree FROM trees WHERE id IN (SELECT value FROM json_each(?))"
    return dict(connection.execute(query, (msgspec.json.encode(list(ids)).decode(),)))


def unfinished(connection: sqlite3.Connection, limit: int) -> list[str]:
    """Return the ids of workflows with tasks that have not ended, the latest changed first. Only reads."""
    query = "SELECT id FROM workflows WHERE left > 0 ORDER BY touched_at DESC LIMIT ?"
    return [id for (id,) in connection.execute(query, (limit,))]


def uproot(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Delete workflows."""
    for id in ids:
        connection.execute("DELETE FROM trees WHERE id = ?", (id,))
        connection.execute("DELETE FROM workflows WHERE id = ?", (id,))
        connection.execute("DELETE FROM joins WHERE workflow = ?", (id,))


def conclude(connection: Connection, ends: Sequence[NodeEnd], now: float) -> list[bool]:
    """Store the outcomes of nodes and count those that are new. Return for each whether it is new."""
    done = outcomes.store(connection, [end.outcome for end in ends], now)
    left, joins, pending = Counts.of(ends, done)
    _count_down(connection, left, joins, now)
    connection.executemany(PENDING, [node for node in pending if left[node[0]]])
    return done


def _count_down(connection: sqlite3.Connection, left: Counter[str], joins: Counter[tuple[str, int]],
                now: float) -> None:  # fmt: skip
    for workflow, ended in list(left.items()):
        query = "UPDATE workflows SET left = left - ?, touched_at = ? WHERE id = ?"
        if not connection.execute(query, (ended, now, workflow)).rowcount:
            left[workflow] = 0  # the workflow has expired, and nothing follows
    for (workflow, join), ended in joins.items():
        query = "UPDATE joins SET missing = max(0, missing - ?) WHERE workflow = ? AND node = ? AND missing > 0"
        if connection.execute(query, (ended, workflow, join)).rowcount:
            connection.execute(JOINED, (workflow, join))


def advance(connection: Connection, advance: Advance, now: float) -> bool:
    """Deal with a pending node, except for its messages. Return False if it has been dealt with before."""
    pending = advance.pending
    query = "DELETE FROM dues WHERE workflow = ? AND node = ?"
    if not connection.execute(query, (pending.workflow, pending.node)).rowcount:
        return False
    own, others = advance.by_workflow()
    ended = sum(outcomes.store(connection, own, now))
    joins = Counter((pending.workflow, join) for join in advance.joins)
    _count_down(connection, Counter({pending.workflow: ended}), joins, now)
    if others:
        conclude(connection, others, now)
    return True


def peek_pending(connection: sqlite3.Connection, limit: int, now: float) -> dict[PendingNode, bool]:
    """Return unclaimed pending nodes, and whether each was claimed before. Only reads."""
    query = "SELECT workflow, node, free_at FROM dues WHERE free_at <= ? LIMIT ?"
    rows = connection.execute(query, (now, limit))
    # SQLite stores any type in any column: other values were not written by Celeriac, and are left alone.
    return {
        PendingNode(workflow, node): free_at > 0
        for workflow, node, free_at in rows
        if isinstance(workflow, str) and isinstance(node, int)
    }


def claim_pending(connection: sqlite3.Connection, limit: int, now: float, until: float) -> dict[PendingNode, bool]:
    """Claim pending nodes until a time. Return them, and whether each was claimed before."""
    claimed = peek_pending(connection, limit, now)
    connection.executemany(
        "UPDATE dues SET free_at = ? WHERE workflow = ? AND node = ?",
        [(until, item.workflow, item.node) for item in claimed],
    )
    return claimed


def overdue(connection: sqlite3.Connection, now: float, result_expires: float) -> bool:
    """Return whether a workflow has expired. Only reads."""
    query = f"SELECT 1 FROM workflows WHERE {EXPIRED} LIMIT 1"  # noqa: S608 - a constant
    return connection.execute(query, (now - result_expires, now - UNFINISHED_SECONDS)).fetchone() is not None


def prune(connection: sqlite3.Connection, now: float, result_expires: float) -> None:
    """Delete expired workflows."""
    query = f"SELECT id FROM workflows WHERE {EXPIRED} LIMIT {PRUNE_ROWS}"  # noqa: S608 - constants
    uproot(connection, [id for (id,) in connection.execute(query, (now - result_expires, now - UNFINISHED_SECONDS))])
