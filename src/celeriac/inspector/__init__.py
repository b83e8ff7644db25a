"""Inspect and operate a running system. All front ends (command, web) go through `Inspector`.

`looking.py` is the half of it that looks, `changing.py` the half that changes; `views.py` is what they return.
`facts.py` gathers what is known of one task, and `explaining.py` tells from it why that does not run.
"""

from celeriac.inspector.changing import Inspector, Retried
from celeriac.inspector.explanation import Explanation, Reason
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
    "Explanation",
    "Inspector",
    "Pool",
    "Reason",
    "ReservedTask",
    "Retried",
    "TaskStats",
    "TaskView",
    "WorkerLoad",
    "WorkerStats",
]
