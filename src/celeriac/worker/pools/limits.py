"""Checks the time limits of a child's runs. Pure; `ProcessPool` calls it every `TICK_SECONDS` while a run needs it.

The limits of a plain child are checked only here. A coroutine child keeps its own limits; here it is only checked for a
coroutine that blocks it or ignores them.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from celeriac import states
from celeriac.errors import CeleriacError, TaskRevoked, TimeLimitExceeded
from celeriac.model.message import PLAIN
from celeriac.model.outcome import Outcome
from celeriac.worker.pools.assignment import STALL_SECONDS
from celeriac.worker.pools.child_handle import ChildHandle, SentRun

__all__ = ["TICK_SECONDS", "LimitCheck", "check_limits", "killed_outcome"]

TICK_SECONDS = 0.02  # between two checks

BLOCKED_SECONDS = 1.0  # a coroutine that goes on this long after its hard limit or termination gets its child killed


class LimitCheck(NamedTuple):
    """What the pool must do about a child."""

    stalled: float | None = None  # the first run has taken this long (seconds) and holds up others: recall those
    warn: SentRun | None = None  # past its soft limit: signal the child
    verdicts: dict[int, Outcome] = {}  # outcomes of runs past their hard limits, by index: kill the child


def check_limits(child: ChildHandle, now: float, worker: str) -> LimitCheck:
    """Return what to do about a child at this (monotonic) time."""
    return _check_plain(child, now, worker) if child.lane == PLAIN else _check_coroutines(child, now, worker)


def _check_plain(child: ChildHandle, now: float, worker: str) -> LimitCheck:
    current = child.current()
    if current is None:
        return LimitCheck()
    message, elapsed = current.delivery.message, now - current.since
    stalled = elapsed if len(child.running) > 1 and elapsed > STALL_SECONDS else None
    if message.time_limit is not None and elapsed >= message.time_limit:
        error = TimeLimitExceeded(f"The hard time limit of {message.time_limit:g} s has passed.")
        return LimitCheck(stalled, None, {current.index: killed_outcome(current, error, states.FAILURE, now, worker)})
    return LimitCheck(stalled, current if _needs_warning(current, elapsed) else None)


def _needs_warning(run: SentRun, elapsed: float) -> bool:
    """Return whether to signal a run now that its soft time limit has passed.

    A child may start a run later than it was sent, and ignores a signal that comes too early for the run. So the signal
    is repeated after pauses that double each time, and interrupts the task once.
    """
    limit = run.delivery.message.soft_time_limit
    return limit is not None and elapsed >= limit + TICK_SECONDS * (2**run.warnings - 1)


def _check_coroutines(child: ChildHandle, now: float, worker: str) -> LimitCheck:
    verdicts = {}
    for index, run in child.running.items():
        limit = run.delivery.message.time_limit
        if limit is not None and now - run.since >= limit + BLOCKED_SECONDS:
            error = TimeLimitExceeded(f"The hard time limit of {limit:g} s has passed, and the coroutine did not end.")
            verdicts[index] = killed_outcome(run, error, states.FAILURE, now, worker)
    for index, at in child.interrupted.items():
        if now - at >= BLOCKED_SECONDS:
            terminated = TaskRevoked("The task was terminated.")
            verdicts.setdefault(index, killed_outcome(child.running[index], terminated, states.REVOKED, now, worker))
    return LimitCheck(verdicts=verdicts)


def killed_outcome(run: SentRun, error: CeleriacError, state: str, now: float, worker: str) -> Outcome:
    """Return the outcome of a run whose child is killed at this (monotonic) time."""
    elapsed = now - run.since
    return Outcome.failed(run.delivery.message, error, state, time.time(), worker, elapsed)
