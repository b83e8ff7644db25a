"""Counts attempts by task, queue and state, with how long they ran and how long they had waited.

`Recorder` adds what was settled, a batch at a time. The counts are kept by slots of some seconds, which it writes to
the history; their sum since the worker started is shown by `celeriac inspect stats`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from celeriac import states
from celeriac.model.history import SLOT, Sums
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.model.spread import Spread

__all__ = ["Ended", "Gathered", "Group", "Kind", "Statistics", "grouped", "wait_of"]

Ended: TypeAlias = tuple[Message, Outcome]

Group: TypeAlias = tuple[str, str, str, str, str]
"""What is counted together: task, queue, state, class of the exception, failure signature."""

Kind: TypeAlias = tuple[str, str, str, str]
"""A group without its failure signature."""

FAILING = frozenset({states.FAILURE, states.RETRY})
MOST_KINDS = 5000  # tasks, queues, states and exceptions, since the worker started
MOST_GROUPS = 1000  # in one slot; failures beyond that are counted without their signature
OTHER = "(other)"
GATHERED = 4000  # durations
LONGEST = 10 * 365 * 86_400.0  # seconds; nobody has waited for longer


def grouped(ended: Sequence[Ended]) -> dict[Group, list[Ended]]:
    """Return ended attempts by what is counted together."""
    # This and `Gathered.add` are called for each batch that is settled: what all attempts take is written out.
    alike: dict[tuple[str, str, str], list[Ended]] = {}
    for pair in ended:
        message, outcome = pair
        key = (outcome.task, message.queue, outcome.state)
        try:
            alike[key].append(pair)
        except KeyError:
            alike[key] = [pair]
    groups: dict[Group, list[Ended]] = {}
    for (task, queue, state), some in alike.items():
        if state not in FAILING:
            groups[task, queue, state, "", ""] = some
            continue
        for pair in some:
            failure = pair[1].failure
            error, signature = (f"{failure.module}.{failure.type}", failure.signature) if failure else ("", "")
            groups.setdefault((task, queue, state, error, signature), []).append(pair)
    return groups


class Gathered:
    """The counts of a group in a slot. Durations are sorted into buckets by the thousand: that is faster."""

    def __init__(self) -> None:
        self._sums = Sums()
        self._runtimes: list[float] = []
        self._waits: list[float] = []

    def add(self, ended: Sequence[Ended]) -> list[float]:
        """Count attempts; return the run times of those that ran."""
        self._sums.n += len(ended)
        runtimes = [outcome.runtime for _, outcome in ended]
        if min(runtimes) <= 0.0:
            ended = [pair for pair in ended if pair[1].runtime > 0.0]
            runtimes = [outcome.runtime for _, outcome in ended]
        self._runtimes += runtimes
        self._waits += [
            outcome.started_at - message.sent_at if message.due_at is None else wait_of(message, outcome)
            for message, outcome in ended
        ]
        if len(self._runtimes) > GATHERED:
            self.sums()
        return runtimes

    def sums(self) -> Sums:
        """Return the sums so far."""
        waits = self._waits
        if waits and (min(waits) < 0.0 or max(waits) > LONGEST):  # clocks of two machines; messages without a time
            waits = [max(0.0, wait) for wait in waits if wait <= LONGEST]
        self._sums.runtime.add(self._runtimes)
        self._sums.wait.add(waits)
        self._runtimes, self._waits = [], []
        return self._sums


def wait_of(message: Message, outcome: Outcome) -> float:
    """Return for how long (seconds) an attempt could have run, and did not yet."""
    return max(0.0, outcome.started_at - max(message.sent_at, message.due_at or 0.0))


class Statistics:
    """What has ended since the worker started."""

    def __init__(self, keeps_slots: bool = False) -> None:
        self.slots: dict[int, dict[Group, Gathered]] = {}
        """Counts by the beginning of their slot (seconds since the epoch), until they are closed."""
        self._keeps_slots = keeps_slots
        self._latest = 0
        self._closed: dict[Kind, Sums] = {}

    def slot(self, now: float) -> tuple[int, dict[Group, Gathered]]:
        """Return the slot in which attempts are counted that have just ended, and its beginning."""
        at = self._latest = max(int(now) // SLOT * SLOT, self._latest)  # a clock that is set back reopens none
        slot = self.slots.get(at)
        if slot is None:
            if not self._keeps_slots:
                for old in list(self.slots):
                    self.close(old)
            slot = self.slots[at] = {}
        return at, slot

    def add(self, ended: Sequence[Ended], slot: dict[Group, Gathered], group: Group) -> list[float]:
        """Count attempts of one group in a slot; return the run times of those that ran."""
        gathered = slot.get(group)
        if gathered is None:
            if len(slot) >= MOST_GROUPS:
                group = (*group[:3], OTHER, "") if group[3] else (OTHER, "", *group[2:])
            gathered = slot.setdefault(group, Gathered())
        return gathered.add(ended)

    def close(self, at: int) -> None:
        """Keep a slot only as a part of the sum."""
        for group, gathered in self.slots.pop(at).items():
            kind: Kind = group[:4]
            if kind not in self._closed and len(self._closed) >= MOST_KINDS:
                kind = (OTHER, "", group[2], "")
            self._closed.setdefault(kind, Sums()).merge(gathered.sums())

    def ever(self) -> list[tuple[Kind, Sums]]:
        """Return copies of all sums since the worker started, several of a kind. To merge them takes longer."""
        return [(kind, sums.copy()) for kind, sums in self._counted()]

    def _counted(self) -> Iterator[tuple[Kind, Sums]]:
        yield from self._closed.items()
        for slot in self.slots.values():
            for group, gathered in slot.items():
                yield group[:4], gathered.sums()

    def summary(self) -> dict[str, Any]:
        """Return count, states and runtimes by task, since the worker started."""
        states: dict[str, dict[str, int]] = {}
        runtimes: dict[str, Spread] = {}
        for (task, _, state, _), sums in self._counted():
            of_task = states.setdefault(task, {})
            of_task[state] = of_task.get(state, 0) + sums.n
            runtimes.setdefault(task, Spread()).merge(sums.runtime)
        return {
            task: {"count": sum(of_task.values()), "states": of_task, **runtimes[task].summary()}
            for task, of_task in states.items()
        }
