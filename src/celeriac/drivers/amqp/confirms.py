"""Matches confirms, refusals and returns with the publications of a channel. No I/O: both connections use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from celeriac.drivers.amqp.frames import Confirmed, Content, Publication

__all__ = ["Batch", "Confirms"]


class Batch:
    """Publications that were sent together."""

    __slots__ = ("_first", "_refusal_is_return", "done", "items", "left", "refused", "returned")

    def __init__(self, items: Sequence[Publication], first: int, done: Callable[[], object] | None,
                 refusal_is_return: bool) -> None:  # fmt: skip
        self.items = items
        self.left = len(items)
        self.refused: list[Publication] = []
        self.returned: list[Publication] = []
        self.done = done
        self._first = first  # tag
        self._refusal_is_return = refusal_is_return

    def confirmed(self, tag: int, good: bool) -> None:
        """Record that the server has accepted or refused one of them."""
        self.left -= 1
        if not good:
            item = self.items[tag - self._first]
            (self.returned if self._refusal_is_return and item.mandatory else self.refused).append(item)
        if not self.left and self.done is not None:
            self.done()


class Confirms:
    """The publications of a channel that wait for their confirms, by tag.

    `refusal_is_return`: the server refuses what reaches no queue, and returns it after that.
    """

    def __init__(self, refusal_is_return: bool = False) -> None:
        self._refusal_is_return = refusal_is_return
        self._tag = 0
        self._first = 1  # the lowest tag that may wait
        self._waiting: dict[int, Batch] = {}

    def sent(self, items: Sequence[Publication], done: Callable[[], object] | None = None) -> Batch:
        """Return the batch of publications that are about to be sent; calls `done` when all are confirmed."""
        batch = Batch(items, self._tag + 1, done, self._refusal_is_return)
        for _ in items:
            self._tag += 1
            self._waiting[self._tag] = batch
        return batch

    def confirmed(self, event: Confirmed) -> None:
        """Handle a confirm or a refusal."""
        if not event.multiple:
            batch = self._waiting.pop(event.tag, None)
            if batch is not None:
                batch.confirmed(event.tag, event.good)
            return
        waiting, first, last = self._waiting, self._first, min(event.tag, self._tag)
        # Of a range that is longer than what waits, most were confirmed one by one: perhaps millions.
        tags = range(first, last + 1) if last - first < len(waiting) else [tag for tag in waiting if tag <= last]
        for tag in tags:
            batch = waiting.pop(tag, None)
            if batch is not None:
                batch.confirmed(tag, event.good)
        self._first = last + 1

    def returned(self, content: Content) -> None:
        """Handle an unroutable publication; the server returns it before it confirms it, or has refused it."""
        if self._refusal_is_return:
            return
        for batch in dict.fromkeys(self._waiting.values()):
            for item in batch.items:
                if item.body == content.body and item.routing_key == content.routing_key:
                    batch.returned.append(item)
                    return
