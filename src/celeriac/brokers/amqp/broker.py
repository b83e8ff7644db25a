"""The broker of `amqp://` URLs: a queue server that is reached by AMQP 0-9-1."""

from __future__ import annotations

from celeriac.brokers.amqp.transport import AmqpTransport
from celeriac.brokers.queue_server import QueueServerBroker
from celeriac.drivers.amqp.server import Server
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["AmqpBroker", "connect"]


class AmqpBroker(QueueServerBroker):
    """Messages in AMQP queues."""

    def __init__(self, server: Server, clock: Clock) -> None:
        super().__init__(AmqpTransport(server), clock)
        self.server = server


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac", queue_type: str = "auto") -> AmqpBroker:  # fmt: skip
    """Return the broker of an `amqp://` URL."""
    return AmqpBroker(Server.shared(url, prefix, queue_type, timeout, codec), clock)
