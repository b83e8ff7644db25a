"""Workflows in a key-value store that can compare and set.

| key | value |
|---|---|
| `t:<workflow>` | the tree |
| `w:<workflow>` | the counters (`State`); written by compare-and-set |
| `p:<0 … 15>` | workflows that may have pending nodes, each with a random number: new whenever it is listed |

Storing an outcome and counting it are two steps. The second is idempotent: `State.ended` has a bit for each node that
was counted. If a worker is killed between the two, its message is delivered again, and the next worker counts the node.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from secrets import randbits
from typing import Any
from zlib import crc32

import msgspec

from celeriac.backends.key_value import KeyValueBackend, safe
from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability
from celeriac.ports.workflows import UNFINISHED_SECONDS, Advance, NodeEnd, PendingNode, Plan, WorkflowStore

__all__ = ["KeyValueWorkflows", "State"]

LISTS = 16
DAY = 86400.0


class State(msgspec.Struct):
    """The counters of a workflow."""

    left: int
    missing: dict[int, int]
    planted_at: float  # when the tree was last written
    ended: bytearray = msgspec.field(default_factory=bytearray)  # a bit for each node
    pending: dict[int, float] = {}  # node: when it may be claimed; 0.0: it was never claimed

    def end(self, outcome: Outcome, leaves_pending: bool) -> None:
        """Count the end of a node, unless it was counted."""
        place = outcome.place
        if place is None or not self._first(place.node):
            return
        self.left -= 1
        self.count_down([place.join] if place.join >= 0 else [])
        if leaves_pending:
            self.pending[place.node] = 0.0

    def count_down(self, joins: Sequence[int]) -> None:
        """Count down joins. A join at zero is pending."""
        for join in joins:
            if self.missing.get(join, 0) > 0:
                self.missing[join] -= 1
                if self.missing[join] == 0:
                    self.pending[join] = 0.0

    def follow(self, advance: Advance) -> bool:
        """Carry out an advance, except for its messages and outcomes. False: its node is no longer pending."""
        if self.pending.pop(advance.pending.node, None) is None:
            return False
        for outcome in advance.outcomes:
            place = outcome.place
            if place is None or (place.workflow == advance.pending.workflow and self._first(place.node)):
                self.left -= 1
        self.count_down(advance.joins)
        return True

    def _first(self, node: int) -> bool:
        byte, bit = node // 8, 1 << node % 8
        if len(self.ended) <= byte:
            self.ended += bytes(byte + 1 - len(self.ended))
        first = not self.ended[byte] & bit
        self.ended[byte] |= bit
        return first


_state = msgspec.msgpack.Decoder(State).decode
_list = msgspec.msgpack.Decoder(dict[str, int]).decode
_encode = msgspec.msgpack.Encoder().encode


class KeyValueWorkflows(KeyValueBackend, WorkflowStore):
    """Outcomes and workflows in a key-value store. It must not evict keys before they expire."""

    lacks = KeyValueBackend.lacks - {Ability.KEEP_WORKFLOWS}

    # --- The adapter's part ---------------------------------------------------------------------------

    @abstractmethod
    def get_token(self, key: str) -> tuple[bytes, Any] | None:
        """Return a value and the token of its version, or None. The value itself can be the token."""

    @abstractmethod
    def compare_and_set(self, key: str, value: bytes, token: Any, expires: float | None) -> bool:
        """Set a value if its version is still that of the token, in one atomic step; return whether it was set."""

    # --- What follows from it -------------------------------------------------------------------------

    def plant(self, plan: Plan, again: bool = False) -> None:
        state = State(left=plan.left, missing=dict(plan.missing), planted_at=self.clock.now())
        write = self.add if again else self.set
        write(_tree(plan.id), plan.tree, UNFINISHED_SECONDS)
        write(_counters(plan.id), _encode(state), self._state_expiry(state))

    async def aplant(self, plan: Plan, again: bool = False) -> None:
        await asyncio.to_thread(self.plant, plan, again)

    def trees(self, ids: Sequence[str]) -> dict[str, bytes]:
        found = self.get_many(_keys(ids)) if ids else {}
        return {id: found[_tree(id)] for id in ids if _tree(id) in found and _counters(id) in found}

    async def atrees(self, ids: Sequence[str]) -> dict[str, bytes]:
        return await asyncio.to_thread(self.trees, ids)

    def uproot(self, ids: Sequence[str]) -> None:
        self.delete_many(_keys(ids))

    async def conclude(self, ends: Sequence[NodeEnd]) -> list[bool]:
        done = await asyncio.to_thread(self._conclude_all, ends)
        self.wake(end.outcome.id for end in ends)
        return done

    def _conclude_all(self, ends: Sequence[NodeEnd]) -> list[bool]:
        done = self.save([end.outcome for end in ends])
        of_workflow = defaultdict(list)
        for end, first in zip(ends, done, strict=True):
            if end.outcome.place is not None:
                # A node may have been stored and not counted. What follows from the stored outcome is not known here,
                # so it is left pending: advancing a node from which nothing follows does no harm.
                of_workflow[end.outcome.place.workflow].append((end.outcome, end.leaves_pending or not first))
        for workflow, outcomes in of_workflow.items():

            def count(state: State, outcomes: Sequence[tuple[Outcome, bool]] = outcomes) -> bool:
                for outcome, leaves_pending in outcomes:
                    state.end(outcome, leaves_pending)
                return True

            self._change_state(workflow, count)
        return done

    async def claim_pending(self, limit: int, seconds: float) -> dict[PendingNode, bool]:
        return await asyncio.to_thread(self._claim_nodes, limit, seconds)

    def _claim_nodes(self, limit: int, seconds: float) -> dict[PendingNode, bool]:
        taken: dict[PendingNode, bool] = {}
        for key in self.get_many([f"p:{number}" for number in range(LISTS)]):
            listed = self.get_token(key)
            if listed is None:
                continue
            value, token = listed
            workflows, idle = _list(value), set()
            for workflow in workflows:
                found = self._claim_nodes_of(workflow, limit - len(taken), seconds)
                if found is None:
                    idle.add(workflow)
                else:
                    taken |= found
                if len(taken) >= limit:
                    break
            if idle:  # fails if one of them was listed again since
                left = {workflow: number for workflow, number in workflows.items() if workflow not in idle}
                self.compare_and_set(key, _encode(left), token, None)
            if len(taken) >= limit:
                break
        return taken

    def _claim_nodes_of(self, workflow: str, limit: int, seconds: float) -> dict[PendingNode, bool] | None:
        """Claim nodes of one workflow; None if it has no pending ones."""
        taken: dict[PendingNode, bool] = {}
        now = self.clock.now()

        def claim(state: State) -> bool:
            free = [node for node, free_at in state.pending.items() if free_at <= now][:limit]
            taken.clear()
            taken.update({PendingNode(workflow, node): state.pending[node] > 0 for node in free})
            state.pending.update(dict.fromkeys(free, now + seconds))
            return bool(free)

        state = self._change_state(workflow, claim, listing=False)
        return taken if state is not None and state.pending else None

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        done = await asyncio.to_thread(lambda: [self._advance_one(advance) for advance in advances])
        self.wake(outcome.id for advance in advances for outcome in advance.outcomes)
        return done

    def _advance_one(self, advance: Advance) -> bool:
        # All but the last step is idempotent: a worker that is killed in between leaves the node pending.
        workflow = advance.pending.workflow
        state, _ = self._read_state(workflow)
        if state is None or advance.pending.node not in state.pending:
            return False
        own, others = advance.by_workflow()
        self.save(own)
        self._conclude_all(others)
        followed = False

        def follow(state: State) -> bool:
            nonlocal followed
            followed = state.follow(advance)
            return followed

        self._change_state(workflow, follow)
        return followed

    def _change_state(self, workflow: str, change: Callable[[State], bool], listing: bool = True) -> State | None:
        """Change the counters of a workflow by compare-and-set; return them, or None if the workflow is gone.

        `change` may be called several times; if it returns False, nothing is written. A workflow with pending nodes is
        listed after the change, even if the change was made before: a worker may have been killed before it did that.
        """
        while True:
            state, token = self._read_state(workflow)
            if state is None:
                return None
            if change(state):
                self._tend_tree(workflow, state)
                if not self.compare_and_set(_counters(workflow), _encode(state), token, self._state_expiry(state)):
                    continue
            if listing and state.pending:
                self._list_pending(workflow)
            return state

    def _read_state(self, workflow: str) -> tuple[State | None, Any]:
        found = self.get_token(_counters(workflow))
        return (_state(found[0]), found[1]) if found is not None else (None, None)

    def _state_expiry(self, state: State) -> float | None:
        """Return for how long (seconds) a workflow is kept after this change."""
        return self.expires if state.left <= 0 else UNFINISHED_SECONDS

    def _tend_tree(self, workflow: str, state: State) -> None:
        """Write the tree again, for as long as the counters, if the workflow is finished or its tree a day old."""
        if state.left <= 0 or self.clock.now() - state.planted_at > DAY:
            tree = self.get_many([_tree(workflow)])
            for key, value in tree.items():
                self.set(key, value, self._state_expiry(state))
            state.planted_at = self.clock.now()

    def _list_pending(self, workflow: str) -> None:
        """List a workflow as having pending nodes."""
        key = f"p:{crc32(workflow.encode()) % LISTS}"
        while True:
            found = self.get_token(key)
            if found is None:
                done = self.add(key, _encode({workflow: randbits(63)}), None)
            else:
                listed = {**_list(found[0]), workflow: randbits(63)}
                done = self.compare_and_set(key, _encode(listed), found[1], None)
            if done:
                return


def _tree(workflow: str) -> str:
    return f"t:{safe(workflow)}"


def _counters(workflow: str) -> str:
    return f"w:{safe(workflow)}"


def _keys(workflows: Sequence[str]) -> list[str]:
    return [key for workflow in workflows for key in (_tree(workflow), _counters(workflow))]
