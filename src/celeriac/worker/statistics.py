"""Counts attempts by task, queue and state, with how long they ran and how long they had waited.

`Settler` adds what was settled, a batch at a time. The counts are kept by slots of some seconds, which `Recorder` writes
to the history; their sum since the worker started is shown by `celeriac inspect stats`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from celeriac import states
from celeriac.model.history import SLOT, Sums
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.model.spread import Spread

__all__ = ["Ended", "Group", "Statistics", "grouped", "sums_of", "wait_of"]

Ended: TypeAlias = tuple[Message, Outcome]

Group: TypeAlias = tuple[str, str, str, str, str]
"""What is counted together: task, queue, state, class of the exception, failure signature."""

FAILING = frozenset({states.FAILURE, states.RETRY})
MOST_GROUPS = 1000  # in one slot; failures beyond that are counted without their signature
OTHER = "(other)"


def grouped(ended: Iterable[Ended]) -> dict[Group, list[Ended]]:
    """Return ended attempts by what is counted together."""
    groups: dict[Group, list[Ended]] = {}
    for pair in ended:
        message, outcome = pair
        failure = outcome.failure
        if failure is None or outcome.state not in FAILING:
            group = (outcome.task, message.queue, outcome.state, "", "")
        else:
            error = f"{failure.module}.{failure.type}"
            group = (outcome.task, message.queue, outcome.state, error, failure.signature)
        if group in groups:
            groups[group].append(pair)
        else:
            groups[group] = [pair]
    return groups


def sums_of(ended: Sequence[Ended]) -> Sums:
    """Return the sums of attempts. Those that never ran count without durations."""
    sums = Sums(len(ended))
    ran = [pair for pair in ended if pair[1].runtime > 0]
    sums.runtime.add([outcome.runtime for _, outcome in ran])
    sums.wait.add([wait_of(message, outcome) for message, outcome in ran if message.sent_at])
    return sums


def wait_of(message: Message, outcome: Outcome) -> float:
    """Return for how long (seconds) an attempt could have run, and did not yet."""
    since, due = message.sent_at, message.due_at
    if due is not None and due > since:
        since = due
    wait = outcome.started_at - since
    return max(0.0, wait)


class Statistics:
    """What has ended since the worker started."""

    def __init__(self, keeps_slots: bool = False) -> None:
        self.slots: dict[int, dict[Group, Sums]] = {}
        """Counts by the beginning of their slot (seconds since the epoch), until they are closed."""
        self._keeps_slots = keeps_slots
        self._latest = 0
        self._closed: dict[Group, Sums] = {}

    def add(self, counted: Mapping[Group, Sums], now: float) -> int:
        """Count attempts that have just ended; return the slot in which they are counted."""
        at = self._latest = max(int(now) // SLOT * SLOT, self._latest)  # a clock that is set back reopens none
        slot = self.slots.get(at)
        if slot is None:
            if not self._keeps_slots:
                for old in list(self.slots):
                    self.close(old)
            slot = self.slots[at] = {}
        for group, sums in counted.items():
            if group in slot:
                slot[group].merge(sums)
            elif len(slot) < MOST_GROUPS:
                slot[group] = sums
            else:
                slot.setdefault((*group[:3], OTHER, "") if group[3] else (OTHER, "", *group[2:]), Sums()).merge(sums)

        return at

    def close(self, at: int) -> None:
        """Keep a slot only as a part of the sum."""
        for (task, _, state, _, _), sums in self.slots.pop(at).items():
            self._closed.setdefault((task, "", state, "", ""), Sums()).merge(sums)

    def summary(self) -> dict[str, Any]:
        """Return count, states and runtimes by task, since the worker started."""
        states: dict[str, dict[str, int]] = {}
        runtimes: dict[str, Spread] = {}
        for counted in (self._closed, *self.slots.values()):
            for (task, _, state, _, _), sums in counted.items():
                of_task = states.setdefault(task, {})
                of_task[state] = of_task.get(state, 0) + sums.n
                runtimes.setdefault(task, Spread()).merge(sums.runtime)
        return {
            task: {"count": sum(of_task.values()), "states": of_task, **runtimes[task].summary()}
            for task, of_task in states.items()
        }
