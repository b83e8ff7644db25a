"""`task_routes`: the queue and priority that the configuration gives to tasks by name.

`MessageTemplate` asks for them once per task. An option of the call comes first, then the route, then the task's own
option, then the default. The settings compile the table too, to check it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import translate
from typing import Any

from celeriac.errors import ImproperlyConfigured

__all__ = ["Routes"]


class Routes:
    """`task_routes`, compiled: globs or regular expressions over task names. The first match counts.

    >>> Routes({"mail.*": "mail"}).route("mail.send")
    {'queue': 'mail'}
    """

    def __init__(self, routes: Any) -> None:
        self._rules = [_rule(pattern, target) for pattern, target in _pairs(routes)]

    def route(self, task: str) -> dict[str, Any]:
        """Return the options of the first rule that matches a task, or an empty dict."""
        for pattern, options in self._rules:
            if pattern.fullmatch(task):
                return options
        return {}

    def queues(self) -> set[str]:
        """Return every queue that a rule names."""
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
                raise ImproperlyConfigured(f"task_routes: a rule must be a pair (pattern, target), not {entry!r}.")
        return pairs
    raise ImproperlyConfigured(f"task_routes must be {{'mail.*': 'mail'}} or a list of pairs, not {routes!r}.")


def _rule(pattern: Any, target: Any) -> tuple[re.Pattern[str], dict[str, Any]]:
    options = {"queue": target} if isinstance(target, str) else target
    wrong = not isinstance(options, Mapping) or set(options) - {"queue", "priority"}
    if wrong or not isinstance(pattern, str | re.Pattern):
        raise ImproperlyConfigured(
            f"task_routes: {pattern!r} → {target!r}: a route must be a queue's name or {{'queue': …, 'priority': …}}."
        )
    compiled = pattern if isinstance(pattern, re.Pattern) else re.compile(translate(pattern))
    return compiled, dict(options)
