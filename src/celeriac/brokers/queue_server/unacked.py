"""The deliveries of a lease that are not settled yet, by their tags on the connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from celeriac.brokers.queue_server.consumer import Held

__all__ = ["Unacked"]


class Unacked:
    """All deliveries of one lease. A token is `lease:tag`."""

    def __init__(self, lease: str) -> None:
        self._lease = lease
        self._held: dict[int, Held] = {}  # in the order of tags

    def token(self, tag: int) -> str:
        """Return the token of a delivery."""
        return f"{self._lease}:{tag}"

    def add(self, held: Held) -> None:
        """Hold a delivery."""
        self._held[held.tag] = held

    def of(self, token: str) -> Held | None:
        """Return the delivery of a token; None if it is stale."""
        name, _, tag = token.partition(":")
        if name != self._lease or not tag.isdecimal() or len(tag) > 20:
            return None
        return self._held.get(int(tag))

    def all(self) -> list[Held]:
        """Return all deliveries, the oldest first."""
        return list(self._held.values())

    def by_queue(self) -> dict[str, int]:
        """Return the number of deliveries of each queue."""
        return dict(Counter([held.consumer.line.queue for held in self._held.values()]))

    def drop(self, settled: Sequence[Held]) -> list[Held]:
        """Remove deliveries that are settled; return those of them that were held."""
        return [held for held in settled if self._held.pop(held.tag, None) is not None]

    @property
    def oldest(self) -> int | None:
        """The lowest tag; None if there is no delivery."""
        return next(iter(self._held), None)

    def clear(self) -> None:
        """Remove all: the server has taken them back."""
        self._held.clear()
