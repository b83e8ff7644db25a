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
PROGRESS: Final = "PROGRESS"  # the task told how far it is
REPLACED: Final = "REPLACED"  # the task was replaced by another, whose end will be its own; never stored
RETRY: Final = "RETRY"  # an attempt failed, and the next one is scheduled
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"  # revoked or expired before it could end by itself
IGNORED: Final = "IGNORED"  # the task raised `Ignore`

READY_STATES: Final = frozenset({SUCCESS, FAILURE, REVOKED, IGNORED})
"""The states after which nothing more happens."""
