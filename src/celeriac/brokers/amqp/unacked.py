"""What a lease holds: deliveries that are not settled yet, by their tags on the connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from celeriac.drivers.amqp.frames import acknowledge
from celeriac.drivers.amqp.topology import Line
from celeriac.ports.broker import Delivery

__all__ = ["Held", "Unacked"]


class Held:
    """A delivery that is not settled yet."""

    __slots__ = ("again", "consumer_tag", "count", "delivery", "heard", "line", "tag")

    def __init__(self, tag: int, line: Line, consumer_tag: str, delivery: Delivery, count: int, again: bool,
                 heard: float) -> None:  # fmt: skip
        self.tag = tag
        self.line = line
        self.consumer_tag = consumer_tag
        self.delivery = delivery
        self.count = count  # deliveries before this one
        self.again = again
        self.heard = heard  # by the monotonic clock


class Unacked:
    """All that is held."""

    def __init__(self, lease: str) -> None:
        self._lease = lease
        self._held: dict[int, Held] = {}

    def token(self, tag: int) -> str:
        """Return the token of a delivery."""
        return f"{self._lease}:{tag}"

    def add(self, held: Held) -> None:
        """Hold a delivery."""
        self._held[held.tag] = held

    def of(self, token: str) -> Held | None:
        """Return what a token stands for; None if it is stale."""
        name, _, tag = token.partition(":")
        if name != self._lease or not tag.isdigit():
            return None
        return self._held.get(int(tag))

    def all(self) -> list[Held]:
        """Return what is held, the oldest first."""
        return list(self._held.values())

    def by_queue(self) -> dict[str, int]:
        """Return how many are held of each queue."""
        return dict(Counter([held.line.queue for held in self._held.values()]))

    def drop(self, settled: Sequence[Held], channel: int) -> tuple[list[Held], bytes]:
        """Hold no more what is settled; return what of it was held, and the acknowledgements for the server.

        Many are acknowledged at once where nothing older is held.
        """
        dropped = [held for held in settled if self._held.pop(held.tag, None) is not None]
        oldest = min(self._held, default=None)
        tags = sorted(held.tag for held in settled)
        upto = len(tags) if oldest is None else next((i for i, tag in enumerate(tags) if tag > oldest), len(tags))
        parts = [acknowledge(channel, tags[upto - 1], multiple=True)] if upto else []
        parts += [acknowledge(channel, tag, multiple=False) for tag in tags[upto:]]
        return dropped, b"".join(parts)

    def clear(self) -> None:
        """Hold nothing: the server has taken all back."""
        self._held.clear()
