"""Dramatiq on RabbitMQ with pika and publisher confirms (`confirm_delivery`); it cannot store results in RabbitMQ."""

from __future__ import annotations

from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.peers.dramatiq_family import SETTINGS, DramatiqPeer
from benchmarks.peers.rabbitmq_peer import URL, RabbitMQPeer


class DramatiqRabbitMQ(DramatiqPeer, RabbitMQPeer):
    """With the settings that the issue requires."""

    packages = ("dramatiq", "pika")
    settings = f"{SETTINGS}; durable messages, confirmed (confirm_delivery); measured by messages not pushed"
    pace = 4_000
    queue = "default"


PEER = DramatiqRabbitMQ(__name__, RabbitmqBroker(url=URL, confirm_delivery=True))
