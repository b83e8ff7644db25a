"""Base class of the contenders on RabbitMQ.

A passive queue declaration returns the number of waiting messages, exactly and cheaply. Messages that were pushed to a
worker are not included, and so count as ended. Therefore the first tenth of a drain is not timed, and the rest is long
enough to make them negligible. The management plug-in reports them, too, but with a delay, and collecting them costs
time.
"""

from __future__ import annotations

import os
from typing import ClassVar

import pika  # type: ignore[import-untyped]
from pika.adapters.blocking_connection import BlockingChannel  # type: ignore[import-untyped]

from benchmarks.peers.base import RABBITMQ_VARIABLE
from benchmarks.peers.server_peer import ServerPeer

__all__ = ["URL", "RabbitMQPeer"]

URL = os.environ.get(RABBITMQ_VARIABLE, "amqp://guest:guest@127.0.0.1:5672/%2F")


class RabbitMQPeer(ServerPeer):
    """A contender on RabbitMQ."""

    queue: ClassVar[str]  # the queue of its messages
    lead = 0.1  # many messages are pushed to a worker before it starts the first
    _channel: BlockingChannel | None = None

    def waiting(self) -> int:
        if self._channel is None:
            self._channel = pika.BlockingConnection(pika.URLParameters(URL)).channel()
        count: int = self._channel.queue_declare(self.queue, passive=True).method.message_count
        return count
