"""Dramatiq on RabbitMQ by pika, with publisher confirms (`confirm_delivery`); it keeps no results there."""

from __future__ import annotations

from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.peers.dramatiq_family import SETTINGS, DramatiqPeer
from benchmarks.peers.rabbitmq_peer import URL, RabbitMQPeer


class DramatiqRabbitMQ(DramatiqPeer, RabbitMQPeer):
    """As the issue sets it."""

    packages = ("dramatiq", "pika")
    settings = f"{SETTINGS}; durable messages, confirmed (confirm_delivery); measured by messages not pushed"
    pace = 4_000
    queue = "default"


PEER = DramatiqRabbitMQ(__name__, RabbitmqBroker(url=URL, confirm_delivery=True))
