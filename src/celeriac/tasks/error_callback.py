"""What an error callback is called with.

Celery has two forms of it, and so has this: `callback(failed_id)`, and `callback(request, exc, traceback)`. Which one a
task has is known where it is run, so that is where it is decided.
"""

from __future__ import annotations

from typing import Any

from celeriac.model.message import Failed, Message
from celeriac.tasks.context import Request
from celeriac.tasks.protocols import AnyTask

__all__ = ["told", "told_count"]


def told_count(task: AnyTask, count: int) -> int:
    """Return how much is put before an error callback's own arguments: three things where it takes so many more."""
    return 3 if task.arguments.takes(count + 3) else 1


def told(failed: Failed, task: AnyTask, args: list[Any]) -> list[Any]:
    """Return what stands before the arguments of an error callback."""
    if told_count(task, len(args)) == 1:
        return [failed.id]
    message = Message(id=failed.id, task=failed.task, attempt=failed.attempt, group_id=failed.group_id,
                      parent_id=failed.parent_id, root_id=failed.root_id)  # fmt: skip
    return [Request(message, task, [], {}), failed.failure.exception(), failed.failure.traceback]
