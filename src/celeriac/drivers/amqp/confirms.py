"""Which publications the server has taken. No I/O: both transports use this."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from celeriac.drivers.amqp.frames import Confirmed, Content, Publication

__all__ = ["Batch", "Confirms"]


class Batch:
    """Publications that were sent together."""

    __slots__ = ("done", "items", "left", "refused", "returned")

    def __init__(self, items: Sequence[Publication], done: Callable[[], object] | None) -> None:
        self.items = items
        self.left = len(items)
        self.refused = 0
        self.returned: list[Publication] = []
        self.done = done


class Confirms:
    """The publications of a channel that wait for their confirms, by tag."""

    def __init__(self) -> None:
        self._tag = 0
        self._first = 1  # none below waits
        self._waiting: dict[int, Batch] = {}

    def sent(self, items: Sequence[Publication], done: Callable[[], object] | None = None) -> Batch:
        """Take note of what is sent now; `done` is called when all of it is confirmed."""
        batch = Batch(items, done)
        for _ in items:
            self._tag += 1
            self._waiting[self._tag] = batch
        return batch

    def heard(self, event: Confirmed) -> None:
        """Take note of a confirm."""
        if not event.multiple:
            batch = self._waiting.pop(event.tag, None)
            if batch is not None:
                self._count(batch, event.good)
            return
        for tag in range(self._first, event.tag + 1):
            batch = self._waiting.pop(tag, None)
            if batch is not None:
                self._count(batch, event.good)
        self._first = event.tag + 1

    def returned(self, content: Content) -> None:
        """Take note of an unroutable one; the server says so before it confirms it."""
        for batch in dict.fromkeys(self._waiting.values()):
            for item in batch.items:
                if item.body == content.body and item.routing_key == content.routing_key:
                    batch.returned.append(item)
                    return

    def _count(self, batch: Batch, good: bool) -> None:
        batch.left -= 1
        batch.refused += not good
        if not batch.left and batch.done is not None:
            batch.done()
