"""The states of a task, as `AsyncResult.state` gives them. The names are Celery's."""

from __future__ import annotations

from typing import Final

__all__ = [
    "FAILURE",
    "IGNORED",
    "PENDING",
    "PROGRESS",
    "READY_STATES",
    "REPLACED",
    "RETRY",
    "REVOKED",
    "STARTED",
    "SUCCESS",
]

PENDING: Final = "PENDING"  # waiting, or unknown
STARTED: Final = "STARTED"  # recorded only with `task_track_started`
PROGRESS: Final = "PROGRESS"  # the task has reported progress
REPLACED: Final = "REPLACED"  # replaced by another task, whose outcome it will take; never stored
RETRY: Final = "RETRY"  # an attempt failed, and the next one is scheduled
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"  # revoked, terminated or expired
IGNORED: Final = "IGNORED"  # the task raised `Ignore`

READY_STATES: Final = frozenset({SUCCESS, FAILURE, REVOKED, IGNORED})
"""The final states."""
