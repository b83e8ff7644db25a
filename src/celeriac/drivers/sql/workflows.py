"""Workflows in tables: trees, counters, and pending nodes.

Each function works in the caller's transaction, so that an outcome is counted in the step that stores it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, delete, insert, or_, select, update

from celeriac.drivers.sql.keys import NEVER, is_hash, key, micros
from celeriac.drivers.sql.outcomes import PAGE, OutcomeTable, Row, pages
from celeriac.drivers.sql.schema import Tables
from celeriac.model.outcome import Outcome
from celeriac.ports.workflows import UNFINISHED_SECONDS, Advance, Counts, NodeEnd, PendingNode, Plan

__all__ = ["WorkflowTables"]

log = logging.getLogger("celeriac.backends")

EXPIRED_WORKFLOWS: Final = 100  # deleted in one transaction
NEVER_CLAIMED: Final = 0
MOST_LATELY = 10_000  # workflows that have changed lately, in which those are looked for that have not ended

Encode = Callable[[Outcome], Row]


class WorkflowTables:
    """The statements on workflows. `encode` makes the row of an outcome, for at most `largest` bytes."""

    def __init__(self, tables: Tables, outcomes: OutcomeTable, encode: Encode) -> None:
        self._tables = tables
        self._outcomes = outcomes
        self._encode = encode
        workflows, joins, pending = tables.workflows, tables.joins, tables.pending
        is_node = and_(pending.c.workflow == bindparam("of"), pending.c.node == bindparam("at"))
        is_join = and_(joins.c.workflow == bindparam("of"), joins.c.node == bindparam("at"))
        self._count_ended = (
            update(workflows).where(workflows.c.id == bindparam("of"))
            .values(remaining=workflows.c.remaining - bindparam("ended"), touched_at=bindparam("now"))
        )  # fmt: skip
        fewer = case((joins.c.missing > bindparam("ended"), joins.c.missing - bindparam("ended")), else_=0)
        self._count_joined = update(joins).where(is_join, joins.c.missing > 0).values(missing=fewer)
        self._missing = select(joins.c.missing).where(is_join)
        self._unpend = delete(pending).where(is_node)
        self._free = (
            select(pending.c.workflow, pending.c.node, pending.c.workflow_id, pending.c.free_at)
            .where(pending.c.free_at <= bindparam("now")).order_by(pending.c.free_at)
        )  # fmt: skip
        self._claim = update(pending).where(is_node, pending.c.free_at == bindparam("seen")).values(
            free_at=bindparam("until")
        )  # fmt: skip
        is_expired = or_(
            and_(workflows.c.remaining <= 0, workflows.c.touched_at < bindparam("finished")),
            and_(workflows.c.remaining > 0, workflows.c.touched_at < bindparam("unfinished")),
        )
        self._expired = select(workflows.c.id).where(is_expired).limit(EXPIRED_WORKFLOWS)
        self._trees = (
            select(tables.trees.c.id, tables.trees.c.tree)
            .join(workflows, workflows.c.id == tables.trees.c.id)
            .where(tables.trees.c.id.in_(bindparam("keys", expanding=True)), ~is_expired)
        )

    # --- Trees ----------------------------------------------------------------------------------------

    def plant(self, connection: Connection, plan: Plan, now: float, replace: bool) -> None:
        """Store a workflow. Raises `IntegrityError` if there is one of its id, unless it is to be replaced."""
        id = key(plan.id)
        if replace:
            self.uproot(connection, [plan.id])
        tables = self._tables
        connection.execute(insert(tables.workflows).values(id=id, remaining=plan.left, touched_at=micros(now)))
        connection.execute(insert(tables.trees).values(id=id, tree=plan.tree))
        if plan.missing:
            rows = [{"workflow": id, "node": join, "missing": count} for join, count in plan.missing.items()]
            connection.execute(insert(tables.joins), rows)

    def trees(self, connection: Connection, ids: Sequence[str], now: float,
              expires: float | None) -> dict[str, bytes]:  # fmt: skip
        """Return the trees of workflows that have not expired. Only reads."""
        names = {key(id): id for id in ids}
        found: dict[str, bytes] = {}
        for page in pages(list(names), PAGE):
            rows = connection.execute(self._trees, {"keys": page, **_limits(now, expires)})
            found.update({names[id]: tree for id, tree in rows})
        return found

    def unfinished(self, connection: Connection, limit: int, now: float, expires: float | None) -> list[str] | None:
        """Return the ids of workflows that have not ended, the latest changed first. Only reads.

        The index has all workflows by their last change. What has not changed for as long as finished ones are kept has
        not ended; of the others, `MOST_LATELY` are looked at. None: there are more. Ids of which a hash is kept are
        left out; Celeriac makes none.
        """
        touched, limits = self._tables.workflows.c.touched_at, _limits(now, expires)
        lately = touched >= limits["finished"]
        latest = select(touched).order_by(touched.desc())
        edge = connection.execute(latest.where(lately).offset(MOST_LATELY).limit(1)).scalar()
        keys = self._open(connection, lately if edge is None else touched > edge, limit)
        if len(keys) < limit:
            if edge is not None:
                return None
            older = and_(~lately, touched >= limits["unfinished"])
            keys += self._open(connection, older, limit - len(keys))
        return [one for one in keys if not is_hash(one)]

    def _open(self, connection: Connection, where: ColumnElement[bool], limit: int) -> list[str]:
        workflows = self._tables.workflows.c
        query = select(workflows.id).where(workflows.remaining > 0, where).order_by(workflows.touched_at.desc())
        return list(connection.execute(query.limit(limit)).scalars())

    def uproot(self, connection: Connection, ids: Iterable[str]) -> None:
        """Delete workflows."""
        self._delete(connection, sorted(map(key, ids)))

    def _delete(self, connection: Connection, keys: Sequence[str]) -> None:
        tables = self._tables
        columns = (tables.workflows.c.id, tables.trees.c.id, tables.joins.c.workflow, tables.pending.c.workflow)
        for page in pages(keys, PAGE):
            for column in columns:
                connection.execute(delete(column.table).where(column.in_(page)))

    def delete_expired(self, connection: Connection, now: float, expires: float | None) -> bool:
        """Delete expired workflows. Return whether there may be more."""
        keys = sorted(connection.execute(self._expired, _limits(now, expires)).scalars())
        self._delete(connection, keys)
        return len(keys) == EXPIRED_WORKFLOWS

    # --- Ends of nodes --------------------------------------------------------------------------------

    def conclude(self, connection: Connection, ends: Sequence[NodeEnd], now: float, largest: int) -> list[bool]:
        """Store the outcomes of nodes and count those that are new. Return for each whether it is new."""
        done = self._store(connection, [end.outcome for end in ends], now, largest)
        left, joins, pending = Counts.of(ends, done)
        pending += self._count_down(connection, left, joins, now)
        self._add_pending(connection, [node for node in pending if left[node[0]]])
        return done

    def advance(self, connection: Connection, advance: Advance, now: float, largest: int) -> bool:
        """Deal with a pending node, except for its messages. Return False if it has been dealt with before."""
        workflow = advance.pending.workflow
        node = {"of": key(workflow), "at": advance.pending.node}
        if not connection.execute(self._unpend, node).rowcount:
            return False
        own, others = advance.by_workflow()
        ended = sum(self._store(connection, own, now, largest))
        joins = Counter((workflow, join) for join in advance.joins)
        self._add_pending(connection, self._count_down(connection, Counter({workflow: ended}), joins, now))
        if others:
            self.conclude(connection, others, now, largest)
        return True

    def _store(self, connection: Connection, outcomes: Sequence[Outcome], now: float, largest: int) -> list[bool]:
        rows = [self._encode(outcome) for outcome in outcomes]
        return self._outcomes.store(connection, rows, micros(now), largest) if rows else []

    def _count_down(self, connection: Connection, left: Counter[str], joins: Counter[tuple[str, int]],
                    now: float) -> list[tuple[str, int]]:  # fmt: skip
        """Count down workflows and joins. Return the joins at zero. What is gone has 0 in `left` afterwards."""
        for workflow, ended in sorted(left.items()):
            values = {"of": key(workflow), "ended": ended, "now": micros(now)}
            if not connection.execute(self._count_ended, values).rowcount:
                left[workflow] = 0  # the workflow has expired, and nothing follows
        at_zero: list[tuple[str, int]] = []
        for (workflow, join), ended in sorted(joins.items()):
            where = {"of": key(workflow), "at": join}
            is_counted = connection.execute(self._count_joined, {**where, "ended": ended}).rowcount
            if is_counted and connection.execute(self._missing, where).scalar() == 0:
                at_zero.append((workflow, join))
        return at_zero

    # --- Pending nodes --------------------------------------------------------------------------------

    def _add_pending(self, connection: Connection, nodes: Sequence[tuple[str, int]]) -> None:
        rows: list[dict[str, Any]] = []
        for workflow, node in sorted(set(nodes)):
            id = key(workflow)
            workflow_id = workflow.encode() if is_hash(id) else None
            rows.append({"workflow": id, "node": node, "free_at": NEVER_CLAIMED, "workflow_id": workflow_id})
        if rows:
            connection.execute(insert(self._tables.pending), rows)

    def has_free(self, connection: Connection, now: float) -> bool:
        """Return whether a node can be claimed. Only reads."""
        return connection.execute(self._free.limit(1), {"now": micros(now)}).first() is not None

    def claim(self, connection: Connection, limit: int, now: float, until: float) -> dict[PendingNode, bool]:
        """Claim pending nodes until an instant. Return them, and whether each was claimed before."""
        rows = connection.execute(self._free.limit(limit), {"now": micros(now)}).all()
        claimed: dict[PendingNode, bool] = {}
        for workflow, node, workflow_id, seen in sorted(rows, key=lambda row: (row.workflow, row.node)):
            values = {"of": workflow, "at": node, "seen": seen, "until": micros(until)}
            if connection.execute(self._claim, values).rowcount:  # otherwise another worker was faster
                id = bytes(workflow_id).decode(errors="replace") if workflow_id is not None else workflow
                if key(id) != workflow:
                    log.error("Nothing follows node %d of the workflow %r: the row of this pending node names another "
                              "workflow, and is removed", node, workflow)  # fmt: skip
                    connection.execute(self._unpend, {"of": workflow, "at": node})
                    continue
                claimed[PendingNode(id, node)] = seen != NEVER_CLAIMED
        return claimed


def _limits(now: float, expires: float | None) -> dict[str, int]:
    """Return the instants before which finished and unfinished workflows have expired."""
    unfinished = micros(now - UNFINISHED_SECONDS)
    return {"finished": micros(now - expires) if expires is not None else NEVER, "unfinished": unfinished}
