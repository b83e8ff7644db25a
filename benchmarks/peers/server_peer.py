"""Base class of the contenders on a server.

The progress of a worker is measured from outside, in the same way for all: by polling the number of messages in the
broker.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from benchmarks.peers.base import Peer

__all__ = ["ServerPeer"]


class ServerPeer(Peer):
    """A contender on a server."""

    _base: int | None = None

    @abstractmethod
    def one_by_one(self, arguments: Iterable[Any]) -> None:
        """Send a message for each argument, one after the other, as its users would."""

    def in_bulk(self, arguments: Iterable[Any]) -> None:
        """Send a message for each argument in the fastest way that it offers."""
        self.one_by_one(arguments)

    def send(self, count: int) -> None:
        self.one_by_one(range(count))

    def send_many(self, count: int) -> None:
        self.in_bulk(range(count))

    def send_text(self, count: int, text: str) -> None:
        self.in_bulk([text] * count)

    def completed(self) -> int:
        """Return how many tasks have ended since the first call."""
        waiting = self.waiting()
        if self._base is None:
            self._base = waiting
        return self._base - waiting
