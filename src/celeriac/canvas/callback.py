"""What an error callback is called with.

Celery has two forms of it, and so has this: `callback(failed_id)`, and `callback(request, exc, traceback)`. Which one a
task has is known where it is run, so that is where it is decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeriac.context import Request
from celeriac.message import Failed, Message

if TYPE_CHECKING:
    from celeriac.task import Task

__all__ = ["told"]


def told(failed: Failed, task: Task[Any, Any], args: list[Any]) -> list[Any]:
    """Return what stands before the arguments of an error callback: three things where it takes so many more."""
    if not task.arguments.takes(len(args) + 3):
        return [failed.id]
    message = Message(id=failed.id, task=failed.task, attempt=failed.attempt, group_id=failed.group_id,
                      parent_id=failed.parent_id, root_id=failed.root_id)  # fmt: skip
    return [Request(message, task, [], {}), failed.failure.exception(), failed.failure.traceback]
