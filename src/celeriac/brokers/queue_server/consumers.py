"""The consumers of a lease: which lines the server pushes from, and how much, so that it fits the free slots.

The cost of a receive does not depend on the number of queues. A line whose consumer has room holds no waiting message,
for the server would push it: such a line is *idle*, and is left alone until a message arrives. Only lines that may hold
waiting messages are counted: those without room (*closed*), and those from which a message was received or settled
since the last time (*touched*). Closed lines queue up: those counted first are served first, the others keep
their position, so that all lines get their turn.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from celeriac.brokers.queue_server.consumer import Consumer
from celeriac.brokers.queue_server.journal import Journal
from celeriac.brokers.queue_server.sender import Sender
from celeriac.brokers.queue_server.shares import divide
from celeriac.brokers.queue_server.topology import Line
from celeriac.brokers.queue_server.transport import QueueMissing, WorkerConnection
from celeriac.ports.broker import Slots

__all__ = ["Consumers", "Fitted"]

log = logging.getLogger("celeriac.brokers")

MOST_EXPECTED = 64  # messages; a receive does not wait for more to arrive
FEW = 16  # lines of a lane that are fitted together: if no slot is left for idle ones, their consumers end
DECLARED_TOGETHER = 50  # lines, within one time-out
MANY_TAGS = 10_000  # of consumers, earlier ones included, whose lines are remembered


class _Lane:
    """The consumers of a lane, for the queues that are received from."""

    def __init__(self, consumers: list[Consumer]) -> None:
        self.consumers = consumers  # the highest priority first
        self.closed = dict.fromkeys(one for one in consumers if one.room <= 0)  # first come, first served
        self.by_queue: dict[str, list[Consumer]] = {}
        self._all = frozenset(consumers)
        for consumer in consumers:
            self.by_queue.setdefault(consumer.line.queue, []).append(consumer)

    def __contains__(self, consumer: Consumer) -> bool:
        return consumer in self._all

    @property
    def small(self) -> bool:
        """Whether the lines are few enough to be handled together."""
        return len(self.consumers) <= FEW

    def update(self, consumers: Iterable[Consumer]) -> None:
        """Record which of these consumers have room."""
        for consumer in consumers:
            if consumer.room > 0:
                self.closed.pop(consumer, None)
            else:
                self.closed.setdefault(consumer)


class _Plan:
    """The queues that are received from, and their lanes; valid while neither the queues nor the journal change."""

    def __init__(self, queues: Sequence[str], version: int, paused: set[str]) -> None:
        self.queues = tuple(queues)
        self.version = version
        self.wanted = {queue: number for number, queue in enumerate(queues) if queue not in paused}
        self.lanes: dict[str, _Lane] = {}


class Fitted(NamedTuple):
    """What `Consumers.fit` has found."""

    expected: int  # messages that this worker is about to have; 0 unless they were counted
    pause: float  # seconds after which to call again; 0: when something changes
    starves: bool  # lines have no room though slots are free, for messages were said to wait in other lines


class Consumers:
    """All consumers of a lease, by line."""

    def __init__(self, sender: Sender, journal: Journal, connection: WorkerConnection,
                 call: Callable[[Awaitable[Any]], Awaitable[Any]]) -> None:  # fmt: skip
        self.ready: dict[Consumer, None] = {}  # those with messages in their buffers
        self.touched: set[Consumer] = set()  # those that were received from, or settled, since their room was fitted
        self._sender = sender
        self._transport = sender.transport
        self._journal = journal
        self._connection = connection
        self._call = call  # awaits an answer; a lost connection ends the lease
        self._by_line: dict[Line, Consumer] = {}
        self._by_address: dict[str, Consumer] = {}
        self._by_tag: dict[str, Consumer] = {}
        self._plan: _Plan | None = None

    def __iter__(self) -> Iterator[Consumer]:
        return iter(self._by_line.values())

    def clear(self) -> None:
        """Forget all: the connection is lost."""
        self._drop_plan()
        self._by_line.clear()
        self._by_address.clear()
        self._by_tag.clear()
        self.ready.clear()
        self.touched.clear()

    def source(self, tag: str) -> Consumer | None:
        """Return the consumer that has this tag, or had it."""
        consumer = self._by_tag.get(tag)
        if consumer is None and (consumer := self._by_address.get(tag.rpartition("#")[0])) is not None:
            if len(self._by_tag) >= MANY_TAGS:
                self._by_tag.clear()
            self._by_tag[tag] = consumer
        return consumer

    def cancelled(self, tag: str) -> None:
        """Record that the server has ended a consumer."""
        consumer = self.source(tag)
        if consumer is not None and consumer.tag == tag:
            consumer.cancelled()
            self.touched.add(consumer)

    def begin_again(self) -> None:
        """Let those consumers end and begin that have not ended."""
        for consumer in self:
            if consumer.tag:
                consumer.set(max(0, consumer.room))
                self.touched.add(consumer)

    def wanted(self, queues: Sequence[str]) -> dict[str, int]:
        """Return those of the queues that are not paused, with their positions."""
        return self._planned(queues).wanted

    async def fit(self, queues: Sequence[str], slots: Slots, counting: bool) -> Fitted:
        """Begin and end consumers, so that the server pushes what fits into the slots."""
        plan = self._planned(queues)
        expected, pause, starves = 0, 0.0, False
        for name, free in slots.items():
            if free <= 0:
                continue
            lane = await self._declared(plan, name)
            counts, windows = await self._windows(lane, free, counting)
            for consumer, window in windows.items():
                count = counts.get(consumer, 0)
                if not (window or lane.small) and consumer.tag:
                    consumer.set(0)  # even without room now: settling would make room before other lines had their turn
                if again := consumer.fit(min(window, self._transport.widest), waiting=count > 0):
                    pause = max(pause, again)
                    self.touched.add(consumer)
                expected += min(count, consumer.room)
            lane.update(windows)
            starves = starves or bool(lane.closed)
            if counting:
                expected += sum(len(consumer.buffer) for consumer in self.ready if consumer in lane)
        return Fitted(min(expected, MOST_EXPECTED) if counting else 0, pause, starves)

    async def _windows(self, lane: _Lane, free: int,
                       counting: bool) -> tuple[dict[Consumer, int], dict[Consumer, int]]:  # fmt: skip
        """Return how many messages wait for the consumers that were counted, and the windows of those that change."""
        if len(lane.consumers) == 1:
            [consumer] = lane.consumers
            # The server says when a queue is deleted, but only to those that consume from it.
            counts = await self._counted(lane.consumers, free) if counting or not consumer.tag else {}
            return counts, {consumer: free}
        touched = [one for one in self.touched if one in lane]
        candidates = lane.consumers if counting and lane.small else [*dict.fromkeys([*lane.closed, *touched])]
        counts = await self._counted(sorted(candidates, key=_rank), free)
        self.touched.difference_update(counts)
        shares, left = divide([one.line for one in counts], [*counts.values()], free)
        windows = dict(zip(counts, shares, strict=True))
        if left:
            windows = {one: share or 1 for one, share in windows.items()}
        elif not counts:
            pass
        elif lane.small:
            windows.update((one, 0) for one in lane.consumers if one not in windows)
        else:
            self._close_some(lane, counts, windows)
            windows.update((one, 0) for one in touched if one not in counts)  # messages may wait there, too
        return counts, windows

    def _close_some(self, lane: _Lane, counts: dict[Consumer, int], windows: dict[Consumer, int]) -> None:
        """Set windows of idle lines for which no slot is left, where there are many lines.

        Close the lines of a lower priority than a busy line of their queue. The others may push a message each: if
        they were closed, all of them would have to be counted again and again.
        """
        windows.update((one, 1) for one, count in counts.items() if not count)
        for busy, count in counts.items():
            others = lane.by_queue[busy.line.queue]
            if count and len(others) > 1:
                windows.update((one, 0) for one in others if _rank(one) > _rank(busy) and not counts.get(one))

    async def _counted(self, candidates: Sequence[Consumer], free: int) -> dict[Consumer, int]:
        """Count the messages that wait for consumers, until there are enough to fill the slots."""
        counts: dict[Consumer, int] = {}
        waiting, size = 0, FEW
        while len(counts) < len(candidates) and waiting < free:
            part = candidates[len(counts) : len(counts) + size]
            size *= 2
            found = await self._count(part)
            waiting += sum(found)
            counts.update(zip(part, found, strict=True))
        return counts

    async def _count(self, consumers: Sequence[Consumer]) -> list[int]:
        """Return how many messages wait in each line; declare those again that were deleted."""
        try:
            found: list[int] = await self._call(self._connection.count([consumer.address for consumer in consumers]))
        except QueueMissing as error:
            log.warning("Declaring queues again, for one was deleted: %s", error)
            self._transport.declared.clear()
            await self._declare([consumer.line for consumer in consumers])
            return [0] * len(consumers)
        return found

    # --- The lines ------------------------------------------------------------------------------------

    def _planned(self, queues: Sequence[str]) -> _Plan:
        """Return the plan for these queues; where it is a new one, end the consumers of other queues."""
        plan, journal = self._plan, self._journal
        if plan is not None and plan.version == journal.version and plan.queues == tuple(queues):
            return plan
        self._drop_plan()
        plan = self._plan = _Plan(queues, journal.version, journal.paused)
        for consumer in self:
            if consumer.tag and consumer.line.queue not in plan.wanted:
                consumer.set(0)
        return plan

    def _drop_plan(self) -> None:
        if self._plan is not None:
            self._transport.declared.difference_update(self._plan.lanes.values())
            self._plan = None

    async def _declared(self, plan: _Plan, name: str) -> _Lane:
        """Return a lane, all lines of which are declared."""
        lane = plan.lanes.get(name)
        if lane is None:
            lane = plan.lanes[name] = _Lane([self._consumer(line) for line in self._lines(plan, name)])
        declared = self._transport.declared
        if lane not in declared:  # it is removed with all others when a queue turns out to be deleted
            await self._declare([one.line for one in lane.consumers if one.line not in declared])
            declared.add(lane)
        return lane

    async def _declare(self, lines: Sequence[Line]) -> None:
        for start in range(0, len(lines), DECLARED_TOGETHER):
            part = lines[start : start + DECLARED_TOGETHER]
            await self._transport.ado(partial(self._sender.declare, part, self._journal.lines))

    def _lines(self, plan: _Plan, lane: str) -> list[Line]:
        """Return the lines of a lane, the highest priority first."""
        topology = self._transport.topology
        lines = {topology.usual(queue, lane) for queue in plan.wanted}
        lines |= {line for line in self._journal.lines if line.lane == lane and line.queue in plan.wanted
                  and (line.priority is not None) == topology.priority_lines}  # fmt: skip
        return sorted(lines, key=lambda line: (-(line.priority or 0), plan.wanted[line.queue]))

    def _consumer(self, line: Line) -> Consumer:
        consumer = self._by_line.get(line)
        if consumer is None:
            address = self._transport.topology.address(line)
            consumer = self._by_line[line] = self._by_address[address] = Consumer(self._connection, line, address)
        return consumer


def _rank(consumer: Consumer) -> int:
    return -(consumer.line.priority or 0)
