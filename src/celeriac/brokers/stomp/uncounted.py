"""Keeps messages from counting as lost that the server takes back although no worker had received them.

STOMP says of a message that it was delivered before, and not how that ended. So whoever ends a subscription with such
messages tells all workers, through the journal, as `peek` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from celeriac.brokers.queue_server.envelope import unpack
from celeriac.brokers.queue_server.journal import LOOKED_SECONDS, Looked, writing
from celeriac.brokers.queue_server.transport import Transport
from celeriac.model.clock import Clock

__all__ = ["Uncounted"]


class Uncounted:
    """Tells workers what is not to be counted."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock

    async def note(self, bodies: Sequence[bytes]) -> None:
        """Return when the journal has it."""
        looks: dict[str, int] = {}
        for body in bodies:
            try:
                looks[unpack(body, None, self._transport.codec).message.id] = 1
            except ValueError:
                continue  # a worker puts it aside anyway
        if looks:
            entry = Looked(looks, self._clock.now() + LOOKED_SECONDS)
            await self._transport.ado(partial(writing, self._transport, [entry]))
