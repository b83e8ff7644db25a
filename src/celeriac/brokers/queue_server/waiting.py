"""Looks at messages that wait in a store, withdraws them, and sends them before they are due, for front ends.

Where the server holds what waits, there is no store, and nothing to be found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec.structs import replace

from celeriac.brokers.queue_server.delays import as_broker_error
from celeriac.brokers.queue_server.envelope import Envelope
from celeriac.brokers.queue_server.sender import Sender
from celeriac.errors import BackendError, NotSupported
from celeriac.model.message import Message
from celeriac.ports.delays import Counts, DelayStore, Taken
from celeriac.ports.operations import First, now_due

__all__ = ["WaitingMessages"]

HOLD_SECONDS = 60.0  # for which messages are held that are about to be sent or deleted
AT_ONCE = 500  # messages that are taken together


class WaitingMessages:
    """The messages in the store of one broker, if it uses one."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._delays = sender.delays

    async def store(self) -> DelayStore | None:
        """Return the store; None if the server holds what waits."""
        try:
            return await self._delays.astore()
        except NotSupported:  # nothing can wait
            return None

    async def counts(self) -> dict[str, Counts]:
        """Count the messages of each queue that has some."""
        store = await self.store()
        if store is None:
            return {}
        with _translated():
            return await store.counts()

    async def page(self, queue: str | None, due: bool, limit: int, offset: int = 0) -> list[Message]:
        """Return messages, the soonest first: those that are due and have not been moved yet, or the others."""
        store = await self.store()
        if store is None or limit <= 0:
            return []
        with _translated():
            return [self._delays.shown(one) for one in await store.page(queue, due, limit, offset)]

    async def withdraw(self, queue: str, limit: int, first: First | None) -> list[Message]:
        """Delete up to `limit` messages of a queue, and return them, as `Operations.withdraw` does."""
        store = await self.store()
        if store is None or limit <= 0:
            return []
        with _translated():
            taken = await store.take_from(queue, limit, HOLD_SECONDS)
            messages = [self._delays.shown(one) for one in taken]
            if first is not None and messages:
                try:
                    await first(messages)
                except BaseException:
                    await store.release(taken)
                    raise
            removed = await store.remove(taken)
        return [message for message, gone in zip(messages, removed, strict=True) if gone]

    async def send(self, ids: Sequence[str], anew: bool) -> int:
        """Send messages to their lines before they are due; return how many there were.

        Without `anew` they stay as they are: a worker that knows no reason to end one lets it wait on.
        """
        store = await self.store()
        count = 0
        if store is not None:
            wanted = list(dict.fromkeys(ids))
            for start in range(0, len(wanted), AT_ONCE):
                with _translated():
                    count += await self._send(store, wanted[start : start + AT_ONCE], anew)
        return count

    async def _send(self, store: DelayStore, ids: Sequence[str], anew: bool) -> int:
        taken = await store.take(ids, HOLD_SECONDS)
        found: list[tuple[Taken, Envelope]] = []
        for one in taken:
            try:
                found.append((one, self._delays.read(one)))
            except ValueError:  # whoever moves it when it is due makes a dead letter of it
                await store.release([one])
        change = now_due if anew else _as_instant
        try:
            await self._sender.send([item._replace(message=change(item.message)) for _, item in found])
        except BaseException:
            await store.release([one for one, _ in found])
            raise
        return sum(await store.remove([one for one, _ in found]))


def _as_instant(message: Message) -> Message:
    """Return a message whose time is compared with clocks: one with a countdown counts as having waited."""
    return message if message.countdown is None else replace(message, countdown=None)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except BackendError as error:
        raise as_broker_error(error) from error
