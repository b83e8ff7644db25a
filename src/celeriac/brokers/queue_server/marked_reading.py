"""Reads the journal up to a mark: where the server passes a queue to one consumer, and to the next one after it.

The reader sends a mark of its own when it begins, which comes after all that it has to read. What follows the mark, its
follower is sent as well. `brokers/amqp` and `brokers/stomp` consume, put back and acknowledge.
"""

from __future__ import annotations

import asyncio
import time
from typing import Generic, Protocol, TypeVar

from celeriac.brokers.queue_server.transport import Keep
from celeriac.model.message import new_id

__all__ = ["MARK", "MarkedReading"]

MARK = b"mark "
MARK_SECONDS = 3600  # after which the reader that has sent a mark is surely gone


class _Message(Protocol):
    """A message, as the protocol has it."""

    @property
    def body(self) -> bytes:
        """An entry, or a mark."""


Message = TypeVar("Message", bound=_Message)


class MarkedReading(Generic[Message]):
    """What one reader has received."""

    def __init__(self) -> None:
        self._now = int(time.time())
        self.mark = MARK + f"{self._now + MARK_SECONDS} {new_id()}".encode()  # to be sent to the journal's queue
        self._found: list[Message] = []
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, message: Message) -> None:
        """Note a message, which the server has pushed."""
        self._found.append(message)
        if message.body == self.mark and not self._ended.done():
            self._ended.set_result(None)

    def fail(self, error: Exception) -> None:
        """Note that the mark will not come."""
        if not self._ended.done():
            self._ended.set_exception(error)
            self._ended.exception()  # retrieved, for the reader may fail elsewhere first

    async def obsolete(self, keep: Keep) -> list[Message]:
        """Wait for the mark, pass all entries to `keep`, and return the messages that are not to be put back."""
        await self._ended
        kept = iter(keep([message.body for message in self._found if not message.body.startswith(MARK)]))
        return [
            message for message in self._found
            if not (self._is_waited_for(message.body) if message.body.startswith(MARK) else next(kept))
        ]  # fmt: skip

    def _is_waited_for(self, mark: bytes) -> bool:
        """Say whether another reader may wait for its mark."""
        until = mark.removeprefix(MARK).partition(b" ")[0]
        in_time = len(until) < 20 and until.isdigit() and self._now < int(until) <= self._now + 2 * MARK_SECONDS
        return in_time and mark != self.mark
