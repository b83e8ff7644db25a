"""What the contenders on RabbitMQ have in common.

What the broker holds is asked for by declaring the queue passively: exact at that moment, and cheap. It tells the
messages that were not pushed to a worker yet. Those in workers' hands count as ended: so the first tenth of a drain is
not timed, and the rest is long enough for them not to matter. The management plug-in would tell them, too, but late,
and not for nothing: it collects meanwhile.
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

    queue: ClassVar[str]  # where its messages wait
    lead = 0.1  # much is pushed to a worker before it begins with the first
    _channel: BlockingChannel | None = None

    def waiting(self) -> int:
        if self._channel is None:
            self._channel = pika.BlockingConnection(pika.URLParameters(URL)).channel()
        count: int = self._channel.queue_declare(self.queue, passive=True).method.message_count
        return count
