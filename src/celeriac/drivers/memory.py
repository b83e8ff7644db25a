"""The state that a memory broker and a memory backend share, within one process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress

from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery
from celeriac.ports.operations import Dead, WorkerInfo
from celeriac.ports.workflows import UNFINISHED_SECONDS, Advance, PendingNode, Plan

__all__ = ["Held", "Store", "Workflow", "store"]


class Held:
    """A delivery in a worker's hands."""

    def __init__(self, delivery: Delivery, lease: int, age: int) -> None:
        self.delivery = delivery
        self.lease = lease
        self.age = age  # its place in the queue, should it come back


class Workflow:
    """A workflow: its tree, and how much of it is missing."""

    def __init__(self, plan: Plan, now: float) -> None:
        self.tree = plan.tree
        self.left = plan.left
        self.missing = dict(plan.missing)
        self.touched_at = now


class Store:
    """Messages and outcomes in plain dicts, under one lock; and a bell that rings when they change."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.messages: dict[str, tuple[int, Message, int]] = {}  # id: age, message, deliveries; ready or scheduled
        self.held: dict[str, Held] = {}  # id: in a worker's hands
        self.dead: dict[str, Dead] = {}
        self.revoked: dict[str, float] = {}  # id: until
        self.paused: set[str] = set()
        self.leases: dict[int, WorkerInfo] = {}
        self.outcomes: dict[str, tuple[float, Outcome]] = {}  # id: when it was stored, outcome
        self.workflows: dict[str, Workflow] = {}
        self.pending: dict[PendingNode, float] = {}  # when somebody may take it on
        self.broadcasts: list[tuple[int, float, str, bytes]] = []  # number, when, channel, payload
        self.count = 0  # of everything that ever needed a number of its own
        self.generation = 0
        self._bell = threading.Condition()
        self._sleepers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def number(self) -> int:
        """Return a number never returned before. Call with the lock held."""
        self.count += 1
        return self.count

    def keep(self, outcome: Outcome, now: float) -> bool:
        """Keep an outcome, unless a final one is there. Call with the lock held."""
        known = self.outcomes.get(outcome.id)
        if known is not None and known[1].ready:
            return False
        self.outcomes[outcome.id] = (now, outcome)
        return True

    # --- Workflows: all of these with the lock held ---------------------------------------------------

    def conclude(self, outcome: Outcome, leaves_pending: bool, now: float) -> bool:
        """Keep the end of a workflow's node, and do what follows from it at once; unless it has ended before."""
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
        """Count down joins; those that come to nothing are due."""
        self.workflows[workflow].touched_at = now
        missing = self.workflows[workflow].missing
        for join in joins:
            if missing.get(join, 0) > 0:
                missing[join] -= 1
                if missing[join] == 0:
                    self.pending[PendingNode(workflow, join)] = 0.0

    def advance(self, advance: Advance, now: float) -> bool:
        """Do what follows from a node's end, but for the messages; unless somebody has done it."""
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
        """Drop what nobody will ask for any more."""
        if result_expires is None:
            return
        self.outcomes = {id: entry for id, entry in self.outcomes.items() if entry[0] >= now - result_expires}
        for id, workflow in list(self.workflows.items()):
            if workflow.touched_at < now - (result_expires if workflow.left <= 0 else UNFINISHED_SECONDS):
                del self.workflows[id]

    def ring(self) -> None:
        """Wake everybody who waits. Call without the lock."""
        with self._bell:
            self.generation += 1
            self._bell.notify_all()
            sleepers = list(self._sleepers)
        for loop, event in sleepers:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # its loop was closed while it slept
                with self._bell:
                    self._sleepers.discard((loop, event))

    def wait(self, seen: int, timeout: float) -> None:
        """Block until the bell has rung after generation `seen`, or until the time-out (seconds)."""
        with self._bell:
            self._bell.wait_for(lambda: self.generation != seen, timeout)

    async def changed(self, seen: int, timeout: float) -> None:
        """Do as `wait`, for coroutines."""
        sleeper = (asyncio.get_running_loop(), asyncio.Event())
        with self._bell:
            if self.generation != seen:
                return
            self._sleepers.add(sleeper)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await sleeper[1].wait()
        finally:
            with self._bell:
                self._sleepers.discard(sleeper)


_stores: dict[str, Store] = {}


def store(name: str) -> Store:
    """Return the store of this name; `memory://name` is the same one everywhere in the process."""
    return _stores.setdefault(name, Store())
