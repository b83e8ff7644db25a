"""The broker of `stomp://` URLs: a queue server that is reached by STOMP 1.2."""

from __future__ import annotations

from celeriac.brokers.queue_server import QueueServerBroker
from celeriac.brokers.stomp.transport import StompTransport
from celeriac.drivers.stomp.server import Server
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["StompBroker", "connect"]


class StompBroker(QueueServerBroker):
    """Messages in the queues of a STOMP server."""

    def __init__(self, server: Server, clock: Clock) -> None:
        super().__init__(StompTransport(server, clock), clock)
        self.server = server


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac") -> StompBroker:  # fmt: skip
    """Return the broker of a `stomp://` URL."""
    return StompBroker(Server.shared(url, prefix, timeout, codec), clock)
