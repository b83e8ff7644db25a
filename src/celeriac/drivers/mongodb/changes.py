"""A change of a workflow's counters, as one update of their document that is made at most once.

| field | |
|---|---|
| `_id` | the workflow's id |
| `left` | nodes that run a task, and have not ended |
| `missing` | by join: the number of members that have not ended; those at zero are removed |
| `ended` | a bit for each node that was counted, in numbers of 30 bits |
| `pending` | by node: when it may be claimed; 0: it was never claimed |
| `next_at` | the earliest of these instants, or an earlier one; absent if none is pending |
| `additions` | rises when nodes are added to `pending` |
| `tree_at` | when the expiry of the tree was last set |
| `expires_at` | when the server deletes it; absent: never |

An update has conditions: a node is counted if its bit is not set, and a join is counted down if it does not reach zero.
For the last members of a join the counters are read, and the update demands what was read. What is not as it is written
here counts as absent: a fault, or another program, may have changed the document.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import msgspec

from celeriac.drivers.mongodb.requests import moment
from celeriac.ports.workflows import UNFINISHED_SECONDS

__all__ = ["WORD", "Change", "number_in", "numbers_in", "part_of"]

WORD = 30  # bits; a BSON number of 32 has a sign

Document = dict[str, Any]


class Change(msgspec.Struct):
    """Nodes that end, joins that are counted down, and the pending node that this follows from."""

    workflow: str
    ends: dict[int, tuple[int, bool]] = {}  # by node: the join that counts it (-1: none), and whether it is pending
    joins: Counter[int] = msgspec.field(default_factory=Counter)  # counted down besides
    others: int = 0  # tasks that end and have no place
    pending: int = -1  # removed; -1: none

    def update(self, seen: Mapping[str, Any] | None, now: float) -> tuple[Document, Document]:
        """Return the condition and the update. `seen` are the counters as they were read, None: they were not."""
        condition: Document = {"_id": self.workflow}
        update: defaultdict[str, Document] = defaultdict(dict)
        update["$set"]["expires_at"] = moment(now + UNFINISHED_SECONDS)
        for word, bits in self._bits().items():
            condition[f"ended.{word}"] = {"$not": {"$bitsAnySet": bits}}
            update["$bit"][f"ended.{word}"] = {"or": bits}
        if self.pending >= 0:
            condition[f"pending.{self.pending}"] = {"$exists": True}
            update["$unset"][f"pending.{self.pending}"] = ""
        if self.ends or self.others:
            update["$inc"]["left"] = -len(self.ends) - self.others
        added = [node for node, (_, leaves_pending) in self.ends.items() if leaves_pending]
        for join, count in (self.joins + Counter(join for join, _ in self.ends.values() if join >= 0)).items():
            key = f"missing.{join}"
            left = _missing(seen, join) if seen is not None else None
            if left is None or left > count:
                condition[key] = {"$gt": count}
                update["$inc"][key] = -count
            elif left > 0:
                condition[key] = left
                update["$unset"][key] = ""
                added.append(join)
        for node in set(added) - {self.pending}:
            update["$set"][f"pending.{node}"] = 0.0
            update["$set"]["next_at"] = 0.0
            update["$inc"]["additions"] = 1
        return condition, dict(update)

    def without_counted(self, seen: Mapping[str, Any]) -> Change:
        """Return what is left of the change, if the counters are these: the nodes that were not counted."""
        ended = numbers_in(seen, "ended")
        ends = {
            node: end for node, end in self.ends.items() if not ended.get(str(node // WORD), 0) >> node % WORD & 1
        }
        return msgspec.structs.replace(self, ends=ends)

    def fields(self) -> dict[str, int]:
        """Return the fields that are to be read for `update`."""
        paths = [f"ended.{word}" for word in self._bits()]
        joins = {*self.joins, *(join for join, _ in self.ends.values())}
        return dict.fromkeys([*paths, *(f"missing.{join}" for join in joins), f"pending.{self.pending}"], 1)

    def _bits(self) -> dict[int, int]:
        bits: defaultdict[int, int] = defaultdict(int)
        for node in self.ends:
            bits[node // WORD] |= 1 << node % WORD
        return bits


def _missing(seen: Mapping[str, Any], join: int) -> int:
    return numbers_in(seen, "missing").get(str(join), 0)


def number_in(document: Mapping[str, Any], field: str) -> float:
    """Return a field that is a number; 0 if it is none."""
    found = document.get(field)
    return found if isinstance(found, int | float) and math.isfinite(found) else 0


def part_of(document: Mapping[str, Any], field: str) -> Document:
    """Return a field that is a document; an empty one if it is none."""
    found = document.get(field)
    return found if isinstance(found, dict) else {}


def numbers_in(document: Mapping[str, Any], field: str) -> dict[str, int]:
    """Return the integers in a field that is a document."""
    return {key: value for key, value in part_of(document, field).items() if isinstance(value, int)}
