"""Celeriac on RabbitMQ."""

from __future__ import annotations

from benchmarks.peers.celeriac_family import CeleriacPeer
from benchmarks.peers.rabbitmq_peer import URL, RabbitMQPeer


class CeleriacRabbitMQ(CeleriacPeer, RabbitMQPeer):
    """With default settings."""

    packages = ("celeriac", "uvloop", "pamqp")
    settings = ("defaults: durable messages, confirmed; at least once, acknowledged late; measured by messages not "
                "pushed")  # fmt: skip
    pace = 15_000
    queue = "default"


PEER = CeleriacRabbitMQ(__name__, URL)
app = PEER.app
