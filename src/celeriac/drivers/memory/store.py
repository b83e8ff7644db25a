"""The state that a memory broker and a memory backend share, within one process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from celeriac.drivers.bell import Bell
from celeriac.drivers.memory.claims import MemoryClaimStore
from celeriac.drivers.memory.delays import MemoryDelays
from celeriac.drivers.memory.history import MemoryHistory
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery
from celeriac.ports.operations import Dead, WorkerInfo
from celeriac.ports.schedules import Entry
from celeriac.ports.workflows import UNFINISHED_SECONDS, Advance, PendingNode, Plan

__all__ = ["BROADCAST_SECONDS", "Held", "Store", "Workflow", "forget", "store"]

BROADCAST_SECONDS = 60.0  # how long a listener may find a broadcast


class Held:
    """A delivery that a worker holds."""

    def __init__(self, delivery: Delivery, lease: int, age: int) -> None:
        self.delivery = delivery
        self.lease = lease
        self.age = age  # its position in the queue, if it is returned


class Workflow:
    """A workflow: its tree and its counters."""

    def __init__(self, plan: Plan, now: float) -> None:
        self.tree = plan.tree
        self.left = plan.left
        self.missing = dict(plan.missing)
        self.touched_at = now


class Store(Bell):
    """Messages and outcomes in plain dicts, under one lock. Rings when they change; ring without holding the lock."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.messages: dict[str, tuple[int, Message, int]] = {}  # id: age, message, deliveries; ready or scheduled
        self.held: dict[str, Held] = {}  # id: held by a worker
        self.dead: dict[str, Dead] = {}
        self.revoked: dict[str, float] = {}  # id: until
        self.paused: set[str] = set()
        self.leases: dict[int, WorkerInfo] = {}
        self.outcomes: dict[str, tuple[float, Outcome]] = {}  # id: when it was stored, outcome
        self.workflows: dict[str, Workflow] = {}
        self.pending: dict[PendingNode, float] = {}  # when it may be claimed
        self.schedules: dict[str, Entry] = {}
        self.claims = MemoryClaimStore()
        self.delays = MemoryDelays()
        self.history = MemoryHistory(self.claims)
        self.broadcasts: list[tuple[int, float, str, bytes]] = []  # number, when, channel, payload
        self.count = 0  # the last number given out by `number`

    def number(self) -> int:
        """Return a number that was never returned before. Call with the lock held."""
        self.count += 1
        return self.count

    def add(self, messages: Iterable[Message]) -> None:
        """Add messages, except for those whose ids are taken. Call with the lock held."""
        for message in messages:
            if message.id not in self.messages and message.id not in self.held and message.id not in self.dead:
                self.messages[message.id] = (self.number(), message, 0)

    def keep(self, outcome: Outcome, now: float) -> bool:
        """Store an outcome, unless a final one is stored. Call with the lock held."""
        known = self.outcomes.get(outcome.id)
        if known is not None and known[1].ready:
            return False
        self.outcomes[outcome.id] = (now, outcome)
        return True

    # --- Workflows: call these with the lock held -----------------------------------------------------

    def conclude(self, outcome: Outcome, leaves_pending: bool, now: float) -> bool:
        """Store the end of a workflow's node and count it, unless the node has ended before."""
        if not self.keep(outcome, now):
            return False
        place = outcome.place
        if place is not None and place.workflow in self.workflows:
            self.workflows[place.workflow].left -= 1
            self.count_down(place.workflow, [place.join] if place.join >= 0 else [], now)
            if leaves_pending:
                self.pending[PendingNode(place.workflow, place.node)] = 0.0
        return True

    def count_down(self, workflow: str, joins: Sequence[int], now: float) -> None:
        """Count down joins. A join at zero is pending."""
        self.workflows[workflow].touched_at = now
        missing = self.workflows[workflow].missing
        for join in joins:
            if missing.get(join, 0) > 0:
                missing[join] -= 1
                if missing[join] == 0:
                    self.pending[PendingNode(workflow, join)] = 0.0

    def advance(self, advance: Advance, now: float) -> bool:
        """Carry out what follows from a node's end, except for the messages, unless that was done before."""
        if self.pending.pop(advance.pending, None) is None:
            return False
        for outcome in advance.outcomes:
            if outcome.place is not None and outcome.place.workflow != advance.pending.workflow:
                self.conclude(outcome, True, now)
            elif self.keep(outcome, now) and advance.pending.workflow in self.workflows:
                self.workflows[advance.pending.workflow].left -= 1
        if advance.pending.workflow in self.workflows:
            self.count_down(advance.pending.workflow, advance.joins, now)
        return True

    def prune(self, now: float, result_expires: float | None) -> None:
        """Delete expired outcomes and workflows."""
        if result_expires is None:
            return
        self.outcomes = {id: entry for id, entry in self.outcomes.items() if entry[0] >= now - result_expires}
        for id, workflow in list(self.workflows.items()):
            if workflow.touched_at < now - (result_expires if workflow.left <= 0 else UNFINISHED_SECONDS):
                del self.workflows[id]


_stores: dict[str, Store] = {}


def store(name: str) -> Store:
    """Return the store of this name. A process has one store for each name."""
    return _stores.setdefault(name, Store())


def forget(name: str) -> None:
    """Forget the store of this name: the next one is empty."""
    _stores.pop(name, None)
