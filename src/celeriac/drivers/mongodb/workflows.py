"""Workflows in MongoDB: a document for the tree, and one for the counters, whose fields `changes.py` lists.

A standalone server has no transactions. So storing an outcome and counting it are two steps, of which the second is
idempotent: if a worker is killed between them, its message is delivered again, and the next worker counts the node.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from pymongo import ReturnDocument, UpdateOne

from celeriac.drivers.mongodb.changes import Change, number_in, part_of
from celeriac.drivers.mongodb.outcomes import MOST, Pack, store
from celeriac.drivers.mongodb.requests import COUNTERS, TREES, Work, alive, call, find, find_of, moment
from celeriac.errors import Unstorable, WorkflowError
from celeriac.ports.workflows import UNFINISHED_SECONDS, Advance, NodeEnd, PendingNode, Plan

__all__ = ["MOST_NODES", "advance", "claim_pending", "conclude", "plant", "trees", "unfinished", "uproot"]

MOST_NODES = 500_000  # all may be pending at once, with some 22 bytes each
DAY = 86400.0
TRIES = 100  # each but the last fails because another worker has changed the counters
CLAIMED = 50  # workflows looked at in one request
NODE: Final = re.compile(r"[0-9]{1,9}")


def plant(plan: Plan, now: float, again: bool = False) -> Work[None]:
    """Store a workflow. `again`: if there is one of its id, that stays as it is.

    Raises `WorkflowError` if it does not fit in a document.
    """
    nodes = plan.left + len(plan.missing)
    if nodes > MOST_NODES or len(plan.tree) > MOST:
        raise WorkflowError(
            f"The workflow {plan.id} is too large for MongoDB: {nodes:,} tasks and groups, {len(plan.tree):,} bytes. "
            f"It may have {MOST_NODES:,} and {MOST:,} bytes. Send it in parts, give its tasks `chunks` of the work and "
            "shorter arguments, or keep results on Redis or SQLite."
        )
    until = moment(now + UNFINISHED_SECONDS)
    counters = {"left": plan.left, "missing": {str(join): count for join, count in plan.missing.items() if count > 0},
                "ended": {}, "pending": {}, "additions": 0, "tree_at": now, "expires_at": until}  # fmt: skip
    for collection, document in ((TREES, {"tree": plan.tree, "expires_at": until}), (COUNTERS, counters)):
        if again:
            yield call(collection, "delete_many", {"_id": plan.id, "expires_at": {"$lte": moment(now)}})
            yield call(collection, "update_one", {"_id": plan.id}, {"$setOnInsert": document}, upsert=True)
        else:
            yield call(collection, "replace_one", {"_id": plan.id}, document, upsert=True)


def trees(ids: Sequence[str], now: float) -> Work[dict[str, bytes]]:
    """Return the trees of workflows, by id."""
    rows = yield from find_of(TREES, ids, alive(now), {"tree": 1})
    return {row["_id"]: row["tree"] for row in rows if isinstance(row.get("tree"), bytes)}


def unfinished(limit: int, now: float) -> Work[list[str]]:
    """Return the ids of workflows that have not ended, those first that were sent last. An index lists these alone."""
    rows = yield find(COUNTERS, {"left": {"$gt": 0}, **alive(now)}, {"_id": 1}, sort=[("tree_at", -1)], limit=limit)
    return [row["_id"] for row in rows if isinstance(row["_id"], str)]


def uproot(ids: Sequence[str]) -> Work[None]:
    """Delete workflows."""
    if ids:
        for collection in (COUNTERS, TREES):
            yield call(collection, "delete_many", {"_id": {"$in": list(ids)}})


def conclude(ends: Sequence[NodeEnd], pack: Pack, now: float, expires: float | None) -> Work[list[bool]]:
    """Store the outcomes of nodes, then count those that were not counted."""
    packed = [pack(end.outcome) for end in ends]
    done = yield from store(packed, now, expires)
    changes: dict[str, Change] = {}
    for end, (outcome, _), first in zip(ends, packed, done, strict=True):
        place = outcome.place
        if place is not None:
            # A node may have been stored and not counted. What follows from the stored outcome is not known here, so it
            # is left pending: advancing a node from which nothing follows does no harm.
            leaves_pending = end.leaves_pending or not first or outcome is not end.outcome
            change = changes.setdefault(place.workflow, Change(place.workflow))
            change.ends.setdefault(place.node, (place.join, leaves_pending))
    yield from _count(list(changes.values()), now, expires)
    return done


def _count(changes: Sequence[Change], now: float, expires: float | None) -> Work[None]:
    """Make changes, each of another workflow and without a pending node. Nothing is counted in one that is gone."""
    left, seen = list(changes), dict[str, Any]()
    for _ in range(TRIES):
        if not left:
            break
        updates = [UpdateOne(*change.update(seen.get(change.workflow), now)) for change in left]
        result = yield call(COUNTERS, "bulk_write", updates, ordered=False)
        if result.matched_count == len(updates):
            left = []
            continue
        rows = yield from find_of(COUNTERS, [change.workflow for change in left], {}, {"ended": 1, "missing": 1})
        seen = {row["_id"]: row for row in rows}
        left = [change.without_counted(seen[change.workflow]) for change in left if change.workflow in seen]
        left = [change for change in left if change.ends]
    if left:
        raise _unchangeable(left[0].workflow)
    rows = yield from find_of(COUNTERS, [change.workflow for change in changes], {}, {"left": 1, "tree_at": 1})
    yield from _tend(rows, now, expires)


def _tend(rows: Sequence[dict[str, Any]], now: float, expires: float | None) -> Work[None]:
    """Set when workflows expire, if they are finished; and once a day, when the trees of the others do."""
    for row in rows:
        finished = number_in(row, "left") <= 0
        if finished or now - number_in(row, "tree_at") > DAY:
            kept = expires if finished else UNFINISHED_SECONDS
            at = {"$unset": {"expires_at": ""}} if kept is None else {"$set": {"expires_at": moment(now + kept)}}
            yield call(TREES, "update_one", {"_id": row["_id"]}, at)
            counters = {**at, "$set": {**at.get("$set", {}), "tree_at": now}}
            yield call(COUNTERS, "update_one", {"_id": row["_id"]}, counters)


def claim_pending(limit: int, seconds: float, now: float) -> Work[dict[PendingNode, bool]]:
    """Claim pending nodes, of the workflows that have waited longest."""
    taken: dict[PendingNode, bool] = {}
    for _ in range(TRIES):
        rows = yield find(COUNTERS, {"next_at": {"$lte": now}}, {"pending": 1, "additions": 1},
                          sort=[("next_at", 1)], limit=min(limit, CLAIMED))  # fmt: skip
        for row in rows:
            if len(taken) < limit:
                taken |= yield from _claim_of(row, limit - len(taken), seconds, now)
        if taken or not rows:  # otherwise these workflows have none, and others may
            break
    return taken


def _claim_of(row: dict[str, Any] | None, limit: int, seconds: float, now: float) -> Work[dict[PendingNode, bool]]:
    """Claim nodes of a workflow, and set when it is to be looked at next."""
    for _ in range(TRIES):
        if row is None:
            break
        pending, written = _pending_in(row), part_of(row, "pending")
        free = dict(islice(((node, at) for node, at in pending.items() if at <= now), limit))
        after = {**pending, **dict.fromkeys(free, now + seconds)}
        condition = {"_id": row["_id"], "additions": {"$eq": row.get("additions")},
                     **_pending({node: {"$eq": written[node]} for node in free})}  # fmt: skip
        update: dict[str, Any] = {"$set": {**_pending(dict.fromkeys(free, now + seconds))}}
        if after:
            update["$set"]["next_at"] = min(after.values())
        else:
            update = {"$unset": {"next_at": ""}}
        result = yield call(COUNTERS, "update_one", condition, update)
        if result.matched_count:
            return {PendingNode(row["_id"], int(node)): at > 0 for node, at in free.items()}
        row = yield call(COUNTERS, "find_one", {"_id": row["_id"]}, {"pending": 1, "additions": 1})
    return {}


def _pending_in(row: dict[str, Any]) -> dict[str, float]:
    """Return the nodes that are pending, and when each may be claimed: at once, if that is no instant."""
    written = part_of(row, "pending") if isinstance(row["_id"], str) else {}
    return {node: number_in(written, node) for node in written if NODE.fullmatch(node)}


def _pending(nodes: dict[str, Any]) -> dict[str, Any]:
    return {f"pending.{node}": at for node, at in nodes.items()}


def advance(advance: Advance, pack: Pack, now: float, expires: float | None) -> Work[bool]:
    """Deal with a pending node, except for its messages. Return False if it has been dealt with before."""
    # All but the last step is idempotent: a worker that is killed in between leaves the node pending.
    pending = advance.pending
    waiting = {"_id": pending.workflow, f"pending.{pending.node}": {"$exists": True}}
    if (yield call(COUNTERS, "find_one", waiting, {"_id": 1})) is None:
        return False
    own, others = advance.by_workflow()
    yield from store([pack(outcome) for outcome in own], now, expires)
    if others:
        yield from conclude(others, pack, now, expires)
    ends = {outcome.place.node: (-1, False) for outcome in own if outcome.place is not None}
    change = Change(pending.workflow, ends, Counter(advance.joins), sum(item.place is None for item in own),
                    pending.node)  # fmt: skip
    return (yield from _follow(change, now, expires))


def _follow(change: Change, now: float, expires: float | None) -> Work[bool]:
    """Make a change that removes a pending node. False: the node is no longer pending."""
    seen: dict[str, Any] | None = None
    for _ in range(TRIES):
        row = yield call(COUNTERS, "find_one_and_update", *change.update(seen, now), {"left": 1, "tree_at": 1},
                         return_document=ReturnDocument.AFTER)  # fmt: skip
        if row is not None:
            yield from _tend([row], now, expires)
            return True
        seen = yield call(COUNTERS, "find_one", {"_id": change.workflow}, change.fields())
        if seen is None or str(change.pending) not in part_of(seen, "pending"):
            return False
        change = change.without_counted(seen)
    raise _unchangeable(change.workflow)


def _unchangeable(workflow: str) -> Unstorable:
    return Unstorable(f"The counters of the workflow {workflow} are not as Celeriac writes them: they cannot change.")
