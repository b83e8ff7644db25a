"""Inspect and operate a running system. All front ends (command, web) go through `Inspector`.

`looking.py` is the half of it that looks, `changing.py` the half that changes; `views.py` is what they return.
"""

from celeriac.inspector.changing import Inspector, Retried
from celeriac.inspector.views import (
    ActiveTask,
    Answers,
    Child,
    Pool,
    ReservedTask,
    TaskStats,
    TaskView,
    WorkerLoad,
    WorkerStats,
)

__all__ = [
    "ActiveTask",
    "Answers",
    "Child",
    "Inspector",
    "Pool",
    "ReservedTask",
    "Retried",
    "TaskStats",
    "TaskView",
    "WorkerLoad",
    "WorkerStats",
]
