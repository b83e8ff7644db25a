"""Overrides of `apply_async` in task classes, in workflows.

A workflow is laid out before it is sent, so its messages are made without sending them. A task whose class overrides
`apply_async` makes them by calling it: what it adds to the call (headers, a queue, arguments) is in the message. An
override that sends nothing, or sends later, cannot be part of a workflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from msgspec.structs import replace

from celeriac.errors import WorkflowError
from celeriac.model.message import Message
from celeriac.tasks.protocols import AnyTask

__all__ = ["OverridingTemplate", "capturing"]


class OverridingTemplate:
    """Makes the messages of a task whose class overrides `apply_async`, for workflows."""

    def __init__(self, task: AnyTask) -> None:
        self.task = task
        self.made: list[Message] = []

    def message(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any] | None = None, *,
                group_id: str | None = None) -> Message:  # fmt: skip
        """Return the message that `apply_async` would send. Raises `WorkflowError` if it would not send one."""
        self.made.clear()
        token = capturing.set(self)
        try:
            self.task.apply_async(args, kwargs, **(options or {}))
        finally:
            capturing.reset(token)
        if len(self.made) != 1:
            raise WorkflowError(
                f"{self.task.name} cannot be part of a workflow: the override of apply_async in "
                f"{type(self.task).__qualname__} called super().apply_async {len(self.made)} times, and must do so "
                "once, before it returns. Send the task by itself, or connect to signals.before_task_publish instead."
            )
        [message] = self.made
        return message if group_id is None else replace(message, group_id=group_id)


capturing: ContextVar[OverridingTemplate | None] = ContextVar("celeriac_capturing", default=None)
"""Who wants the message that `Task.apply_async` makes, instead of having it sent."""
