"""The servers that a process knows: one for each way to reach it, so that broker and backend share its connections."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Forgetful", "Registry"]


class Forgetful(Protocol):
    """What has connections, and can let go of them in a fork's child."""

    def forget(self) -> None:
        """Leave alone what was open when this process was forked: it is the parent's."""


S = TypeVar("S", bound=Forgetful)


class Registry(Generic[S]):
    """The servers of one kind."""

    def __init__(self, make: Callable[..., S]) -> None:
        self.inherited: list[Any] = []
        """What event loops and their threads had open when this process was forked; kept, so that nothing closes it."""
        self._make = make
        self._of: dict[tuple[Any, ...], S] = {}
        self._lock = threading.Lock()
        self._known: weakref.WeakSet[S] = weakref.WeakSet()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def know(self, server: S) -> None:
        """Have a server forget in a fork's child; each is told of as it is made."""
        self._known.add(server)

    def of(self, *key: Any) -> S:
        """Return the one server that is made with these arguments."""
        with self._lock:
            if key not in self._of:
                self._of[key] = self._make(*key)
            return self._of[key]

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        for server in list(self._known):
            server.forget()
