"""What time has brought about in a child: pure, asked every `TICK_SECONDS` while a run has a limit or waits.

A plain child is watched from here alone. A coroutine child keeps its own limits, unless a coroutine blocks it.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from celeriac import states
from celeriac.errors import CeleriacError, TaskRevoked, TimeLimitExceeded
from celeriac.model.message import PLAIN
from celeriac.model.outcome import Outcome
from celeriac.worker.pools.child_handle import ChildHandle, Sent
from celeriac.worker.pools.pace import STALL_SECONDS

__all__ = ["TICK_SECONDS", "Due", "due", "verdict"]

TICK_SECONDS = 0.02  # from one look to the next

BLOCKED_SECONDS = 1.0  # a child that has not ended a coroutine so long after its hard limit or termination is killed


class Due(NamedTuple):
    """What is to be done about a child."""

    stalled: float | None = None  # others wait behind a run that takes so long already (seconds): call them back
    warn: Sent | None = None  # past its soft limit: signal it
    verdicts: dict[int, Outcome] = {}  # past their hard limits: kill the child; this is how they ended


def due(child: ChildHandle, now: float, worker: str) -> Due:
    """Return what is due in a child at this (monotonic) time."""
    return _plain(child, now, worker) if child.lane == PLAIN else _coroutines(child, now, worker)


def _plain(child: ChildHandle, now: float, worker: str) -> Due:
    head = child.head()
    if head is None:
        return Due()
    message, elapsed = head.delivery.message, now - head.since
    stalled = elapsed if len(child.running) > 1 and elapsed > STALL_SECONDS else None
    if message.time_limit is not None and elapsed >= message.time_limit:
        error = TimeLimitExceeded(f"The hard time limit of {message.time_limit:g} s has passed.")
        return Due(stalled, None, {head.index: verdict(head, error, states.FAILURE, now, worker)})
    return Due(stalled, head if _needs_warning(head, elapsed) else None)


def _needs_warning(run: Sent, elapsed: float) -> bool:
    """Return whether a run is to be signalled that its soft time limit has passed.

    A child may begin later than it was sent its run, and takes no notice of a signal that comes too early for it: so
    the signal is repeated, after pauses each twice as long as the one before. The task is interrupted by one of them.
    """
    limit = run.delivery.message.soft_time_limit
    return limit is not None and elapsed >= limit + TICK_SECONDS * (2**run.warnings - 1)


def _coroutines(child: ChildHandle, now: float, worker: str) -> Due:
    verdicts = {}
    for index, run in child.running.items():
        limit = run.delivery.message.time_limit
        if limit is not None and now - run.since >= limit + BLOCKED_SECONDS:
            error = TimeLimitExceeded(f"The hard time limit of {limit:g} s has passed; the coroutine blocks.")
            verdicts[index] = verdict(run, error, states.FAILURE, now, worker)
    for index, at in child.interrupted.items():
        if now - at >= BLOCKED_SECONDS:
            terminated = TaskRevoked("The task was terminated.")
            verdicts.setdefault(index, verdict(child.running[index], terminated, states.REVOKED, now, worker))
    return Due(verdicts=verdicts)


def verdict(run: Sent, error: CeleriacError, state: str, now: float, worker: str) -> Outcome:
    """Return the outcome of a run that is ended from outside at this (monotonic) time."""
    elapsed = now - run.since
    return Outcome.failed(run.delivery.message, error, state, time.time(), worker, elapsed)
