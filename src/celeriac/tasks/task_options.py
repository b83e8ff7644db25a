"""The options of a task as its attributes: `self.max_retries`, and `max_retries = 5` in the body of a task class.

`options` of a task has those that were given; an attribute also knows the default. Setting an attribute is checked as
an option is, and applies to the messages and retries that follow.
"""

from __future__ import annotations

import inspect
from typing import Any

from celeriac.model.options import TASK_OPTIONS, check_task

__all__ = ["Option", "declare_options", "declared_options", "given_options"]

SETTINGS = {
    "acks_late": "task_acks_late",
    "ignore_result": "task_ignore_result",
    "max_retries": "task_max_retries",
    "priority": "task_default_priority",
    "queue": "task_default_queue",
    "rate_limit": "task_default_rate_limit",
    "serializer": "task_serializer",
    "soft_time_limit": "task_soft_time_limit",
    "time_limit": "task_time_limit",
    "track_started": "task_track_started",
}
"""The settings that are the defaults of options, by option."""

DEFAULTS: dict[str, Any] = {
    "autoretry_for": (),
    "dont_autoretry_for": (),
    "retry_backoff": True,
    "retry_backoff_max": 600.0,
    "retry_jitter": True,
    "typing": True,
    "mail": True,
}
"""The defaults of options without a setting. For those that are not here, the default is None."""


class Option:
    """An attribute that is an option of the task."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, task: Any, owner: type) -> Any:
        if task is None:
            return declared_options(owner).get(self._name, self)
        if self._name in (given := given_options(task)):
            return given[self._name]
        if not task.is_registered or self._name not in SETTINGS:
            return DEFAULTS.get(self._name)
        return getattr(task.app.conf, SETTINGS[self._name])

    def __set__(self, task: Any, value: Any) -> None:
        given = check_task({**given_options(task), self._name: value})
        if task.is_registered:
            task.options = given
            task.options_changed()
        else:
            task.early_options = given


OPTIONS = {name: Option(name) for name in TASK_OPTIONS}


def declare_options(kind: Any) -> None:
    """Make options of the class attributes of a task class that have the name of one."""
    kind.declared = {}
    for name, option in OPTIONS.items():
        found = inspect.getattr_static(kind, name, option)
        if found is not option:
            kind.declared[name] = found
        setattr(kind, name, option)


def declared_options(kind: type) -> dict[str, Any]:
    """Return the options that a task class and its bases declare."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        found |= vars(base).get("declared", {})
    return found


def given_options(task: Any) -> dict[str, Any]:
    """Return the options that a task was given: by its class, its constructor and its decorator."""
    if task.is_registered:
        given: dict[str, Any] = task.options
        return given
    return {**declared_options(type(task)), **task.early_options}
