"""The channels in which a worker consumes: one, and earlier ones whose messages are not all settled yet.

A quorum queue sends a message to the node of its consumer. If its leader changes at that moment, the message can be
lost on the way: the queue waits for an acknowledgement from a consumer that has never seen it, until that consumer's
channel is closed (seen with RabbitMQ 3.10). So a worker of a cluster begins to consume in another channel now and then,
and closes the earlier one as soon as it holds nothing.

The server numbers the messages of each channel. Here, tags are numbers of the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from celeriac.drivers.amqp.aio import Channel
from celeriac.drivers.amqp.frames import Content, acknowledge

__all__ = ["WorkChannel", "parted"]

SPAN: Final = 1 << 40  # tags of a channel, at most


class WorkChannel:
    """A channel that consumes."""

    def __init__(self, channel: Channel, number: int) -> None:
        self.channel = channel
        self.number = number  # among the channels of its connection
        self.held = 0  # messages that are not acknowledged
        self.is_over = False  # nothing is pushed any more
        self._base = number * SPAN

    def listen(self, delivered: Callable[[Content], None], cancelled: Callable[[str], None],
               failed: Callable[[Exception], None]) -> None:  # fmt: skip
        """Call these with messages, with consumers that the server has ended, and when the channel fails."""

        def pushed(content: Content) -> None:
            content.tag += self._base
            self.held += 1
            delivered(content)

        self.channel.on_content = pushed
        self.channel.on_cancel = cancelled
        self.channel.on_failure = failed

    def acknowledge(self, tags: Sequence[int], oldest: int | None) -> None:
        """Acknowledge messages, sorted. Those before `oldest`, or all, are the lowest that are not acknowledged."""
        number, base = self.channel.number, self._base
        upto = len(tags) if oldest is None else next((i for i, tag in enumerate(tags) if tag > oldest), len(tags))
        parts = [acknowledge(number, tags[upto - 1] - base, multiple=True)] if upto else []
        parts += [acknowledge(number, tag - base, multiple=False) for tag in tags[upto:]]
        self.channel.tell(b"".join(parts))
        self.held -= len(tags)
        self.close_if_done()

    def close_if_done(self) -> None:
        """Close it, if it is over and holds nothing: the queue takes back what it believes to be held here."""
        if self.is_over and not self.held:
            self.channel.close()
            self.channel.on_content = None


def parted(tags: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield sorted tags by the number of their channel."""
    start = 0
    while start < len(tags):
        number = tags[start] // SPAN
        end = start + 1
        while end < len(tags) and tags[end] // SPAN == number:
            end += 1
        yield number, tags[start:end]
        start = end
