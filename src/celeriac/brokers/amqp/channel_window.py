"""The window of a channel, where the server has none for each consumer (Qpid Broker-J)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

__all__ = ["ChannelWindow"]


class ChannelWindow:
    """As wide as all consumers together want, and as the unsettled messages of those that have ended.

    A consumer may get more than its part: what its worker has no room for goes back, as after any shrinking window.
    """

    def __init__(self, ask: Callable[[int], object]) -> None:
        self._ask = ask  # the server for a window
        self._wanted: dict[str, int] = {}  # by consumer tag
        self._held: dict[int, str] = {}  # the consumer of each unsettled message
        self._counts: Counter[str] = Counter()  # how many each consumer has
        self._orphans = 0  # unsettled messages of consumers that have ended
        self._size = 0

    @property
    def size(self) -> int:
        """How many messages of the channel may be unsettled; never 0, which means no limit."""
        return max(1, sum(self._wanted.values()) + self._orphans)

    def held(self, address: str) -> int:
        """Return how many messages of a queue are unsettled."""
        return sum(count for tag, count in self._counts.items() if tag.rpartition("#")[0] == address)

    def open(self, consumer_tag: str, window: int) -> None:
        """Make room for a consumer."""
        self._wanted[consumer_tag] = window
        self._fit()

    def close(self, consumer_tag: str) -> None:
        """Take back the room of a consumer that has ended, but for what it holds."""
        if self._wanted.pop(consumer_tag, None) is not None:
            self._orphans += self._counts[consumer_tag]
            self._fit()

    def pushed(self, tag: int, consumer_tag: str) -> None:
        """Note a message; more of them may be on their way."""
        self._held[tag] = consumer_tag
        self._counts[consumer_tag] += 1
        self._orphans += consumer_tag not in self._wanted

    def settled(self, tags: Sequence[int]) -> None:
        """Note what was acknowledged."""
        for tag in tags:
            consumer_tag = self._held.pop(tag, None)
            if consumer_tag is not None:
                self._counts[consumer_tag] -= 1
                self._orphans -= consumer_tag not in self._wanted
        self._counts = +self._counts
        self._fit()

    def _fit(self) -> None:
        if self.size != self._size:
            self._size = self.size
            self._ask(self._size)
