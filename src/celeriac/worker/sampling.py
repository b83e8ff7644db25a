"""Chooses which attempts the history keeps one by one: failures up to a number, and a fair sample of successes.

`Recorder` asks for each batch that was settled. What is not chosen is counted all the same.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from celeriac import states
from celeriac.model.failure import Failure
from celeriac.model.failure_signature import frames_of
from celeriac.model.history import Attempt, FailureSignature
from celeriac.model.message import Message, encode
from celeriac.model.outcome import Outcome
from celeriac.worker.statistics import Ended, Gathered, Group, wait_of

__all__ = ["Sampler", "attempt_of", "signature_of_failure"]

PER_SECOND = 50.0  # successes that are kept; fewer than these are all kept
SLOW_PER_SECOND = 10.0  # … besides, of those that were slower than 99 % in the slot before
MOST_TASKS = 10_000
MANY = 100  # attempts that tell what is slow
SELDOM = 10.0  # seconds, after which a task has one kept, whatever the others do
PER_MINUTE = 100  # failures of one signature that are kept
MESSAGE = 1_000  # characters
TRACEBACK = 8_000
BODY = 8_192  # bytes; a larger message is not kept in the history
HEADERS = 1_024  # characters, about; larger headers are left out


class Sampler:
    """Chooses attempts. With `keeps_all`, all of them."""

    def __init__(self, keeps_all: bool = False) -> None:
        self._keeps_all = keeps_all
        self._tokens = PER_SECOND
        self._slow_tokens = SLOW_PER_SECOND
        self._filled_at = 0.0
        self._passed_over = 0  # successes since the last that were kept
        self._seen_at: dict[str, float] = {}  # by task: when one of it was kept last
        self._slow: dict[str, float] = {}  # by task: seconds that 99 % do not exceed
        self._minute = 0
        self._failures: Counter[tuple[str, str]] = Counter()  # of this minute, by task, and signature or state

    def failures(self, group: Group, ended: Sequence[Ended], now: float) -> Sequence[Ended]:
        """Return which attempts to keep of some that failed, were revoked, or will be tried again."""
        if self._keeps_all:
            return ended
        if (minute := int(now) // 60) != self._minute:
            self._minute = minute
            self._failures.clear()
        kind = (group[0], group[4] or group[2])
        left = max(0, PER_MINUTE - self._failures[kind])
        self._failures[kind] += len(ended)
        return ended[:left]

    def successes(self, task: str, ended: Sequence[Ended], runtimes: Sequence[float],
                  now: float) -> list[tuple[Ended, float]]:  # fmt: skip
        """Return which successes of a task to keep, and which share of all each of them stands for."""
        if self._keeps_all:
            return [(pair, 1.0) for pair in ended]
        passed = now - self._filled_at
        if passed > 0:
            self._tokens = min(PER_SECOND, self._tokens + passed * PER_SECOND)
            self._slow_tokens = min(SLOW_PER_SECOND, self._slow_tokens + passed * SLOW_PER_SECOND)
            self._filled_at = now
        count = len(ended)
        self._passed_over += count
        room = max(0, int(self._tokens))
        if not room and self._tokens > -PER_SECOND and now - self._seen_at.get(task, 0.0) > SELDOM:
            room = 1
        kept: list[tuple[Ended, float]] = []
        if room:
            some = ended if count <= room else random.sample(ended, room)
            share = len(some) / self._passed_over
            kept = [(pair, share) for pair in some]
            self._tokens -= len(some)
            self._passed_over = 0
            if len(self._seen_at) > MOST_TASKS:
                self._seen_at.clear()
            self._seen_at[task] = now
        limit = self._slow.get(task)
        if limit is not None and self._slow_tokens >= 1 and len(kept) < count and max(runtimes, default=0.0) > limit:
            slowest = max(ended, key=_runtime)
            if not any(pair is slowest for pair, _ in kept):
                kept.append((slowest, 1.0))
                self._slow_tokens -= 1
        return kept

    def learn(self, slot: Mapping[Group, Gathered]) -> None:
        """Note what is slow, from a slot that has ended."""
        for (task, _, state, _, _), gathered in slot.items():
            runtimes = gathered.sums().runtime
            if state == states.SUCCESS and runtimes.n >= MANY:
                self._slow[task] = runtimes.percentile(0.99)


def _runtime(pair: Ended) -> float:
    return pair[1].runtime


def attempt_of(ended: Ended, share: float = 1.0, keep: bool = False, release: str = "") -> Attempt:
    """Return an attempt as the history keeps it. `keep`: with its message, if it has failed for good."""
    message, outcome = ended
    failure = outcome.failure or Failure("", "", "")
    headers = message.headers
    return Attempt(
        id=outcome.id, task=outcome.task, queue=message.queue, state=outcome.state, attempt=outcome.attempt,
        worker=outcome.worker, sent_at=message.sent_at, due_at=message.due_at, started_at=outcome.started_at,
        done_at=float(outcome.done_at), runtime=outcome.runtime,
        wait=wait_of(message, outcome) if outcome.runtime > 0 else 0.0,
        error=f"{failure.module}.{failure.type}" if failure.type else "", message=failure.message[:MESSAGE],
        traceback=failure.traceback[-TRACEBACK:], signature=failure.signature, share=share, root_id=outcome.root_id,
        parent_id=outcome.parent_id, group_id=outcome.group_id,
        kept=encode(message) if keep and _is_worth_keeping(*ended) else None,
        headers=headers if headers and len(repr(headers)) <= HEADERS else {}, release=release,
    )  # fmt: skip


def _is_worth_keeping(message: Message, outcome: Outcome) -> bool:
    return outcome.state == states.FAILURE and message.place is None and len(message.body) <= BODY


def signature_of_failure(outcome: Outcome, worker: str, release: str = "") -> FailureSignature | None:
    """Return the signature of a failure; None if it has none."""
    failure = outcome.failure
    if failure is None or not failure.signature:
        return None
    title = f"{failure.type}: {failure.message}"
    return FailureSignature(signature=failure.signature, task=outcome.task, error=f"{failure.module}.{failure.type}",
                            title=title[:MESSAGE], frames=frames_of(failure.traceback), first=outcome.done_at,
                            last=outcome.done_at, workers=[worker], ids=[outcome.id], first_release=release,
                            releases=[release] if release else [])  # fmt: skip
