"""Which queue a task goes to: the call's word, else `task_routes`, else the task's own, else the default."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import translate
from typing import Any

from celeriac.errors import ImproperlyConfigured

__all__ = ["Routes"]


class Routes:
    """`task_routes`, compiled: globs (or regular expressions) over task names, the first match counts.

    >>> Routes({"mail.*": "mail"}).route("mail.send")
    {'queue': 'mail'}
    """

    def __init__(self, routes: Any) -> None:
        self._rules = [_rule(pattern, target) for pattern, target in _pairs(routes)]

    def route(self, task: str) -> dict[str, Any]:
        """Return the options that the table gives to a task."""
        for pattern, options in self._rules:
            if pattern.fullmatch(task):
                return options
        return {}

    def queues(self) -> set[str]:
        """Return every queue that the table names."""
        return {options["queue"] for _, options in self._rules if "queue" in options}


def _pairs(routes: Any) -> Iterable[tuple[Any, Any]]:
    if routes is None:
        return []
    if isinstance(routes, Mapping):
        return routes.items()
    if isinstance(routes, Iterable) and not isinstance(routes, str):
        pairs: list[tuple[Any, Any]] = []
        for entry in routes:
            if isinstance(entry, Mapping):
                pairs += entry.items()
            elif isinstance(entry, list | tuple) and len(entry) == 2:
                pairs.append((entry[0], entry[1]))
            else:
                raise ImproperlyConfigured(f"task_routes: a rule is a pair (pattern, target), not {entry!r}.")
        return pairs
    raise ImproperlyConfigured(f"task_routes takes {{'mail.*': 'mail'}} or a list of pairs, not {routes!r}.")


def _rule(pattern: Any, target: Any) -> tuple[re.Pattern[str], dict[str, Any]]:
    options = {"queue": target} if isinstance(target, str) else target
    wrong = not isinstance(options, Mapping) or set(options) - {"queue", "priority"}
    if wrong or not isinstance(pattern, str | re.Pattern):
        raise ImproperlyConfigured(
            f"task_routes: {pattern!r} → {target!r}: a route is a queue's name, or {{'queue': …, 'priority': …}}."
        )
    compiled = pattern if isinstance(pattern, re.Pattern) else re.compile(translate(pattern))
    return compiled, dict(options)
