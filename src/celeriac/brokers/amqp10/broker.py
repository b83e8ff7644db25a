"""The broker of `amqp10://` URLs: a queue server that is reached by AMQP 1.0."""

from __future__ import annotations

from celeriac.brokers.amqp10.transport import Amqp10Transport
from celeriac.brokers.queue_server import QueueServerBroker
from celeriac.drivers.amqp10.server import Server
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["Amqp10Broker", "connect"]


class Amqp10Broker(QueueServerBroker):
    """Messages in the queues of a server of AMQP 1.0."""

    def __init__(self, server: Server, clock: Clock) -> None:
        super().__init__(Amqp10Transport(server), clock)
        self.server = server


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac") -> Amqp10Broker:  # fmt: skip
    """Return the broker of an `amqp10://` URL."""
    return Amqp10Broker(Server.shared(url, prefix, timeout, codec), clock)
