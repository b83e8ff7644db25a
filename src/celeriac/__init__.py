"""Celeriac: a distributed task queue for Python.

    from celeriac import Celeriac

    app = Celeriac("shop")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(2, 2).get()  # while `celeriac -A shop worker` runs
"""

from typing import TYPE_CHECKING

from celeriac import errors, signals, states
from celeriac.__about__ import VERSION
from celeriac.app.app import Celeriac
from celeriac.config.settings import Settings
from celeriac.errors import (
    CeleriacError,
    Ignore,
    Reject,
    RemoteError,
    ResultTimeout,
    Retry,
    SoftTimeLimitExceeded,
    TaskRevoked,
    TimeLimitExceeded,
    WorkerLost,
)
from celeriac.lazy import lazy_names
from celeriac.tasks.request import Request, current_request
from celeriac.tasks.result import AsyncResult
from celeriac.tasks.shared import current_app, shared_task
from celeriac.tasks.signature import Signature
from celeriac.tasks.task import Task

if TYPE_CHECKING:
    from celeriac.canvas.chain import chain
    from celeriac.canvas.chord import chord
    from celeriac.canvas.functions import chunks, signature, xmap, xstarmap
    from celeriac.canvas.group import group
    from celeriac.canvas.group_result import GroupResult
    from celeriac.canvas.workflow import Workflow
    from celeriac.logs import get_task_logger
    from celeriac.schedules import at, cron, crontab, every, solar
else:  # imported when they are first used: a program that only sends tasks starts faster
    __getattr__, __dir__ = lazy_names(
        globals(),
        {
            "celeriac.canvas.chain": ["chain"],
            "celeriac.canvas.chord": ["chord"],
            "celeriac.canvas.functions": ["chunks", "signature", "xmap", "xstarmap"],
            "celeriac.canvas.group": ["group"],
            "celeriac.canvas.group_result": ["GroupResult"],
            "celeriac.canvas.workflow": ["Workflow"],
            "celeriac.logs": ["get_task_logger"],
            "celeriac.schedules": ["at", "cron", "crontab", "every", "solar"],
        },
    )

__version__ = VERSION

__all__ = [
    "AsyncResult",
    "Celeriac",
    "CeleriacError",
    "GroupResult",
    "Ignore",
    "Reject",
    "RemoteError",
    "Request",
    "ResultTimeout",
    "Retry",
    "Settings",
    "Signature",
    "SoftTimeLimitExceeded",
    "Task",
    "TaskRevoked",
    "TimeLimitExceeded",
    "WorkerLost",
    "Workflow",
    "__version__",
    "at",
    "chain",
    "chord",
    "chunks",
    "cron",
    "crontab",
    "current_app",
    "current_request",
    "errors",
    "every",
    "get_task_logger",
    "group",
    "shared_task",
    "signals",
    "signature",
    "solar",
    "states",
    "xmap",
    "xstarmap",
]
