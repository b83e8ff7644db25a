"""What the contenders on a server have in common, whichever server it is.

How far a worker is, is seen from outside, alike for all: by what the broker holds, asked seldom and at a low price.
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
        """Send a message for each argument, one after the other, the way its users do."""

    def in_bulk(self, arguments: Iterable[Any]) -> None:
        """Send a message for each argument by the fastest way that it offers."""
        self.one_by_one(arguments)

    def send(self, count: int) -> None:
        self.one_by_one(range(count))

    def send_many(self, count: int) -> None:
        self.in_bulk(range(count))

    def send_text(self, count: int, text: str) -> None:
        self.in_bulk([text] * count)

    def completed(self) -> int:
        """Return how many have ended since this was first asked."""
        waiting = self.waiting()
        if self._base is None:
            self._base = waiting
        return self._base - waiting
