"""Scopes: what a token, or a user, may do. Each endpoint names the scope that it needs."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from celeriac.errors import ImproperlyConfigured, nearest

__all__ = ["ALL", "ROLES", "SCOPES", "SEND", "WORK", "User", "check_scopes"]

SEND: Final = "tasks:send"
WORK: Final = "leases:work"
LIMITED: Final = (SEND, WORK)  # scopes that may be followed by a pattern
ALL: Final = "admin"

SCOPES: Final = {
    SEND: "send tasks; tasks:send:mail.* only those with such names",
    "tasks:read": "search tasks, and list failures, dead letters, workflows and the types of tasks",
    "tasks:revoke": "revoke tasks, and end those that run",
    "tasks:retry": "send failed tasks again, those of a workflow too, and run scheduled ones now",
    "results:read": "read states, return values and errors",
    "results:traceback": "see tracebacks, which show paths and code of workers",
    "queues:read": "count and see waiting messages",
    "queues:write": "pause and resume queues, and move messages to another",
    "queues:purge": "delete the waiting messages of a queue",
    "dead:write": "send dead letters again, or delete them, and mark failures as resolved",
    "workers:read": "list workers",
    "workers:control": "send orders to workers, and stop them",
    "schedules:read": "list schedules",
    "schedules:write": "pause, resume and run schedules",
    "metrics:read": "read metrics, for Prometheus",
    WORK: "receive and settle tasks, as a worker does; leases:work:mail.* only from such queues",
    "stats:read": "see how many tasks ended, and how long they took",
    "audit:read": "see what operators did",
    "events:read": "follow tasks as they end",
}
"""What each scope allows."""

VIEWER: Final = tuple(scope for scope in SCOPES if scope.endswith(":read"))
ROLES: Final = {
    "viewer": VIEWER,
    "operator": (*VIEWER, "results:traceback", "tasks:revoke", "tasks:retry", "queues:write", "dead:write",
                 "schedules:write"),
    ALL: tuple(SCOPES),
}  # fmt: skip
"""Names of sets of scopes."""


class User(msgspec.Struct, frozen=True):
    """Who makes a request: a name, for limits and logs, and scopes or roles."""

    name: str
    scopes: frozenset[str] = frozenset()

    def may(self, scope: str) -> bool:
        """Return whether this user may do what a scope allows; of one with a pattern, for any name at all."""
        return any(scope == held or (scope in LIMITED and held.startswith(f"{scope}:")) for held in self._held())

    def may_send(self, task: str) -> bool:
        """Return whether this user may send a task."""
        return self._may(SEND, task)

    def may_work(self, queue: str) -> bool:
        """Return whether this user may receive from a queue."""
        return self._may(WORK, queue)

    def _may(self, scope: str, name: str) -> bool:
        return any(held == scope or (held.startswith(f"{scope}:") and fnmatchcase(name, held[len(scope) + 1 :]))
                   for held in self._held())  # fmt: skip

    def _held(self) -> Iterable[str]:
        for scope in self.scopes:
            yield from ROLES.get(scope, (scope,))


def check_scopes(scopes: Iterable[str]) -> None:
    """Raise `ImproperlyConfigured` for a scope that there is not."""
    for scope in scopes:
        limited = any(scope.startswith(f"{one}:") and scope != f"{one}:" for one in LIMITED)
        if scope not in SCOPES and scope not in ROLES and not limited:
            raise ImproperlyConfigured(f"There is no scope {scope!r}.{nearest(scope, [*SCOPES, *ROLES])} "
                                       f"Scopes: {', '.join(SCOPES)}; roles: {', '.join(ROLES)}.")  # fmt: skip
